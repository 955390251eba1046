"""Streaming: characters whole, stop strings never half shown, nothing waited for for ever."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.base.errors import ConfigError
from underhood.infer.stream import StopStrings, TextStream
from underhood.text.bpe import BPE
from underhood.text.chars import CharTokenizer

BYTES = BPE([])  # one token a byte


def pieces(text: bytes) -> list[str]:
    stream = TextStream(BYTES)
    ids = [next(i for i, t in BYTES.tokens.items() if t == bytes([b])) for b in text]
    return [stream.add(i) for i in ids] + [stream.flush()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aé".encode(), ["a", "", "é", ""]),
        ("€".encode(), ["", "", "€", ""]),
        ("🙂b".encode(), ["", "", "", "🙂", "b", ""]),
        ("\ufffd!".encode(), ["", "", "\ufffd", "!", ""]),  # a genuine U+FFFD comes with its last byte
        ("🙂".encode()[:3], ["", "", "", "\ufffd"]),  # never finished: shown at the end
        (b"\xffa", ["\ufffd", "a", ""]),  # can never become a character: shown at once
        ("€".encode()[:2] + b"a", ["", "", "\ufffda", ""]),
    ],
)
def test_characters_over_tokens(text: bytes, expected: list[str]) -> None:
    assert pieces(text) == expected


@given(st.binary(max_size=30))
@settings(max_examples=200, deadline=None)
def test_the_pieces_are_the_text(content: bytes) -> None:
    assert "".join(pieces(content)) == content.decode(errors="replace")


def test_a_tokenizer_of_characters() -> None:
    stream = TextStream(CharTokenizer("é€"))
    assert [stream.add(1), stream.add(0), stream.flush()] == ["€", "é", ""]


def shown(stops: tuple[str, ...], parts: list[str]) -> tuple[list[str], bool]:
    stop = StopStrings(stops)
    return [stop.add(p) for p in parts] + [stop.flush()], stop.found


@pytest.mark.parametrize(
    ("stops", "parts", "expected", "found"),
    [
        (("END",), ["a", "EN", "D", "b"], ["a", "", "", "", ""], True),
        (("END",), ["aE", "Nb"], ["a", "ENb", ""], False),
        (("END",), ["aEN"], ["a", "EN"], False),  # the final flush
        (("END",), ["aENDb"], ["a", ""], True),
        (("abab",), ["aba", "bab"], ["", "", ""], True),
        (("abab",), ["ab", "ac", "abab"], ["", "abac", "", ""], True),
        (("aab",), ["aa", "ab"], ["", "a", ""], True),  # the tail overlaps itself
        (("xy", "y"), ["axy"], ["a", ""], True),  # of two that end together the longer wins
        (("y", "xyz"), ["axyz"], ["ax", ""], True),  # of two the first to be complete wins
        (("\n\n", "User:", "###", "</s>"), ["hi\n", "Us", "er: x"], ["hi", "\n", "", ""], True),
        ((), ["a", "b"], ["a", "b", ""], False),
    ],
)
def test_stop_strings(stops: tuple[str, ...], parts: list[str], expected: list[str], found: bool) -> None:
    assert shown(stops, parts) == (expected, found)


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_whatever_the_pieces_the_same_text_is_shown(text: str, stops: list[str], rng: object) -> None:
    cuts = sorted(rng.randint(0, len(text)) for _ in range(4))  # type: ignore[attr-defined]
    parts = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    _, whole = min(((text.find(s) + len(s), text.find(s)) for s in stops if s in text), default=(0, len(text)))  # generation ends with the first complete one
    out, found = shown(tuple(stops), parts)
    assert "".join(out) == text[:whole]
    assert found == any(s in text for s in stops)
    so_far = ""
    for part in out[:-1]:  # no prefix of a stop string was ever at the end of what was shown, unless the text went on otherwise
        so_far += part
        assert text.startswith(so_far)
        assert len(so_far) <= whole


def test_an_empty_stop_string_is_an_error() -> None:
    with pytest.raises(ConfigError, match="stop"):
        StopStrings(("a", ""))
