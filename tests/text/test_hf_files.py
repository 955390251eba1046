"""Damaged, hostile and unknown ``tokenizer.json`` files: an error that names the field, or a tokenizer that works; never anything else."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from underhood.base.errors import TokenizerError
from underhood.text.hf_tokenizer import HFTokenizer
from underhood.text.tokenizer import load_tokenizer

from .families import FAMILIES, document

pytest.importorskip("tokenizers")
Damage = Callable[[dict[str, Any]], object]


def change(*path: Any, to: Any) -> Damage:
    def apply(shape: Any) -> None:
        for key in path[:-1]:
            shape = shape[key]
        shape[path[-1]] = to

    return apply


def without(*path: Any) -> Damage:
    def apply(shape: Any) -> None:
        for key in path[:-1]:
            shape = shape[key]
        del shape[path[-1]]

    return apply


SPLIT = ("pre_tokenizer", "pretokenizers", 0)
TEMPLATE = ("post_processor", "processors", 1)
LAST = ("added_tokens", -1)
DAMAGE: dict[str, tuple[str, Damage, str]] = {
    "another model": ("llama3", change("model", "type", to="Unigram"), "model.type"),
    "no vocabulary": ("llama3", without("model", "vocab"), "model.vocab: is missing"),
    "an empty vocabulary": ("llama3", lambda d: d.update(model={**d["model"], "vocab": {}, "merges": []}, added_tokens=[]), "model.vocab"),
    "a negative id": ("llama3", change("model", "vocab", "Ġ", to=-1), "model.vocab"),
    "a huge id": ("llama3", change("model", "vocab", "Ġ", to=10**30), "model.vocab"),
    "an id that is no number": ("llama3", change("model", "vocab", "Ġ", to="7"), "model.vocab"),
    "an id that is true": ("llama3", change("model", "vocab", "Ġ", to=True), "model.vocab"),
    "an id that is not a number": ("llama3", change("model", "vocab", "Ġ", to=float("nan")), "model.vocab"),
    "one id twice": ("llama3", change("model", "vocab", "new", to=0), "same id 0"),
    "half a surrogate pair": ("llama3", change("model", "vocab", "\ud800", to=9999), "not Unicode"),
    "merges missing": ("llama3", without("model", "merges"), "model.merges: is missing"),
    "a merge twice": ("llama3", lambda d: d["model"]["merges"].append(d["model"]["merges"][0]), "stands twice"),
    "a merge of three": ("llama3", change("model", "merges", 0, to="a b c"), r"merges\[0\].*two tokens"),
    "a merge of no token": ("llama3", change("model", "merges", 0, to=["a", "\ud800"]), r"merges\[0\]"),
    "a merge into no token": ("llama3", change("model", "merges", 0, to=["qqq", "qqq"]), "'qqqqqq'"),
    "dropout": ("llama3", change("model", "dropout", to=0.1), "model.dropout"),
    "a prefix inside words": ("llama3", change("model", "continuing_subword_prefix", to="##"), "continuing_subword_prefix"),
    "a word end": ("llama3", change("model", "end_of_word_suffix", to="</w>"), "end_of_word_suffix"),
    "an unknown token that is not there": ("llama3", change("model", "unk_token", to="<nope>"), "unk_token"),
    "a field of the model": ("llama3", change("model", "fast", to=True), "model.'fast'"),
    "a flag that is a number": ("llama3", change("model", "ignore_merges", to=1), "ignore_merges"),
    "bytes without tokens": ("llama3", change("model", "byte_fallback", to=True), "<0x00>"),
    "one byte without a token": ("llama2", without("model", "vocab", "<0xFF>"), "<0xFF>"),
    "a field at the top": ("llama3", change("magic", to=1), "'magic'"),
    "an unknown pattern": ("llama3", change(*SPLIT, "pattern", "Regex", to="(a+)+$"), "pretokenizers\\[0\\].pattern"),
    "a pattern of characters": ("llama3", change(*SPLIT, "pattern", to={"String": " "}), "pattern"),
    "a pattern that is empty": ("llama3", change(*SPLIT, "pattern", to={"Regex": ""}), "pattern"),
    "another behaviour": ("llama3", change(*SPLIT, "behavior", to="MergedWithNext"), "MergedWithNext"),
    "inverted": ("llama3", change(*SPLIT, "invert", to=True), "invert"),
    "an unknown pre-tokenizer": ("llama3", change(*SPLIT, "type", to="Whitespace"), "'Whitespace' is not supported"),
    "a sequence in a sequence": ("llama3", change(*SPLIT, to={"type": "Sequence", "pretokenizers": []}), "'Sequence' is not supported"),
    "a step after bytes": ("llama3", lambda d: d["pre_tokenizer"]["pretokenizers"].append({"type": "Digits", "individual_digits": True}), "ByteLevel"),
    "a field of a step": ("llama3", change(*SPLIT, "flags", to=1), "'flags'"),
    "a step that is a list": ("llama3", change("pre_tokenizer", to=[]), "pre_tokenizer"),
    "a mark of two": ("mistral3", change("pre_tokenizer", "replacement", to="▁▁"), "replacement"),
    "another scheme": ("mistral3", change("pre_tokenizer", "prepend_scheme", to="last"), "prepend_scheme"),
    "a scheme and its old name at odds": ("mistral3", change("pre_tokenizer", "add_prefix_space", to=False), "prepend_scheme"),
    "an unknown normalizer": ("qwen2", change("normalizer", to={"type": "Lowercase"}), "normalizer.*'Lowercase'"),
    "a normalizer's regex": ("llama2", change("normalizer", "normalizers", 1, "pattern", to={"Regex": " +"}), "normalizers\\[1\\].pattern"),
    "no decoder": ("llama3", change("decoder", to=None), "decoder: found none"),
    "an unknown decoder": ("llama3", change("decoder", to={"type": "WordPiece", "prefix": "##"}), "'WordPiece'"),
    "decoders in another order": ("llama2", lambda d: d["decoder"]["decoders"].reverse(), "in order"),
    "a strip at the end": ("llama2", change("decoder", "decoders", 3, "stop", to=1), "Strip|stripped"),
    "another mark in the decoder": ("metaspace", change("decoder", "replacement", to=""), "decoder"),
    "an unknown post-processor": ("llama3", change("post_processor", to={"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}), "BertProcessing"),
    "two templates": ("llama3", lambda d: d["post_processor"]["processors"].append(d["post_processor"]["processors"][1]), "two templates"),
    "a template without the text": ("llama3", change(*TEMPLATE, "single", to=[]), "the text once"),
    "a template of the second text": ("llama3", change(*TEMPLATE, "single", 1, "Sequence", "id", to="B"), "Sequence.id"),
    "a template of a stranger": ("llama3", change(*TEMPLATE, "single", 0, "SpecialToken", "id", to="x"), "'x'"),
    "a template's id outside": ("llama3", lambda d: d["post_processor"]["processors"][1]["special_tokens"]["<|begin_of_text|>"].update(ids=[10**9]), "ids"),
    "a template's piece": ("llama3", change(*TEMPLATE, "single", 0, to=7), r"single\[0\]"),
    "added tokens a number": ("llama3", change("added_tokens", to=3), "added_tokens"),
    "an added token without flags": ("llama3", change(*LAST, to={"id": 9000, "content": "<x>"}), "single_word: is missing"),
    "an added token with a field": ("llama3", change(*LAST, "colour", to="red"), "'colour'"),
    "an empty added token": ("llama3", change(*LAST, "content", to=""), "is empty"),
    "an added token twice": ("llama3", lambda d: d["added_tokens"].append(d["added_tokens"][0]), "twice"),
    "an added token with an ordinary id": ("llama3", change(*LAST, "id", to=5), "not its own"),
    "an added token with another's id": ("llama3", lambda d: d["added_tokens"][-1].update(id=d["added_tokens"][0]["id"]), "not its own"),
    "an added token at odds with the vocabulary": ("tekken", change("added_tokens", 1, "id", to=9000), "not its own"),
    "an added token with a negative id": ("llama3", change(*LAST, "id", to=-5), "not its own"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    family, damage, message = DAMAGE[name]
    shape = json.loads(document(family))
    HFTokenizer(shape)
    damage(shape)
    (tmp_path / "tokenizer.json").write_text(json.dumps(shape))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_what_others_write_differently_is_read_alike() -> None:
    """Merges as strings or pairs; old names of Metaspace's fields; settings of batches, which play no part."""
    shape = json.loads(document("mistral3"))
    same = json.loads(document("mistral3"))
    same["model"]["merges"] = [" ".join(pair) for pair in same["model"]["merges"]]
    same["pre_tokenizer"] |= {"add_prefix_space": True, "str_rep": "▁"}
    same["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    text = "The miller's mill  ground meal by the river."
    assert HFTokenizer(same).encode(text) == HFTokenizer(shape).encode(text)
    assert len(HFTokenizer(same).encode(text)) > 4


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every field and entry; of long lists and objects only to the first few entries."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())[:6]
    return [way for key, inner in items for way in ((*path, key), *paths_of(inner, (*path, key)))]


ODD = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    10**40,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "a",
    "▁",
    "\ud800",
    "Sequence",
    "BPE",
    [],
    {},
    [[]],
    ["a", "b"],
    {"a": 1},
    {"type": "NFC"},
]


