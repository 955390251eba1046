"""Each pre-tokenizer cuts text as the ``tokenizers`` library does."""

import json
import random
from typing import Any

import pytest

from underhood.text.alphabet import to_chars, utf8
from underhood.text.pretokenize import GPT2_AS_RELEASED, KNOWN, LLAMA3, O200K, TEKKEN, read_pre_tokenizer

from .families import BYTE_LEVEL, NO_REGEX, empty, isolated, sequence
from .texts import TEXTS, random_text

tokenizers = pytest.importorskip("tokenizers")


def mark(scheme: str, split: bool) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


DIGITS = [{"type": "Digits", "individual_digits": individual} for individual in (True, False)]
SHAPES = {
    **{f"pattern {k}": isolated(pattern) for k, pattern in enumerate(KNOWN)},
    **{f"Metaspace {scheme} {split}": mark(scheme, split) for scheme in ("always", "first", "never") for split in (True, False)},
    "digits one by one": DIGITS[0],
    "digits together": DIGITS[1],
    "SmolLM": sequence("pretokenizers", DIGITS[0], BYTE_LEVEL),
    "a space before each word": sequence("pretokenizers", isolated(GPT2_AS_RELEASED), {**NO_REGEX, "add_prefix_space": True}),
    "a mark before the first": sequence("pretokenizers", DIGITS[1], mark("first", True)),
    "nothing": sequence("pretokenizers"),
}


def their_words(shape: dict[str, Any], text: str) -> list[str]:
    made = tokenizers.Tokenizer.from_str(json.dumps({**empty(), "pre_tokenizer": shape, "model": {"type": "BPE", "vocab": {}, "merges": []}}))
    return [word for word, _ in made.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize("name", SHAPES)
def test_same_words(name: str) -> None:
    cut, rng = read_pre_tokenizer(SHAPES[name], "p"), random.Random(17)
    for text in (*TEXTS, " ", "▁ ▁", *(random_text(rng, 60) for _ in range(150))):
        words = cut(text, first=True)
        assert [to_chars(utf8(word)) for word in words] == their_words(SHAPES[name], text) if cut.byte_level else words == their_words(SHAPES[name], text)


@pytest.mark.parametrize("pattern", KNOWN)
def test_patterns_lose_nothing(pattern: str) -> None:
    """What lies between two matches would be lost: nothing does."""
    cut, rng = read_pre_tokenizer(isolated(pattern), "p"), random.Random(18)
    for text in (*TEXTS, *(random_text(rng, 60) for _ in range(150))):
        assert "".join(cut(text, first=True)) == text


def test_by_hand() -> None:
    words = {
        name: read_pre_tokenizer(isolated(pattern), "p")("I'VE 12345 dogsAndCATS", first=True) for name, pattern in (("3", LLAMA3), ("t", TEKKEN), ("o", O200K))
    }
    assert words["3"] == ["I", "'VE", " ", "123", "45", " dogsAndCATS"]
    assert words["t"] == ["I", "'VE", " ", "1", "2", "3", "4", "5", " dogs", "And", "CATS"]
    assert words["o"] == ["I'VE", " ", "123", "45", " dogs", "And", "CATS"]
