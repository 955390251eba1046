"""Minimal pairs: what is right is what the grammar allows, and a model that sees no prefix is at one half."""

import math
from collections import Counter

import pytest

from underhood.data.tales_pairs import FARTHEST, KINDS, PAIR_SKILLS, Pair, minimal_pairs
from underhood.data.tales_score import score

N = 60


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return minimal_pairs(N, seed=1)


def test_every_skill_has_its_pairs_in_equal_numbers_of_each_kind(pairs: list[Pair]) -> None:
    counts = Counter((pair.skill, pair.kind) for pair in pairs)
    assert counts == {(skill, kind): N // len(KINDS[skill]) for skill in PAIR_SKILLS for kind in KINDS[skill]}


def test_the_same_seed_gives_the_same_pairs(pairs: list[Pair]) -> None:
    assert minimal_pairs(10, seed=1) == minimal_pairs(10, seed=1)
    assert minimal_pairs(10, seed=1) != minimal_pairs(10, seed=2)
    assert {pair.skill for pair in minimal_pairs(10, seed=1, skills=("order",))} == {"order"}


def test_right_and_wrong_differ_and_start_alike(pairs: list[Pair]) -> None:
    for pair in pairs:
        assert pair.right != pair.wrong
        assert not pair.prefix.endswith(" ")
        assert pair.right.startswith(" ") == pair.wrong.startswith(" ")
        assert not pair.right.startswith(pair.wrong)
        assert not pair.wrong.startswith(pair.right)


@pytest.mark.parametrize("skill", ["agreement", "recall", "binding", "counting", "order", "names", "pronouns"])
def test_the_scorer_agrees_where_the_continuation_ends_the_sentence(pairs: list[Pair], skill: str) -> None:
    """An independent judge: with ``right`` nothing is wrong, with ``wrong`` one point of this skill is."""
    scored = {"binding": "recall"}.get(skill, skill)
    ending = [pair for pair in pairs if pair.skill == skill and pair.right[-1] in ".?"]
    for pair in ending:
        right, wrong = score(pair.prefix + pair.right), score(pair.prefix + pair.wrong)
        assert right[scored].right == right[scored].total
        assert wrong[scored].right == wrong[scored].total - 1, pair
    assert ending or skill in ("agreement", "pronouns")


def test_agreement_and_pronouns_are_opposites(pairs: list[Pair]) -> None:
    seen = {(pair.right.split()[0], pair.wrong.split()[0]) for pair in pairs if pair.skill in ("agreement", "pronouns")}
    assert ("was", "were") in seen
    assert ("were", "was") in seen
    assert all((b, a) in seen or (a, b) in seen for a, b in seen)


def test_recall_has_a_wrong_filler_that_was_not_said_and_binding_one_that_was(pairs: list[Pair]) -> None:
    for pair in pairs:
        filler = pair.wrong.strip(' .,?"')
        if pair.skill == "recall":
            assert filler not in pair.prefix
        if pair.skill == "binding":
            assert filler in pair.prefix
        if pair.skill in ("recall", "binding"):
            assert pair.kind == str(min(pair.distance, FARTHEST))
            assert pair.right.strip(' .,?"') in pair.prefix


def test_a_model_that_sees_no_prefix_is_at_one_half() -> None:
    """The best it can do is to know how often each continuation is right: learned on half of the pairs, asked on the others, both ways."""
    pairs = minimal_pairs(200, seed=4)
    for skill in PAIR_SKILLS:
        mine = sorted((pair for pair in pairs if pair.skill == skill), key=lambda pair: hash_of(pair.prefix))
        shares = [accuracy(mine[::2], mine[1::2]), accuracy(mine[1::2], mine[::2])]
        assert abs(sum(shares) / 2 - 0.5) < 4 * math.sqrt(0.25 / len(mine)), (skill, shares)


def accuracy(learned: list[Pair], asked: list[Pair]) -> float:
    often = Counter(pair.right for pair in learned)
    return sum((often[p.right] > often[p.wrong]) + 0.5 * (often[p.right] == often[p.wrong]) for p in asked) / len(asked)


def hash_of(text: str) -> int:
    return sum(i * ord(c) for i, c in enumerate(text)) % 1009