def damaged(shape: Any, rng: random.Random) -> bytes:
    """One to three changes: a field of another value, removed, copied elsewhere or added; then perhaps bytes flipped, cut or doubled."""
    ways = paths_of(shape)
    for _ in range(rng.randint(1, 3)):
        way = rng.choice(ways)
        place: Any = shape
        try:
            for key in way[:-1]:
                place = place[key]
            kind = rng.randrange(4)
            if kind == 0:
                place[way[-1]] = rng.choice(ODD)
            elif kind == 1:
                del place[way[-1]]
            elif kind == 2:
                place[way[-1]] = shape[rng.choice(list(shape))]
            elif isinstance(place, dict):
                place[rng.choice(["type", "pattern", "id", "x", "content"])] = rng.choice(ODD)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took that place away
    try:
        data = bytearray(json.dumps(shape).encode())
    except ValueError:  # a part was copied into itself
        return b"{"
    if rng.random() < 0.3:
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(3)] = rng.choice([b"", b"\xff", b'"', b"}", b"1e999", b"\\ud800", bytes([rng.randrange(256)])])
    return bytes(data)


def assert_error_or_tokenizer(path: Path) -> None:
    text = "The miller's  mill <s>[INST] 123 été 👍\n\n<|im_end|>"
    try:
        found: Any = load_tokenizer(path)
        ids = found.encode(text)
        found.decode(ids)
        found.decode_bytes(ids)
        found.save(path)
    except TokenizerError:
        return
    assert all(type(number) is int and 0 <= number < found.vocab_size for number in ids)
    assert load_tokenizer(path).encode(text) == ids


def fuzz(path: Path, seed: int, count: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        path.write_bytes(damaged(json.loads(small(rng.choice(sorted(FAMILIES)))), rng))
        assert_error_or_tokenizer(path)


def small(family: str) -> str:
    """The family's file with few merges, so that damage lies where it matters."""
    shape = json.loads(document(family))
    shape["model"]["merges"] = shape["model"]["merges"][:40]
    return json.dumps(shape)


def test_damage_of_any_kind(tmp_path: Path) -> None:
    fuzz(tmp_path / "t.json", 15, 300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_much_damage_of_any_kind(tmp_path: Path, seed: int) -> None:
    fuzz(tmp_path / "t.json", seed, 1000)
