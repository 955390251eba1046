"""One process at a time: a lock on a file, held by the system and so gone with the process that held it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until nobody else holds ``path``, then hold it; who holds it may take it again.

    Where the file cannot be made (a read-only folder) nothing is held.
    """
    try:
        held = FileLock(path, is_singleton=True).acquire()
    except OSError:
        yield
        return
    with held:
        yield
