"""NFC against Python's own, and in time linear in the longest run of marks."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underhood.base.errors import TokenizerError
from underhood.text.normalize import nfc, read_normalizer

MARKS = "\u0301\u0323\u0300\u0f73\u0f71\u0f72\u0f75\u0f81\u0344\u0345\u3099\u0313\u20d0"


@given(st.lists(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(MARKS + "aeéｶは가각"), st.sampled_from(MARKS)), max_size=200).map("".join))
def test_as_python_does(text: str) -> None:
    assert nfc(text) == unicodedata.normalize("NFC", text)
    long = text + "e" + MARKS * 5 + text
    assert nfc(long) == unicodedata.normalize("NFC", long)


@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u0f73", "a\u0301\u0323\u0301"])
def test_a_million_marks_in_time(marks: str) -> None:
    """Python alone needs minutes for the first: it sorts the marks by insertion."""
    start = time.process_time()
    nfc(marks * (1_000_000 // len(marks)))
    assert time.process_time() - start < 2.0


def test_steps_by_hand() -> None:
    prepend, replace = {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    run = read_normalizer({"type": "Sequence", "normalizers": [prepend, replace]}, "n")
    assert run
    assert (run("a b"), run(""), run(" ")) == ("▁a▁b", "", "▁▁")
    assert read_normalizer(None, "n") is None


def test_a_text_cannot_be_made_to_fill_the_memory() -> None:
    doubling = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    bomb = read_normalizer({"type": "Sequence", "normalizers": [doubling] * 60}, "n")
    longer = read_normalizer({**doubling, "content": "a" * 1_000_000}, "n")
    assert bomb
    assert longer
    for run in (bomb, longer):
        with pytest.raises(TokenizerError, match="at most"):
            run("a" * 10_000)
