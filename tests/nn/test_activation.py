"""Activations against torch, forward and backward."""

import math

import pytest
import torch
import torch.nn.functional as F

from underhood.nn import activation

PAIRS = {
    "relu": F.relu,
    "relu_squared": lambda x: F.relu(x) ** 2,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


@pytest.mark.parametrize("name", PAIRS)
def test_equals_torch(name: str) -> None:
    ours, theirs = getattr(activation, name), PAIRS[name]
    x = torch.linspace(-6, 6, 241)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    wide = (x[x != 0].double() + 1e-3).requires_grad_()
    (mine,), (other,) = torch.autograd.grad(ours(wide).sum(), wide), torch.autograd.grad(theirs(wide).sum(), wide)
    torch.testing.assert_close(mine, other)


def test_by_hand() -> None:
    one = torch.tensor(1.0, dtype=torch.float64)
    assert activation.gelu(one).item() == pytest.approx(0.841344746, abs=1e-9)  # the normal distribution's Φ(1)
    assert activation.silu(one).item() == pytest.approx(1 / (1 + math.exp(-1)))
    assert activation.relu_squared(torch.tensor([-3.0, 3.0])).tolist() == [0.0, 9.0]


def test_the_two_gelus_are_near_but_not_equal() -> None:
    x = torch.linspace(-6, 6, 2401, dtype=torch.float64)
    gap = (activation.gelu(x) - activation.gelu_tanh(x)).abs().max().item()
    assert 1e-5 < gap < 5e-4
