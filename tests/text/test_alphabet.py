"""Bytes and their characters, against facts about GPT-2 that anybody can look up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underhood.text.alphabet import BYTE_OF_ID, CHAR_OF_BYTE, ID_OF_BYTE, byte_ids, to_bytes, to_chars, utf8, well_formed


def test_gpt2s_order() -> None:
    assert byte_ids(b"! Aa\n") == [0, 220, 32, 64, 198]
    assert to_chars(b" the\n") == "ĠtheĊ"
    assert len(set(CHAR_OF_BYTE)) == 256
    assert sorted(BYTE_OF_ID) == sorted(ID_OF_BYTE) == list(range(256))
    assert [CHAR_OF_BYTE[byte] for byte in BYTE_OF_ID] == sorted(CHAR_OF_BYTE)


@given(st.binary())
def test_round_trip(data: bytes) -> None:
    assert to_bytes(to_chars(data)) == data


def test_same_alphabet_as_tokenizers() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    assert sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()) == sorted(CHAR_OF_BYTE)


def test_surrogates() -> None:
    assert well_formed("a\ud83d\ude00\udc00") == "a😀\ufffd"
    assert utf8("é") == b"\xc3\xa9"
