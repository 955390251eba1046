"""A person's own text: one file, or all text files of a folder, read with a bound on memory and a count of what was left out."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from underhood.base.errors import DataError, UserError
from underhood.base.files import named_os_errors

MAX_BYTES = 1 << 30  # held in memory as text; more than this belongs in shards
SNIFF_BYTES = 8192
BINARY = frozenset(
    [
        ".7z",
        ".a",
        ".avi",
        ".bin",
        ".bmp",
        ".bz2",
        ".class",
        ".ckpt",
        ".dll",
        ".doc",
        ".docx",
        ".dylib",
        ".eot",
        ".exe",
        ".flac",
        ".gguf",
        ".gif",
        ".gz",
        ".ico",
        ".jar",
        ".jpeg",
        ".jpg",
        ".mkv",
        ".mov",
        ".mp3",
        ".mp4",
        ".npy",
        ".npz",
        ".o",
        ".odt",
        ".ogg",
        ".onnx",
        ".otf",
        ".parquet",
        ".pdf",
        ".pickle",
        ".pkl",
        ".png",
        ".ppt",
        ".pptx",
        ".pt",
        ".pth",
        ".pyc",
        ".rar",
        ".safetensors",
        ".so",
        ".sqlite",
        ".tar",
        ".tgz",
        ".tif",
        ".tiff",
        ".ttf",
        ".wav",
        ".webm",
        ".webp",
        ".whl",
        ".woff",
        ".woff2",
        ".xls",
        ".xlsx",
        ".xz",
        ".zip",
        ".zst",
    ]
)


@dataclasses.dataclass(frozen=True)
class Texts:
    """Documents, in the order of their paths, and how many files were left out for which reason."""

    documents: tuple[str, ...]
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)

    def report(self) -> str:
        """``"3 files read; left out: 2 binary, 1 empty"``."""
        left_out = ", ".join(f"{n} {reason}" for reason, n in sorted(self.skipped.items()))
        return f"{len(self.documents)} files read" + (f"; left out: {left_out}" if left_out else "")


def read_texts(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Texts:
    """The text of a file, or of every text file below a folder (hidden ones and links aside).

    Raises ``DataError`` naming the path when it is missing, no regular file, binary, not UTF-8, empty, or larger than ``max_bytes``;
    in a folder such files are left out and counted, and it is an error only if none remains or they are too large together.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, max_bytes)
    if not path.exists():
        raise DataError("no such file or folder", where=str(path), remedy="Give a text file, a folder, or the name of a corpus (`tales`, `pydoc`, …).")
    return Texts((read_text(path, max_bytes),))


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """A UTF-8 file as text, its byte order mark dropped and its line ends made ``\\n``. Raises ``DataError`` naming it."""
    if not path.is_file():
        raise DataError("not a regular file", where=str(path), expected="a text file")
    with named_os_errors(path):
        size = path.stat().st_size
        if size > max_bytes:
            raise DataError(f"{size:,} bytes", where=str(path), expected=f"at most {max_bytes:,}", remedy="Split it, or give a part of it.")
        content = path.read_bytes()
    if b"\0" in content[:SNIFF_BYTES] and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("binary (it holds zero bytes)", where=str(path), expected="a text file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = f"Convert it: `iconv -f {_guess(content)} -t UTF-8`."
        raise DataError(f"not UTF-8 (byte {error.start})", where=str(path), expected="UTF-8 text", remedy=remedy) from error
    if not text.strip():
        raise DataError("empty", where=str(path), expected="some text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _guess(content: bytes) -> str:
    return "UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "WINDOWS-1252"


def _read_folder(folder: Path, max_bytes: int) -> Texts:
    documents, skipped, left = list[str](), Counter[str](), max_bytes
    for path in _files(folder):
        reason = _why_not(path)
        if not reason:
            left -= path.stat().st_size
            if left < 0:
                raise DataError(f"more than {max_bytes:,} bytes of text", where=str(folder), remedy="Give a smaller folder.")
            try:
                documents.append(read_text(path))
            except UserError as error:
                reason = error.problem.partition(" (")[0]
        if reason:
            skipped[reason] += 1
    if not documents:
        raise DataError("no text file in it", where=str(folder), remedy=f"Left out: {dict(skipped)}." if skipped else "It is empty.")
    return Texts(tuple(documents), skipped)


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names))


def _why_not(path: Path) -> str:
    """Why a file of a folder is left out without being read; "" if it is to be read."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_symlink():
        return "link"
    return "binary" if path.suffix.lower() in BINARY else ""
