"""Files that are whole or absent: write to a temporary name, fsync, rename."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from underhood.base.errors import DataError, FileSystemError

TEMPORARY = ".tmp-"


@contextmanager
def named_os_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into a ``FileSystemError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise FileSystemError(*_explain(error), where=str(path)) from error


def _explain(error: OSError) -> tuple[str]:
    reasons = {
        errno.ENOSPC: "no space left on the disk; free some or choose another folder",
        errno.EDQUOT: "your disk quota is used up; free some or choose another folder",
        errno.EFBIG: "the file would be larger than the limit set for this process",
        errno.EACCES: "no permission to write here; choose another folder",
        errno.EPERM: "no permission to write here; choose another folder",
        errno.EROFS: "this file system is read-only; choose another folder",
        errno.ENOENT: "the folder does not exist",
        errno.ENOTDIR: "a file stands where a folder is needed",
        errno.EISDIR: "a folder stands where a file is needed",
    }
    return (reasons.get(error.errno or 0, error.strerror or str(error)),)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable; a no-op where folders cannot be opened (Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write ``content`` so that ``path`` holds either the old bytes or all of the new ones. Raises ``FileSystemError``."""
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with named_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return path


@contextmanager
def folder_atomic(final: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success fsync all of it and rename it to ``final`` once, else remove it."""
    final = Path(final)
    if final.exists():
        raise FileSystemError("exists already and is never overwritten", where=str(final))
    temporary = final.with_name(f"{TEMPORARY}{os.getpid()}-{final.name}")
    with named_os_errors(final):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                with open(file, "rb+") as handle:
                    os.fsync(handle.fileno())
            sync_folder(temporary)
            os.rename(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(final.parent)


def read_json(path: str | os.PathLike[str]) -> Any:
    """The parsed file. Raises ``DataError`` naming the file when it is missing, not UTF-8 or not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    except RecursionError as error:
        raise DataError("not valid JSON (nested too deeply)", where=str(path)) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"not valid JSON ({error})", where=str(path)) from error


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    return write_atomic(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
