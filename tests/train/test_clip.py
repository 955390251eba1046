"""Clipping against torch's; what is no number is an error."""

import math

import pytest
import torch
from torch import nn

from underhood.base.errors import NonFinite
from underhood.train.clip import clip_gradients, gradient_norm


def with_gradients(*gradients: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(len(g))) for g in gradients]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = torch.tensor(g)
    return parameters


def test_by_hand() -> None:
    parameters = with_gradients([3.0], [0.0, 4.0])
    assert clip_gradients(parameters, 1.0) == pytest.approx(5.0)
    assert parameters[0].grad.tolist() == pytest.approx([0.6])
    assert parameters[1].grad.tolist() == pytest.approx([0.0, 0.8])


def test_short_gradients_are_not_touched() -> None:
    parameters = with_gradients([0.3, -0.4])
    before = parameters[0].grad.clone()
    assert clip_gradients(parameters, 1.0) == pytest.approx(0.5)
    assert torch.equal(parameters[0].grad, before)
    assert clip_gradients(with_gradients([30.0]), None) == pytest.approx(30.0)


def test_equals_torch() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).tolist()
    ours, theirs = with_gradients(values[:20], values[20:]), with_gradients(values[:20], values[20:])
    norm = clip_gradients(ours, 0.7)
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs, 0.7)))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_is_an_error_and_spreads_to_nothing(bad: float) -> None:
    parameters = with_gradients([1.0, bad], [2.0])
    with pytest.raises(NonFinite, match="gradient norm"):
        clip_gradients(parameters, 1.0)
    assert parameters[1].grad.tolist() == [2.0]
    theirs = with_gradients([1.0, bad], [2.0])
    nn.utils.clip_grad_norm_(theirs, 1.0)
    assert theirs[1].grad.tolist() != [2.0], "without the guard the healthy gradient is lost"


def test_nothing_has_norm_zero() -> None:
    assert gradient_norm([nn.Parameter(torch.zeros(2))]) == 0
    assert clip_gradients([], 1.0) == 0
