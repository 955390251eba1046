"""The patterns against tiktoken's and Oniguruma's reading of them, and the hand-made splitter against the patterns."""

import random

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.base.errors import UnknownName
from underhood.text.split import LETTER, LINE_END, NUMBER, OTHER, PATTERNS, SPACE, character_classes, split

from .texts import TEXTS, random_text


def test_by_hand() -> None:
    assert split("I've 2 dogs,  ok?") == ["I", "'ve", " 2", " dogs", ",", " ", " ok", "?"]
    assert split("X(self)\n  y 12345", "gpt4") == ["X", "(self", ")\n", " ", " y", " ", "123", "45"]


@given(st.text())
def test_nothing_is_lost(text: str) -> None:
    for pattern in PATTERNS:
        assert "".join(split(text, pattern)) == text


def test_unknown_pattern() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'gpt4'"):
        split("x", "gtp4")


@pytest.mark.parametrize(("name", "constructor"), [("gpt2", "r50k_base"), ("gpt4", "cl100k_base")])
def test_same_words_as_the_pattern_in_tiktoken(name: str, constructor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    public = pytest.importorskip("tiktoken_ext.openai_public")
    monkeypatch.setattr(public, "load_tiktoken_bpe", lambda *_, **__: {})
    theirs = regex.compile(getattr(public, constructor)()["pat_str"])
    rng = random.Random(0)
    for text in (*TEXTS, *(random_text(rng, 60) for _ in range(500))):
        assert split(text, name) == theirs.findall(text)


@pytest.mark.parametrize("name", PATTERNS)
def test_same_words_as_oniguruma(name: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS[name]), "isolated")
    rng = random.Random(1)
    for text in (*TEXTS, *(random_text(rng, 60) for _ in range(300))):
        assert split(text, name) == [word for word, _ in theirs.pre_tokenize_str(text)]


def test_character_classes() -> None:
    table = character_classes()
    assert len(table) == 0x110000
    expected = {
        "a": LETTER,
        "日": LETTER,
        "7": NUMBER,
        "²": NUMBER,
        " ": SPACE,
        "\t": SPACE,
        "\u3000": SPACE,
        "\n": LINE_END,
        "\r": LINE_END,
        "!": OTHER,
        "\u0301": OTHER,
    }
    assert {char: table[ord(char)] for char in expected} == expected


@pytest.mark.parametrize("name", PATTERNS)
def test_hand_made_splitter_equals_the_pattern(name: str) -> None:
    pytest.importorskip("numba")
    from underhood.text import fast_compiled

    rng = random.Random(2)
    for text in ("", *TEXTS, *(random_text(rng, rng.randrange(80)) for _ in range(3000))):
        assert fast_compiled.split(text, name) == split(text, name)


@settings(max_examples=300, deadline=None)
@given(st.text(), st.sampled_from(sorted(PATTERNS)))
def test_hand_made_splitter_on_any_text(text: str, name: str) -> None:
    pytest.importorskip("numba")
    from underhood.text import fast_compiled

    assert fast_compiled.split(text, name) == split(text, name)
