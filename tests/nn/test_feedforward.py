"""Feed-forward layers: by the formula, position by position."""

import pytest
import torch
import torch.nn.functional as F

from underhood.nn.activation import relu, silu
from underhood.nn.feedforward import FeedForward, GatedFeedForward
from underhood.nn.init import fan_in, init_parameters


def built(kind: type, **options: object) -> torch.nn.Module:
    layer: torch.nn.Module = kind(6, 10, **options).double()
    init_parameters(layer, 0, fan_in)
    return layer


X = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_plain_is_down_of_bent_up() -> None:
    layer = built(FeedForward, activation=relu)
    state = layer.state_dict()
    expected = F.linear(F.relu(F.linear(X, state["up.weight"], state["up.bias"])), state["down.weight"], state["down.bias"])
    torch.testing.assert_close(layer(X), expected)


def test_gated_is_swiglu() -> None:
    layer = built(GatedFeedForward, activation=silu)
    state = layer.state_dict()
    expected = (F.silu(X @ state["gate.weight"].T) * (X @ state["up.weight"].T)) @ state["down.weight"].T
    torch.testing.assert_close(layer(X), expected)
    assert set(state) == {"gate.weight", "up.weight", "down.weight"}


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
def test_no_position_sees_another(kind: type) -> None:
    layer = built(kind)
    changed = X.clone()
    changed[:, 1] += 1
    moved = (layer(changed) - layer(X)).abs().amax(-1) > 0
    assert moved.tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
def test_gradients(kind: type) -> None:
    layer = built(kind)
    assert torch.autograd.gradcheck(layer, X[:, :2].clone().requires_grad_())
