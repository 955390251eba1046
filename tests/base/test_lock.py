"""A lock on a file: one holder, who may take it twice, and nobody is kept out where it cannot be made."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from underhood.base.lock import locked


def free(path: Path) -> bool:
    """Whether somebody else could take it."""

    def attempt() -> bool:
        try:
            FileLock(path).acquire(timeout=0).lock.release()
        except Timeout:
            return False
        return True

    with ThreadPoolExecutor(1) as other:
        return other.submit(attempt).result()


def test_it_is_held_until_the_outermost_ends_even_by_an_error(tmp_path: Path) -> None:
    path = tmp_path / "held"
    with pytest.raises(KeyError), locked(path):
        with locked(path):
            assert not free(path)
        assert not free(path)
        raise KeyError
    assert free(path)


def test_a_folder_that_takes_no_file_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with locked(tmp_path / "file" / "held"):
        pass
