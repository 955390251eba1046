"""Text that comes token by token: characters whole, stop strings never half shown.

A character can span tokens: bytes that only begin one are held back until the rest comes or nothing can. A stop string can span tokens, too: text that
may still become one is held back until it is or is not.
"""

import codecs
from collections.abc import Callable, Sequence

from underhood.base.errors import ConfigError
from underhood.text.tokenizer import Tokenizer


class TextStream:
    """Tokens in, whole characters out. Bytes that can never be a character become U+FFFD at once; a genuine U+FFFD is passed on at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """The characters that ``token`` completes; often all of its own, sometimes none."""
        return self._decoder.decode(_bytes_of(self.tokenizer, token))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never finished, else nothing."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Text in, text out up to the first stop string; ``found`` says that one came."""

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ConfigError("an empty stop string would stop before the first token", where="stop")
        self.stops, self.found, self._held = tuple(stops), False, ""

    def add(self, text: str) -> str:
        """What can be shown for sure: text before a stop string, or all but a tail that may become one."""
        if self.found:
            return ""
        self._held += text
        places = [(at + len(stop), at) for stop in self.stops if (at := self._held.find(stop)) >= 0]  # the first to be complete wins, then the longest
        self.found = bool(places)
        return self._release(min(places)[1] if places else len(self._held) - self._pending())

    def flush(self) -> str:
        """At the end of generation: the tail that did not become a stop string."""
        return "" if self.found else self._release(len(self._held))

    def _pending(self) -> int:
        """Length of the longest tail that some stop string starts with."""
        lengths = range(min(len(self._held), max(map(len, self.stops), default=0)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(self._held[-n:]) for stop in self.stops)), 0)

    def _release(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        return shown


def _bytes_of(tokenizer: Tokenizer, token: int) -> bytes:
    """The token's own bytes: from a byte-level tokenizer as they are, from one whose tokens are whole characters their UTF-8."""
    decode_bytes: Callable[[list[int]], bytes] | None = getattr(tokenizer, "decode_bytes", None)
    return decode_bytes([token]) if decode_bytes else tokenizer.decode([token]).encode()
