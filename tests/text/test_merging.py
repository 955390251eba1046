"""Merges in any order: the linear algorithm against the definition, and its time where every merge has to wait for its neighbours."""

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.base.errors import TokenizerError
from underhood.text.merging import Merges, _LongWord
from underhood.text.words import WordEncoder


def by_definition(ids: list[int], merges: Merges) -> list[int]:
    """Of all pairs present the one of lowest rank, leftmost first, until none is left."""
    while known := [(merges.ranks[pair], at) for at, pair in enumerate(pairwise(ids)) if pair in merges.ranks]:
        rank, at = min(known)
        ids = [*ids[:at], merges.made[rank], *ids[at + 2 :]]
    return ids


def any_merges(rng: random.Random, letters: str, longest: int, count: int) -> tuple[dict[str, int], Merges]:
    """Random tokens, and for each some of the ways to make it of two others, in random order."""
    tokens = {"".join(rng.choice(letters) for _ in range(rng.randint(2, longest))) for _ in range(count)}
    vocab = {token: k for k, token in enumerate([*letters, *sorted(tokens)])}
    splits = [(token[:k], token[k:]) for token in sorted(tokens) for k in range(1, len(token)) if token[:k] in vocab and token[k:] in vocab]
    rng.shuffle(splits)
    kept = splits[: rng.randint(0, len(splits))]
    return vocab, Merges([(vocab[a], vocab[b]) for a, b in kept], [vocab[a + b] for a, b in kept])


def test_by_hand() -> None:
    """0 0 → 1 comes first, and 1 0 → 2 waits for it: three zeros are a 2, and of seven the last is left over."""
    merges = Merges([(0, 0), (1, 0)], [1, 2])
    assert merges.used_before == [False, False]
    assert _LongWord(merges, [0] * 3).merged() == [2] == merges.apply([0] * 3)
    assert _LongWord(merges, [0] * 7).merged() == [1, 1, 2]
    early = Merges([(1, 0), (0, 0)], [2, 1])
    assert early.used_before == [False, True]
    assert _LongWord(early, [0] * 7).merged() == [2, 2, 0]


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from(["a", "ab", "abc"]), st.integers(2, 8))
def test_long_words_as_defined(seed: int, letters: str, longest: int) -> None:
    rng = random.Random(seed)
    vocab, merges = any_merges(rng, letters, longest, rng.randint(1, 25))
    text = "".join(rng.choice(letters) * rng.choice((1, 1, 2, 5)) for _ in range(rng.randrange(60)))
    ids = [vocab[char] for char in text]
    expected = by_definition(ids, merges)
    assert merges.apply(list(ids)) == expected
    assert not ids or _LongWord(merges, ids).merged() == expected


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32), st.text("abcdeüé日", max_size=200))
def test_cutting_changes_nothing(seed: int, text: str) -> None:
    """Pieces between which no merge reaches give the ids of the whole, characters without a token among them."""
    vocab, merges = any_merges(random.Random(seed), "abcde", 4, 12)
    encoder = WordEncoder(vocab, merges, bytes_of=range(1000, 1256))
    symbols = [number for char in text for number in ([vocab[char]] if char in vocab else [1000 + byte for byte in char.encode()])]
    assert encoder.can_cut
    assert encoder.encode(text) == by_definition(symbols, merges)
    assert "".join(encoder._cut(text)) == text
    assert [i for piece in encoder._cut(text) for i in encoder._encode_piece(piece)] == by_definition(symbols, merges)


def test_unknown_characters_that_fuse_are_not_cut_apart() -> None:
    vocab, merges = {"a": 0, "?": 1, "aa": 2}, Merges([(0, 0)], [2])
    assert WordEncoder(vocab, merges, unknown=1).encode("éé" + "a" * 80) == [1, 1, *[2] * 40]
    assert WordEncoder(vocab, merges, unknown=1, fuse=True).encode("é" * 80 + "a" + "éé") == [1, 0, 1]
    joined = Merges([(0, 0), (1, 1)], [2, 0])  # the unknown token itself merges
    assert WordEncoder(vocab, joined, unknown=1).encode("é" * 80) == by_definition([1] * 80, joined)
    beside = Merges([(0, 0), (1, 2)], [2, 0])  # and with a known one
    assert WordEncoder(vocab, beside, unknown=1).encode("é" + "a" * 80) == by_definition([1, *[0] * 80], beside)
    with pytest.raises(TokenizerError, match=r"'é' \(U\+00E9\) has no token"):
        WordEncoder(vocab, merges).encode("aé")


@pytest.mark.parametrize("order", ["as learned", "largest first", "shuffled"])
def test_a_run_whatever_the_order_of_the_merges(order: str) -> None:
    """Sixteen lengths of a run and every way to make each: two seconds for a million, ten times the run in at most fifteen times as long."""
    pairs = [(left, right) for length in range(2, 17) for left in range(1, length) for right in (length - left,)]
    if order != "as learned":
        pairs.sort(key=lambda pair: -sum(pair)) if order == "largest first" else random.Random(1).shuffle(pairs)
    merges = Merges(pairs, [sum(pair) for pair in pairs])
    assert by_definition([1] * 100, merges) == _LongWord(merges, [1] * 100).merged()
    seconds = []
    for n in (100_000, 1_000_000):
        start = time.process_time()
        found = merges.apply([1] * n)
        seconds.append(time.process_time() - start)
        assert sum(found) == n
    assert seconds[1] < 2.0
    assert seconds[1] <= 15 * seconds[0] + 0.5
