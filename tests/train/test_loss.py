"""Cross-entropy against torch's, forward and backward; the chunked one against both, and its memory."""

import math

import pytest
import torch
import torch.nn.functional as F

from underhood.base.errors import DataError
from underhood.train.loss import IGNORE, chunked_cross_entropy, cross_entropy


def example(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 7, 8, generator=generator, dtype=dtype)
    weight = torch.randn(11, 8, generator=generator, dtype=dtype)
    targets = torch.randint(0, 11, (4, 7), generator=generator)
    targets[0, :3] = IGNORE
    return hidden, weight, targets


def test_by_hand() -> None:
    """Two equal logits: ln 2. A logit that is ahead by ln 3: the probability is 3/4."""
    assert cross_entropy(torch.zeros(1, 2), torch.tensor([1])).item() == pytest.approx(math.log(2))
    assert cross_entropy(torch.tensor([[math.log(3), 0.0]]), torch.tensor([0])).item() == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("chunk", [0, 1, 5, 28, 100])
def test_equals_torch_forward_and_backward(chunk: int, reduction: str) -> None:
    results = []
    for ours in (True, False):
        hidden, weight, targets = example()
        hidden.requires_grad_()
        weight.requires_grad_()
        if not ours:
            loss = F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction=reduction)
        elif chunk:
            loss = chunked_cross_entropy(hidden, weight, targets, chunk=chunk, reduction=reduction)
        else:
            loss = cross_entropy(hidden @ weight.T, targets, reduction=reduction)
        (3 * loss).backward()
        results.append((loss.detach(), hidden.grad, weight.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_gradcheck() -> None:
    hidden, weight, targets = example()
    hidden.requires_grad_()
    weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: chunked_cross_entropy(h, w, targets, chunk=5), (hidden, weight), eps=1e-6, atol=1e-5, rtol=1e-3)


def test_only_what_is_asked_for_is_computed() -> None:
    hidden, weight, targets = example()
    weight.requires_grad_()
    chunked_cross_entropy(hidden, weight, targets, chunk=5).backward()
    assert weight.grad is not None
    with torch.no_grad():
        plain = cross_entropy(hidden @ weight.T, targets)
        torch.testing.assert_close(chunked_cross_entropy(hidden, weight, targets, chunk=3), plain)


def test_bf16_is_judged_against_float64() -> None:
    hidden, weight, targets = example()
    truth = cross_entropy(hidden @ weight.T, targets)
    theirs = F.cross_entropy((hidden.bfloat16() @ weight.bfloat16().T).float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    ours = chunked_cross_entropy(hidden.bfloat16(), weight.bfloat16(), targets, chunk=5)
    assert ours.dtype == torch.float32
    assert abs(ours - truth) <= 1.5 * abs(theirs - truth) + 1e-6


def test_logits_are_never_held_whole() -> None:
    """The largest matrix of width V that is alive has ``chunk`` rows: the products are watched."""
    hidden, weight, targets = example(torch.float32)
    hidden.requires_grad_()
    rows = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.ndim == 2 and out.shape[1] == 11 and out.shape[0] != weight.shape[1]:
                rows.append(out.shape[0])
            return out

    with Watch():
        chunked_cross_entropy(hidden, weight, targets, chunk=4).backward()
    assert max(rows) == 4
    assert len(rows) > 7


def test_all_ignored_is_an_error_not_a_nan() -> None:
    hidden, weight, targets = example()
    nothing = torch.full_like(targets, IGNORE)
    assert math.isnan(F.cross_entropy((hidden @ weight.T).flatten(0, 1), nothing.flatten()))
    with pytest.raises(DataError, match="every target"):
        cross_entropy(hidden @ weight.T, nothing)
    with pytest.raises(DataError, match="every target"):
        chunked_cross_entropy(hidden, weight, nothing)
    assert cross_entropy(hidden @ weight.T, nothing, reduction="sum") == 0


def test_large_logits_do_not_overflow() -> None:
    assert cross_entropy(torch.tensor([[1e4, 0.0]]), torch.tensor([1])).item() == pytest.approx(1e4)
