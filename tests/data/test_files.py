"""A person's own text: what is read, what is refused by name, what is left out and counted."""

import os
from pathlib import Path

import pytest

from underhood.base.errors import DataError
from underhood.data.files import read_texts

REFUSED = [
    (b"", "empty"),
    (b" \n\t ", "empty"),
    (b"caf\xe9", r"not UTF-8 \(byte 3\).*WINDOWS-1252"),
    ("hé".encode("utf-16"), r"not UTF-8.*UTF-16"),
    (b"a\0b" * 100, "binary"),
    (b"\x7fELF\0\0", "binary"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"mine.txt: {message}"):
        read_texts(path)


def test_a_missing_path_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.txt: no such file or folder. Give a text file"):
        read_texts(tmp_path / "nowhere.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        read_texts(tmp_path / "pipe")


def test_a_byte_order_mark_and_line_ends_are_made_plain(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_texts(tmp_path / "a.txt").documents == ("one\ntwo\nthree\n",)


def test_a_folder_is_read_in_order_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for name, content in {
        "b.txt": b"second",
        "a.md": b"first",
        "sub/c.weird": b"third",
        "photo.png": b"text, but by its name a picture",
        "data": b"\0\1\2",
        "latin.txt": b"caf\xe9",
        "empty.txt": b"",
        ".secret": b"hidden",
        ".git/config": b"hidden too, and not even counted",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.txt")
    texts = read_texts(tmp_path)
    assert texts.documents == ("first", "second", "third")
    assert texts.skipped == {"binary": 2, "not UTF-8": 1, "empty": 1, "hidden": 1, "link": 1}
    assert texts.report() == "3 files read; left out: 2 binary, 1 empty, 1 hidden, 1 link, 1 not UTF-8"


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no text file in it\. It is empty"):
        read_texts(tmp_path)
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"Left out: \{'binary': 1\}"):
        read_texts(tmp_path)


def test_memory_is_bounded(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.txt").write_bytes(b"x" * 400)
    assert len(read_texts(tmp_path, max_bytes=1200).documents) == 3
    with pytest.raises(DataError, match="more than 1,199 bytes of text"):
        read_texts(tmp_path, max_bytes=1199)
    with pytest.raises(DataError, match="400 bytes; expected at most 399"):
        read_texts(tmp_path / "0.txt", max_bytes=399)
