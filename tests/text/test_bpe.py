"""The readable BPE: by hand, against ``tokenizers`` (training) and tiktoken (encoding), and its properties."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underhood.base.errors import ConfigError, DataError, TokenizerError, UnknownName
from underhood.text.alphabet import byte_ids
from underhood.text.bpe import BPE, count_pairs, count_words, encode_word, learn_merges, merge
from underhood.text.split import PATTERNS
from underhood.text.tiktoken_ranks import ranks_of
from underhood.text.vocabulary import Pair, Vocabulary

from .texts import TEXTS, WORLD, random_text


def test_worked_example() -> None:
    """aaabdaaabac, the example of Wikipedia's page: aa, then of two pairs that stand twice the smaller, then the rest."""
    a, b = byte_ids(b"ab")
    words = count_words(["aaabdaaabac"])
    assert count_pairs(words)[a, a] == 4
    assert learn_merges(words, 3) == [(a, a), (a, b), (256, 257)]
    tokenizer = BPE([(a, a), (a, b), (256, 257)])
    assert tokenizer.encode("aaabdaaabac") == [258, *byte_ids(b"d"), 258, *byte_ids(b"ac")]


def test_counts_weigh_words_and_overlap() -> None:
    assert count_pairs({(1, 1, 1): 2, (1, 2): 5}) == Counter({(1, 1): 4, (1, 2): 5})


def test_merge_goes_from_left_to_right() -> None:
    assert merge((1, 1, 1, 2), (1, 1), 9) == (9, 1, 2)


def test_rank_order_beats_text_order() -> None:
    a, b, c = byte_ids(b"abc")
    assert encode_word(b"abc", {(b, c): 0, (a, b): 1}) == [a, 256]


def test_merges_equal_those_of_tokenizers(pattern: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    rng = random.Random(3)
    texts = [*TEXTS, *(random_text(rng, 200) for _ in range(5))]
    ours = BPE.train(texts, 700, pattern)
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS[pattern]), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False))
    assert theirs.get_vocab_size() == ours.vocab_size == 700
    assert [theirs.id_to_token(i) for i in range(700)] == list(ranks_as_chars(ours))
    for text in texts:
        assert theirs.encode(text).ids == ours.encode(text)


def ranks_as_chars(tokenizer: BPE) -> list[str]:
    from underhood.text.alphabet import to_chars

    return [to_chars(tokenizer.tokens[i]) for i in range(tokenizer.vocab_size)]


def test_ids_equal_those_of_tiktoken(pattern: str, merges: list[Pair]) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    theirs = tiktoken.Encoding("ours", pat_str=PATTERNS[pattern], mergeable_ranks=ranks_of(Vocabulary(merges=merges)), special_tokens={})
    ours, rng = BPE(merges, pattern), random.Random(4)
    for text in (*TEXTS, "e" * 300, " " * 99 + "x", *(random_text(rng, 80) for _ in range(200))):
        assert ours.encode(text) == theirs.encode_ordinary(text)


@given(st.text())
def test_round_trip_of_any_text(text: str) -> None:
    tokenizer = BPE.train(["the then there 日本"], 265)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.binary())
def test_round_trip_of_any_bytes(data: bytes) -> None:
    tokenizer = BPE([(0, 1)])
    assert tokenizer.decode_bytes(byte_ids(data)) == data
    assert tokenizer.decode(byte_ids(data)) == data.decode(errors="replace")


def test_a_character_split_over_tokens_is_whole_again() -> None:
    tokenizer = BPE([])
    assert len(tokenizer.encode("日")) == 3
    assert tokenizer.decode(tokenizer.encode("日")) == "日"
    assert tokenizer.decode(tokenizer.encode("日")[:2]) == "\ufffd"


def test_surrogates_are_joined_or_replaced() -> None:
    tokenizer = BPE([])
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00 \ud83d")) == "😀 \ufffd"


def test_special_tokens_are_text_unless_allowed() -> None:
    tokenizer = BPE([(0, 1)], special=["<|end|>", "<|end|>!"])
    assert tokenizer.special == {"<|end|>": 257, "<|end|>!": 258}
    text = "a<|end|>!b<|end|>"
    assert max(tokenizer.encode(text)) < 257
    assert tokenizer.decode(tokenizer.encode(text)) == text
    a, b = byte_ids(b"ab")
    assert tokenizer.encode(text, {"<|end|>", "<|end|>!"}) == [a, 258, b, 257]
    assert tokenizer.encode(text, {"<|end|>"}) == [a, 257, *byte_ids(b"!"), b, 257]
    assert tokenizer.decode([a, 258, b, 257]) == text
    with pytest.raises(UnknownName):
        tokenizer.encode(text, {"<|fim|>"})


def test_special_ids_may_have_gaps() -> None:
    tokenizer = BPE([], special={"<a>": 300})
    assert tokenizer.vocab_size == 301
    with pytest.raises(TokenizerError, match="no token has the id 299"):
        tokenizer.decode([299])
    with pytest.raises(ConfigError, match="ordinary token"):
        BPE([], special={"<a>": 255})
    with pytest.raises(ConfigError, match="twice"):
        BPE([], special=["<a>", "<a>"])


def test_vocabulary_larger_than_the_text_allows_names_the_largest() -> None:
    with pytest.raises(DataError, match="at most 258"):
        BPE.train(["abc"], 300)
    assert BPE.train(["abc"], 258).vocab_size == 258
    with pytest.raises(DataError, match="at most 256"):
        BPE.train([""], 300)
    with pytest.raises(ConfigError, match="at least 257"):
        BPE.train(["abc"], 256, special=["<a>"])


def test_ids_outside_the_vocabulary() -> None:
    for wrong in (-1, 256):
        with pytest.raises(TokenizerError, match=f"id {wrong}"):
            BPE([]).decode([wrong])


def test_damaged_merges() -> None:
    with pytest.raises(TokenizerError, match="merge 0: joins the ids 256 and 1"):
        BPE([(256, 1)])
    with pytest.raises(TokenizerError, match="token already"):
        BPE([(0, 1), (0, 1)])


def test_save_and_load(tmp_path: Path, pattern: str, merges: list[Pair]) -> None:
    ours = BPE(merges, pattern, ["<|endoftext|>"])
    ours.save(tmp_path / "tokenizer.json")
    back = BPE.load(tmp_path / "tokenizer.json")
    assert (back.merges, back.pattern, back.special) == (ours.merges, pattern, ours.special)
    assert back.encode(WORLD) == ours.encode(WORLD)
