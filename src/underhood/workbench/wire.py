"""Frames on a pipe: one JSON header and the raw bytes of arrays. Nothing is pickled, and no frame is larger than ``LARGEST``.

8 bytes  length of the whole      4 bytes  length of the header      the header (UTF-8 JSON)      the arrays' bytes, one after the other
"""

import json
import os
import select
import time
from typing import Any

from underhood.base.errors import UnderhoodError

LARGEST = 256 * 2**20  # bytes of one frame
LARGEST_HEADER = 32 * 2**20  # bytes of its JSON, which takes many times that as objects
Blobs = list[bytes]


class Lost(BaseException):
    """The other side is gone, silent for too long, or speaks nonsense. No ``Exception``: a check must not take it for an answer."""


class Pipe:
    """Frames over two file descriptors; ``deadline`` (of ``time.monotonic``) bounds every wait."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write = read, write
        self.deadline: float | None = None
        os.set_blocking(read, False)
        os.set_blocking(write, False)

    def send(self, header: dict[str, Any], blobs: Blobs) -> None:
        """Write one frame. Raises ``Lost``."""
        head = json.dumps({**header, "sizes": [len(b) for b in blobs]}).encode()
        body = b"".join([len(head).to_bytes(4, "big"), head, *blobs])
        if len(body) > LARGEST or len(head) > LARGEST_HEADER:
            raise Lost(f"a message of {len(body):,} bytes; at most {LARGEST:,} are carried")
        view = memoryview(len(body).to_bytes(8, "big") + body)
        while view:
            self._wait(write=True)
            try:
                view = view[os.write(self.write, view) :]
            except OSError as error:
                raise Lost("the process ended") from error

    def receive(self) -> tuple[dict[str, Any], Blobs]:
        """Read one frame. Raises ``Lost``."""
        size = int.from_bytes(self._exactly(8), "big")
        if not 4 <= size <= LARGEST:
            raise Lost("the process wrote something that is no message")
        body = self._exactly(size)
        split = 4 + int.from_bytes(body[:4], "big")
        try:
            if split > min(size, LARGEST_HEADER):
                raise ValueError("header")
            header = json.loads(body[4:split])
            sizes = header.pop("sizes")
            blobs, at = [], split
            for n in map(int, sizes):
                if n < 0:
                    raise ValueError("sizes")
                blobs.append(body[at : at + n])
                at += n
            if at != size:
                raise ValueError("sizes")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
            raise Lost("the process wrote something that is no message") from error
        return header, blobs

    def _exactly(self, n: int) -> bytes:
        parts, left = [], n
        while left:
            self._wait()
            try:
                part = os.read(self.read, min(left, 2**20))
            except OSError as error:
                raise Lost("the process ended") from error
            if not part:
                raise Lost("the process ended")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _wait(self, *, write: bool = False) -> None:
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        if left == 0.0 or not any(select.select([] if write else [self.read], [self.write] if write else [], [], left)):
            raise Lost("no answer in time")


class NoPlainForm(UnderhoodError):
    """A value that cannot be carried."""
