"""The filters: by hand, and against transformers' logits processors on the same logits."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from underhood.infer.filters import draw, keep_min_p, keep_top_k, keep_top_p, penalise_repeats

LOGITS = 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
PAST = torch.randint(40, (5, 12), generator=torch.Generator().manual_seed(1))


def kept(logits: Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero().flatten().tolist() for row in logits]


def test_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log()
    assert kept(keep_top_k(logits, 2)) == [[0, 2]]
    assert kept(keep_top_k(logits, 3)) == [[0, 1, 2, 3]]  # the third ties with the fourth
    assert kept(keep_top_k(logits, 100)) == [[0, 1, 2, 3]]
    assert kept(keep_top_p(logits, 0.4)) == [[0]]
    assert kept(keep_top_p(logits, 0.6)) == [[0, 2]]
    assert kept(keep_top_p(logits, 1.0)) == [[0, 1, 2, 3]]
    assert kept(keep_min_p(logits, 0.5)) == [[0, 2]]  # at least 0.25
    assert kept(keep_min_p(logits, 1.0)) == [[0]]
    penalised = penalise_repeats(torch.tensor([[2.0, -2.0, 2.0]]), torch.tensor([[0, 1, 0]]), 2.0)
    assert penalised.tolist() == [[1.0, -4.0, 2.0]]  # twice in the past, once penalised


def test_the_likeliest_always_stays() -> None:
    for p in (1e-9, 0.5):
        for left in (keep_top_k(LOGITS, 1), keep_top_p(LOGITS, p), keep_min_p(LOGITS, 1.0)):
            assert torch.equal(left.argmax(-1), LOGITS.argmax(-1))


def warpers() -> dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    from transformers.generation import logits_process as theirs

    pairs: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {}
    for k in (1, 5, 39, 100):
        pairs[f"top_k {k}"] = (lambda x, k=k: keep_top_k(x, k), lambda x, k=k: theirs.TopKLogitsWarper(k)(PAST, x))
    for p in (0.05, 0.5, 0.9, 0.99):
        pairs[f"top_p {p}"] = (lambda x, p=p: keep_top_p(x, p), lambda x, p=p: theirs.TopPLogitsWarper(p)(PAST, x))
        pairs[f"min_p {p}"] = (lambda x, p=p: keep_min_p(x, p), lambda x, p=p: theirs.MinPLogitsWarper(p)(PAST, x))
    for r in (0.5, 1.3, 4.0):
        pairs[f"repetition {r}"] = (lambda x, r=r: penalise_repeats(x, PAST, r), lambda x, r=r: theirs.RepetitionPenaltyLogitsProcessor(r)(PAST, x))
    return pairs


def test_equal_transformers() -> None:
    pytest.importorskip("transformers")
    for name, (ours, reference) in warpers().items():
        torch.testing.assert_close(ours(LOGITS), reference(LOGITS.clone()), msg=lambda m, n=name: f"{n}: {m}")


def test_draw_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log().expand(6, -1)
    assert draw(logits, torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 1 - 1e-9], dtype=torch.float64)).tolist() == [0, 0, 1, 1, 2, 2]


def test_draw_never_gives_a_ruled_out_token() -> None:
    logits = torch.full((1000, 5), -math.inf)
    logits[:, [1, 3]] = 0.0
    uniform = torch.linspace(0, 1, 1001, dtype=torch.float64)[:1000]
    assert set(draw(logits, uniform).tolist()) == {1, 3}
    assert draw(logits[:1], torch.tensor([1 - 2**-53], dtype=torch.float64)).item() == 3  # the largest number below 1


def test_draw_follows_the_distribution() -> None:
    likely = torch.tensor([0.4, 0.3, 0.2, 0.1])
    uniform = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(draw(likely.log().expand(100_000, -1), uniform), minlength=4)
    chi_square = ((counts - 1e5 * likely).square() / (1e5 * likely)).sum().item()
    assert chi_square < 16.3  # 99.9 % for three degrees of freedom
