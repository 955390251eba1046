"""The files: what others load from us, what we load from others, and what we refuse, with the file and the field in the message."""

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from underhood.base.errors import DataError, FileSystemError, TokenizerError
from underhood.text.bpe import BPE
from underhood.text.bpe_fast import FastBPE
from underhood.text.chars import CharTokenizer
from underhood.text.gpt2_files import read_gpt2_files, write_gpt2_files
from underhood.text.tiktoken_ranks import merges_of, ranks_of, read_ranks, write_ranks
from underhood.text.tokenizer import Tokenizer, load_tokenizer
from underhood.text.tokenizer_json import read_tokenizer_json
from underhood.text.vocabulary import Pair, Vocabulary

from .texts import TEXTS, WORLD, random_text


def test_tokenizers_loads_what_we_save(tmp_path: Path, pattern: str, merges: list[Pair]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ours = BPE(merges, pattern, ["<|endoftext|>"])
    ours.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rng = random.Random(7)
    for text in (*TEXTS, *(random_text(rng, 80) for _ in range(100))):
        assert theirs.encode(text).ids == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    assert theirs.encode("a<|endoftext|>").ids == ours.encode("a<|endoftext|>", {"<|endoftext|>"})
    theirs.save(str(tmp_path / "theirs.json"))
    assert FastBPE.load(tmp_path / "theirs.json").merges == merges


def test_tokenizers_loads_our_characters(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ours = CharTokenizer.train(WORLD)
    ours.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(WORLD).ids == ours.encode(WORLD)
    assert theirs.decode(ours.encode(WORLD)) == WORLD


def test_load_tokenizer_knows_the_kind(tmp_path: Path, merges: list[Pair]) -> None:
    for made in (FastBPE(merges), CharTokenizer("abc")):
        made.save(tmp_path / "tokenizer.json")
        for path in (tmp_path, tmp_path / "tokenizer.json"):
            loaded = load_tokenizer(path)
            assert isinstance(loaded, Tokenizer)
            assert type(loaded) is type(made)
            assert (loaded.encode("cab"), loaded.vocab_size) == (made.encode("cab"), made.vocab_size)


def test_rank_files_round_trip_and_tiktoken_reads_them(tmp_path: Path, merges: list[Pair]) -> None:
    vocabulary = Vocabulary(merges=merges, pattern="gpt4", special={"<a>": 900})
    write_ranks(tmp_path / "ours.tiktoken", vocabulary)
    assert read_ranks(tmp_path / "ours.tiktoken", "gpt4", {"<a>": 900}) == Vocabulary(merges=merges, pattern="gpt4", special={"<a>": 900})
    load = pytest.importorskip("tiktoken.load")
    assert load.load_tiktoken_bpe(str(tmp_path / "ours.tiktoken")) == ranks_of(vocabulary)


def test_merges_behind_ranks_by_hand() -> None:
    ranks = ranks_of(Vocabulary(merges=[(0, 1), (256, 2)]))
    assert merges_of(ranks) == [(0, 1), (256, 2)]
    with pytest.raises(TokenizerError, match="not made of two earlier tokens"):
        merges_of({**ranks, b"xyz": 258})
    with pytest.raises(TokenizerError, match="bytes in GPT-2's order"):
        merges_of({bytes([b]): b for b in range(256)})


@pytest.mark.parametrize("lines", [b"IQ== 0 1\n", b"IQ== 1\n", b"I*Q 0\n", b"IQ== 0\nIQ== 1\n", b"IQ== x\n", b"\xff\xfe 0\n"])
def test_damaged_rank_files(tmp_path: Path, lines: bytes) -> None:
    (tmp_path / "r").write_bytes(lines)
    with pytest.raises(TokenizerError, match="line"):
        read_ranks(tmp_path / "r", "gpt2")


def test_gpt2_files_round_trip(tmp_path: Path) -> None:
    merges = BPE.train(TEXTS, 400).merges
    vocabulary = Vocabulary(merges=merges, special={"<|endoftext|>": 400})
    write_gpt2_files(tmp_path, vocabulary)
    assert read_gpt2_files(tmp_path) == vocabulary
    with pytest.raises(TokenizerError, match="gpt4"):
        write_gpt2_files(tmp_path, Vocabulary(merges=merges, pattern="gpt4"))
    (tmp_path / "encoder.json").write_text("[]")
    with pytest.raises(TokenizerError, match=r"encoder\.json"):
        read_gpt2_files(tmp_path)
    (tmp_path / "encoder.json").unlink()
    with pytest.raises(TokenizerError, match=r"encoder\.json"):
        read_gpt2_files(tmp_path)


def test_gpt2s_own_vocabulary(shared_data: Path, tmp_path: Path) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    vocabulary = read_gpt2_files(shared_data / "gpt2")
    assert (len(vocabulary.merges), vocabulary.special) == (50_000, {"<|endoftext|>": 50_256})
    fast, slow = (kind(vocabulary.merges, "gpt2", vocabulary.special) for kind in (FastBPE, BPE))
    assert fast.vocab_size == 50_257
    assert fast.encode("Hello world<|endoftext|>", {"<|endoftext|>"}) == [15496, 995, 50256]
    from underhood.text.split import GPT2

    theirs = tiktoken.Encoding("gpt2", pat_str=GPT2, mergeable_ranks=ranks_of(vocabulary), special_tokens=dict(vocabulary.special))
    shakespeare = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    assert fast.encode(shakespeare) == theirs.encode_ordinary(shakespeare)
    rng = random.Random(8)
    for text in (*TEXTS, *(random_text(rng, 100) for _ in range(100))):
        assert fast.encode(text) == slow.encode(text) == theirs.encode_ordinary(text)
    write_ranks(tmp_path / "gpt2.tiktoken", vocabulary)
    assert read_ranks(tmp_path / "gpt2.tiktoken", "gpt2").merges == vocabulary.merges


def good() -> dict[str, Any]:
    """A parsed tokenizer.json with two merges and a special token."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        BPE([(0, 1), (256, 2)], "gpt4", ["<a>"]).save(Path(folder) / "t.json")
        document: dict[str, Any] = json.loads((Path(folder) / "t.json").read_text(encoding="utf-8"))
    return document


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return apply


DAMAGE = {
    "no model": (change("model", to=None), "'model'"),
    "another model": (change("model", "type", to="Unigram"), "model.type"),
    "merges missing": (change("model", "merges", to=None), "merges"),
    "vocab a list": (change("model", "vocab", to=[1]), "vocab"),
    "merge of three": (change("model", "merges", 1, to=["a", "b", "c"]), r"merges\[1\]"),
    "merge a number": (change("model", "merges", 0, to=7), r"merges\[0\]"),
    "merge with an empty half": (change("model", "merges", 0, to="! "), r"merges\[0\]"),
    "merge of an unknown token": (change("model", "merges", 1, to=["xy", "z"]), "'xy'"),
    "merge twice": (change("model", "merges", 1, to=["!", '"']), "token already"),
    "id gap": (change("model", "vocab", "!", to=999), "'!' has 999"),
    "token missing": (lambda d: d["model"]["vocab"].pop('!"'), "no id"),
    "token too many": (change("model", "vocab", "zzz", to=258), "'zzz'"),
    "normaliser": (change("normalizer", to={"type": "NFC"}), "normalizer"),
    "dropout": (change("model", "dropout", to=0.1), "dropout"),
    "byte fallback": (change("model", "byte_fallback", to=True), "byte_fallback"),
    "unknown pattern": (change("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex", to="x"), "pre_tokenizer"),
    "no pre-tokeniser": (change("pre_tokenizer", to=None), "pre_tokenizer"),
    "pre-tokeniser a list": (change("pre_tokenizer", to=[1]), "pre_tokenizer"),
    "prefix space": (change("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", to=True), "pre_tokenizer"),
    "special without id": (change("added_tokens", 0, to={"content": "<a>"}), r"added_tokens\[0\]"),
    "special no object": (change("added_tokens", 0, to="<a>"), r"added_tokens\[0\]"),
    "special with an ordinary id": (change("added_tokens", 0, "id", to=5), "ordinary token"),
    "specials a number": (change("added_tokens", to=3), "added_tokens"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_tokenizer_json(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    document = good()
    (tmp_path / "t.json").write_text(json.dumps(document), encoding="utf-8")
    assert load_tokenizer(tmp_path / "t.json").vocab_size == 259
    damage(document)
    (tmp_path / "t.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(TokenizerError, match=message) as caught:
        read_tokenizer_json(tmp_path / "t.json")
    assert str(tmp_path / "t.json") in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"model": {}, "model": {}}', b'{"model": {"type": 3}}']
)
def test_files_that_are_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"t\.json"):
        load_tokenizer(tmp_path / "t.json")


def test_truncation_anywhere_is_an_error(tmp_path: Path) -> None:
    whole = json.dumps(good()).encode()
    for cut in range(0, len(whole) - 1, 97):
        (tmp_path / "t.json").write_bytes(whole[:cut])
        with pytest.raises(TokenizerError):
            read_tokenizer_json(tmp_path / "t.json")


def test_flipped_bytes_never_give_another_kind_of_error(tmp_path: Path) -> None:
    whole, rng = bytearray(json.dumps(good()).encode()), random.Random(9)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] = rng.randrange(256)
        (tmp_path / "t.json").write_bytes(damaged)
        try:
            load_tokenizer(tmp_path / "t.json")
        except TokenizerError:
            continue


def test_a_missing_file_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no such file"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileSystemError):
        BPE([]).save(tmp_path / "file" / "t.json")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    BPE([]).save(tmp_path / "t.json")
    before = (tmp_path / "t.json").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(FileSystemError, match="no space"):
        BPE([(0, 1)]).save(tmp_path / "t.json")
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]
    assert (tmp_path / "t.json").read_bytes() == before


def test_base64_in_rank_files_is_the_tokens_bytes(tmp_path: Path) -> None:
    write_ranks(tmp_path / "r", Vocabulary(merges=[(0, 1)]))
    assert (tmp_path / "r").read_bytes().splitlines()[256] == base64.b64encode(b'!"') + b" 256"


class TestChars:
    def test_by_hand(self) -> None:
        chars = CharTokenizer.train("hello")
        assert (chars.chars, chars.vocab_size) == (["e", "h", "l", "o"], 4)
        assert chars.encode("hole") == [1, 3, 2, 0]
        assert chars.decode([1, 3, 2, 0]) == "hole"

    def test_errors(self) -> None:
        with pytest.raises(TokenizerError, match=r"'é' \(U\+00E9, character 1\)"):
            CharTokenizer("abc").encode("aé")
        for wrong in (-1, 3):
            with pytest.raises(TokenizerError, match=f"id {wrong}"):
                CharTokenizer("abc").decode([wrong])
        with pytest.raises(DataError, match="empty"):
            CharTokenizer.train("")
        with pytest.raises(TokenizerError, match="twice"):
            CharTokenizer("aa")

    @pytest.mark.parametrize("vocab", [{"a": 0, "b": 2}, {"ab": 0}, {}, {"a": "0"}, None, {"a": True, "b": 0}])
    def test_damaged(self, tmp_path: Path, vocab: object) -> None:
        (tmp_path / "t.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": vocab}}))
        with pytest.raises(TokenizerError, match="vocab"):
            load_tokenizer(tmp_path / "t.json")
