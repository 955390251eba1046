"""`underhood tokenizer`: what it prints, and what it says when it cannot."""

import json
from pathlib import Path

import pytest

from underhood.cli.main import main
from underhood.text.tokenizer import load_tokenizer


@pytest.fixture
def trained(tmp_path: Path) -> str:
    out = tmp_path / "t.json"
    assert main(["tokenizer", "train", "tales:60", "--vocab", "400", "--out", str(out)]) == 0
    return str(out)


def test_train_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.json"
    assert main(["tokenizer", "train", "tales:60", "--vocab", "300", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["vocab_size"], said["pattern"]) == (300, "gpt4")
    assert load_tokenizer(out).vocab_size == 300


def test_train_on_a_persons_own_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat and the dog and the cow\n" * 50, encoding="utf-8")
    assert main(["tokenizer", "train", str(tmp_path / "a.txt"), "--vocab", "262", "--pattern", "gpt2", "--out", str(tmp_path / "t.json")]) == 0
    assert load_tokenizer(tmp_path / "t.json").vocab_size == 262


def test_encode_and_decode_are_inverse(trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "Zoë gave 3 marbles to 日本 <|endoftext|>"
    assert main(["tokenizer", "encode", text, "-t", trained]) == 0
    ids = capsys.readouterr().out.split()
    assert "399" not in ids
    assert main(["tokenizer", "decode", *ids, "-t", trained]) == 0
    assert capsys.readouterr().out == text + "\n"
    assert main(["tokenizer", "encode", text, "-t", trained, "--allow-special", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"][-1] == 399


def test_encode_reads_a_file(trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("the", encoding="utf-8")
    assert main(["tokenizer", "encode", "--file", str(tmp_path / "in.txt"), "-t", trained, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 3


def test_show_a_text_and_a_word(trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "show", "the cat went to the market", "-t", trained]) == 0
    assert "the|" in capsys.readouterr().out
    assert main(["tokenizer", "show", " the", "-t", trained]) == 0
    shown = capsys.readouterr().out
    assert "· | t | h | e" in shown
    assert "merge" in shown
    assert main(["tokenizer", "show", " the", "-t", trained, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [token["token"] for token in found["tokens"]] == ["·the"]
    assert found["trees"][0]["children"]


def write(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b"\x00\x01" * 200, "binary"), (b"caf\xe9 " * 100, "not UTF-8"), (None, "no such file"), (b"abc " * 100, "at most")],
)
def test_texts_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, says: str) -> None:
    path = str(tmp_path / "none.txt") if content is None else write(tmp_path, "in.txt", content)
    assert main(["tokenizer", "train", path, "--vocab", "5000", "--out", str(tmp_path / "t.json")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "t.json").exists()


def test_places_and_options_that_cannot_be_used(tmp_path: Path, trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = write(tmp_path, "file", b"x") + "/t.json"
    for arguments, says in (
        (["train", "tales:60", "--out", blocked], "folder"),
        (["train", "tales:60", "--out", str(tmp_path)], "folder"),
        (["train", "tales:60", "--vocab", "9"], "at least 257"),
        (["train", "tales:60", "--pattern", "gtp4"], "Did you mean 'gpt4'"),
        (["encode", "x", "-t", str(tmp_path / "none.json")], "no such file"),
        (["encode", "x", "-t", write(tmp_path, "bad.json", b"{")], "not valid JSON"),
        (["encode", "x", "--file", trained, "-t", trained], "one of them"),
        (["encode", "--file", write(tmp_path, "latin", b"caf\xe9"), "-t", trained], "not UTF-8"),
        (["decode", "9999", "-t", trained], "no token has the id 9999"),
        (["decode", "seven", "-t", trained], "'seven' is not an id"),
    ):
        capsys.readouterr()
        assert main(["tokenizer", *arguments]) == 2
        assert says in capsys.readouterr().err
