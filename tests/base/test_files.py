"""Files are whole or absent."""

import os
from pathlib import Path

import pytest

from underhood.base import files
from underhood.base.errors import DataError, FileSystemError


def test_write_atomic_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    files.write_atomic(path, "one")
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write_atomic(tmp_path / "a.txt", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileSystemError, match=r"a\.txt: no space left"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_folder_atomic_appears_once_and_is_never_overwritten(tmp_path: Path) -> None:
    final = tmp_path / "step-000001"
    with files.folder_atomic(final) as folder:
        (folder / "x").write_text("1")
        assert not final.exists()
    assert (final / "x").read_text() == "1"
    with pytest.raises(FileSystemError, match="never overwritten"), files.folder_atomic(final):
        pass


def test_folder_atomic_leaves_nothing_when_interrupted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.folder_atomic(tmp_path / "s") as folder:
        (folder / "x").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_json_round_trip_and_damage(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "a.json", {"é": [1, None, True]})
    assert files.read_json(path) == {"é": [1, None, True]}
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(path, float("nan"))
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        files.read_json(path)
    with pytest.raises(DataError, match="no such file"):
        files.read_json(tmp_path / "b.json")
