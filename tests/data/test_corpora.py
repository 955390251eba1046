"""The corpora by name, and how documents are split."""

import hashlib
import os
from pathlib import Path

import pytest

from underhood.base.errors import DataError, NetworkError, UnknownName
from underhood.data import corpora, tales
from underhood.data.corpora import load_corpus, split
from underhood.data.files import Texts


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_tales_hold_out_the_last_tenth_and_know_their_floor() -> None:
    corpus = load_corpus("tales:50")
    stories = tales.generate(50, 0)
    assert corpus.train == [s.text for s in stories[:45]]
    assert corpus.val == [s.text for s in stories[45:]]
    assert corpus.floor == pytest.approx(tales.floor(stories[45:]))
    assert corpus.source == "tales version 1, seed 0, 50 stories"


def test_tales_come_from_the_cache_and_a_damaged_cache_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_corpus("tales:30")
    (kept,) = corpora.cache_folder().glob("tales-*.json")
    whole = kept.read_bytes()
    for damage in (b"", b"[]", b"{}", whole[:-10], whole.replace(b"Monday", b"Sunday")):
        kept.write_bytes(damage)
        assert load_corpus("tales:30") == first
        assert kept.read_bytes() == whole
    monkeypatch.setattr(tales, "generate", None)
    assert load_corpus("tales:30") == first


@pytest.mark.skipif(os.name == "nt", reason="a file where the folder should be")
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(load_corpus("tales:20").train) == 18


def test_the_checksum_is_of_the_documents() -> None:
    corpus = load_corpus("tales:20")
    digest = hashlib.sha256(b"".join(text.encode() + b"\0" for text in (*corpus.train, *corpus.val)))
    assert corpus.sha256 == digest.hexdigest()


def test_too_few_tales_and_unknown_names_are_refused() -> None:
    with pytest.raises(DataError, match="9 stories"):
        load_corpus("tales:9")
    with pytest.raises(UnknownName, match="Did you mean 'tales'"):
        load_corpus("tails")
    with pytest.raises(DataError, match="no such file or folder"):
        load_corpus("nowhere/at/all")


def test_what_was_not_fetched_says_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERHOOD_DATA", raising=False)
    for name in ("shakespeare", "the-verdict", "fineweb-edu"):
        with pytest.raises(NetworkError, match=f"{name}: not fetched yet. Run `underhood pull {name}`"):
            load_corpus(name)


def test_what_was_fetched_is_found_in_the_cache_or_the_given_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERHOOD_DATA", raising=False)
    corpora.cache_folder().mkdir(parents=True, exist_ok=True)
    (corpora.cache_folder() / "tinyshakespeare.txt").write_text("cached " * 100)
    assert load_corpus("shakespeare").train[0].startswith("cached")
    (tmp_path / "tinyshakespeare.txt").write_text("given " * 100)
    monkeypatch.setenv("UNDERHOOD_DATA", str(tmp_path))
    assert load_corpus("shakespeare").train[0].startswith("given")


def test_fineweb_rows_are_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERHOOD_DATA", str(tmp_path))
    file = tmp_path / "fineweb-edu.jsonl"
    file.write_text("".join(f'{{"text": "page {i} says\\n{"x" * 20}"}}\n' for i in range(30)))
    corpus = load_corpus("fineweb-edu")
    assert len(corpus.train) + len(corpus.val) == 30
    file.write_text('{"words": 1}\n')
    with pytest.raises(DataError, match="not JSON lines"):
        load_corpus("fineweb-edu")


@pytest.mark.skipif("UNDERHOOD_DATA" not in os.environ, reason="UNDERHOOD_DATA is not set")
def test_shakespeare_is_the_one_everybody_measures_on() -> None:
    corpus = load_corpus("shakespeare")
    assert len(corpus.train[0]) == 1_003_854
    assert len(corpus.val[0]) == 111_540
    assert hashlib.sha256((corpus.train[0] + corpus.val[0]).encode()).hexdigest() == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def test_pydoc_is_english_and_stdlib_is_code() -> None:
    stdlib = load_corpus("stdlib")
    text = "\n".join(stdlib.train + stdlib.val)
    assert text.count("\ndef ") > 1000
    assert len(stdlib.val) > 10


@pytest.mark.slow
def test_pydoc_is_english_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load_corpus("pydoc")
    monkeypatch.setattr(corpora, "_pydoc", None)
    assert load_corpus("pydoc") == corpus
    text = "\n".join(corpus.train + corpus.val)
    assert 500_000 < len(text) < 10_000_000
    assert text.count(" the ") > 10_000
    assert len(corpus.val) > 10


def test_one_long_document_is_cut_and_several_are_dealt() -> None:
    assert split(["0123456789" * 2]) == (["012345678901234567"], ["89"])
    train, val = split([f"document {i}" for i in range(500)])
    assert len(train) + len(val) == 500
    assert 30 <= len(val) <= 70


def test_adding_documents_moves_none_and_copies_stay_together() -> None:
    few = [f"document {i}" for i in range(300)]
    more = [f"another {i}" for i in range(300)]
    _, val = split(few)
    _, val_of_all = split(few + more)
    assert [text for text in val_of_all if text in set(few)] == val
    train, val = split([*few, *few])
    assert not set(train) & set(val)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_however_few_documents_both_sides_have_one(n: int) -> None:
    for k in range(400):
        train, val = split([f"{k}-{i}" for i in range(n)])
        assert train
        assert val


def test_copies_of_one_document_are_one() -> None:
    train, val = split(["the same text again" * 10] * 3)
    assert train
    assert val


def test_a_folder_and_a_file(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(f"text {i} " * 30)
    corpus = load_corpus(str(tmp_path))
    assert len(corpus.train) + len(corpus.val) == 4
    assert corpus.report == "4 files read"
    single = load_corpus(str(tmp_path / "0.txt"))
    assert single.train[0] + single.val[0] == "text 0 " * 30


def test_too_little_text_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(DataError, match=r"short.txt: 9 characters of text; expected at least 100. Add text, or practise on `tales`"):
        load_corpus(str(tmp_path / "short.txt"))


def test_every_named_corpus_is_listed() -> None:
    assert {"tales", "pydoc", "stdlib", "shakespeare"} <= set(corpora.names())
    assert corpora.from_documents("mine", "here", Texts(("a" * 200,))).val == ["a" * 20]
