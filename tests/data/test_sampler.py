"""Samplers: which windows, in which order, and exactly the same ones after a resume."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from underhood.base.errors import DataError
from underhood.data.sampler import Batches, RandomSampler, Sampler, SequentialSampler, ShuffledSampler, permuted

MAKE: dict[str, Callable[[], Sampler]] = {
    "sequential": lambda: SequentialSampler(100, 7, 4),
    "shuffled": lambda: ShuffledSampler(100, 7, 4, 3),
    "random": lambda: RandomSampler(100, 7, 4, 3),
}


def epoch(sampler: Sampler, batches: int) -> list[int]:
    return [int(start) for _ in range(batches) for start in sampler.next()]


def test_sequential_windows_stand_side_by_side_and_begin_again() -> None:
    """100 tokens hold 14 windows of 7 and a target: 0, 7, …, 91."""
    assert epoch(SequentialSampler(100, 7, 4), 4) == [*range(0, 98, 7), 0, 7]


def test_the_last_window_needs_its_last_target() -> None:
    assert SequentialSampler(98, 7, 1).windows == 13
    assert SequentialSampler(99, 7, 1).windows == 14


def test_an_epoch_of_shuffled_windows_has_each_once_and_every_epoch_its_own_order() -> None:
    sampler = ShuffledSampler(100, 7, 7, 0)
    first, second = epoch(sampler, 2), epoch(sampler, 2)
    assert sorted(first) == sorted(second) == list(range(0, 98, 7))
    assert first != second
    assert first != epoch(ShuffledSampler(100, 7, 7, 1), 2)


def test_an_epoch_may_end_within_a_batch() -> None:
    starts = epoch(ShuffledSampler(100, 7, 4, 0), 7)
    assert sorted(starts[:14]) == sorted(starts[14:]) == list(range(0, 98, 7))


def test_random_windows_start_anywhere_and_never_run_over() -> None:
    starts = epoch(RandomSampler(20, 7, 50, 0), 20)
    assert set(starts) == set(range(13))  # 12 + 7 is the last token
    counts = np.bincount(starts)
    assert abs(counts - len(starts) / 13).max() < 5 * np.sqrt(len(starts) / 13)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("before", [0, 1, 9])
def test_a_resumed_sampler_goes_on_as_if_never_stopped(name: str, before: int) -> None:
    whole, stopped = MAKE[name](), MAKE[name]()
    expected = epoch(whole, before + 20)[before * 4 :]
    epoch(stopped, before)
    fresh = MAKE[name]()
    fresh.load_state(json.loads(json.dumps(stopped.state())))
    assert epoch(fresh, 20) == expected


@given(st.integers(1, 5000), st.integers(0, 2**63 - 1))
def test_the_keyed_permutation_is_one(n: int, key: int) -> None:
    assert sorted(permuted(np.arange(n), n, key).tolist()) == list(range(n))


def test_the_permutation_holds_for_sizes_that_fit_no_list() -> None:
    n = 10**12
    places = np.arange(0, n, n // 1000)
    sent = permuted(places, n, 5)
    assert len(set(sent.tolist())) == len(places)
    assert 0 <= sent.min() <= sent.max() < n
    assert abs(sent.mean() / n - 0.5) < 4 * np.sqrt(1 / 12 / len(places))


def test_the_permutation_leaves_no_order() -> None:
    sent = permuted(np.arange(10_000), 10_000, 9)
    assert abs(np.corrcoef(np.arange(10_000), sent)[0, 1]) < 0.04
    assert np.mean(np.diff(sent) == 1) < 0.002


def test_batches_are_windows_and_the_token_after() -> None:
    ids = np.arange(100, dtype=np.uint16)
    x, y = Batches(ids, SequentialSampler(100, 7, 2), 7).next()
    assert x.tolist() == [[0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12, 13]]
    assert y.tolist() == [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14]]
    assert x.dtype == y.dtype == torch.int64


@pytest.mark.parametrize("ids", [list(range(100)), np.arange(100), torch.arange(100)])
def test_batches_of_anything_like_an_array_resume(ids: object) -> None:
    batches = Batches(ids, RandomSampler(100, 7, 3, 0), 7)
    batches.next()
    state = batches.state()
    x, _ = batches.next()
    batches.load_state(state)
    assert torch.equal(batches.next()[0], x)


def test_a_text_shorter_than_the_context_says_so() -> None:
    with pytest.raises(DataError, match=r"7 tokens; expected at least 8 for a context of 7. Give a longer text or a context of at most 6"):
        SequentialSampler(7, 7, 1)
    with pytest.raises(DataError, match="longer text"):
        Batches(np.arange(1), RandomSampler(100, 7, 1, 0), 7)
    with pytest.raises(DataError, match="1 or more"):
        RandomSampler(100, 0, 1, 0)
