"""A text's own guesses are those of the plain search."""

import random

import torch

from underhood.infer.lookup import Lookup
from underhood.infer.speculate import NGramDraft


def test_the_same_guesses_as_the_plain_search() -> None:
    draw = random.Random(0)
    found = 0
    for most in (1, 2, 3, 4):
        lookup, plain, text = Lookup(most, 1), NGramDraft(6, most), [0]
        for _ in range(150):
            text += [draw.randrange(6) for _ in range(draw.randrange(1, 4))]
            count = draw.randrange(1, 6)
            guesses, expected = lookup.guesses(text, count), plain.propose(text, count, torch.zeros(count))[0]
            assert guesses[: len(expected)] == expected
            assert len(guesses) == (count if expected else 0)
            found += bool(guesses)
    assert found > 500


def test_shorter_runs_than_the_least_say_nothing() -> None:
    assert Lookup(3, 2).guesses([1, 2, 3, 1], 4) == []
    assert Lookup(3, 2).guesses([1, 2, 3, 1, 2], 4) == [3, 1, 2, 3]  # what follows reaches the end, and repeats
    assert Lookup().guesses([7], 4) == []
