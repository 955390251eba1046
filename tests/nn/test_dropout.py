"""Dropout: identity when off, unbiased when on, from its own generator alone."""

import copy

import pytest
import torch

from underhood.base.errors import ConfigError
from underhood.nn.dropout import Dropout, dropout_generator, seed_dropout

X = torch.ones(200, 200)


def seeded(p: float, seed: int = 0) -> Dropout:
    layer = Dropout(p)
    seed_dropout(layer, seed)
    return layer


def test_off_is_the_identity() -> None:
    assert Dropout(0.0)(X) is X
    assert Dropout(0.5).eval()(X) is X


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_the_share_asked_for_and_keeps_the_mean(p: float) -> None:
    out = seeded(p)(X)
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=0.01)  # 40,000 draws: five deviations at most
    assert out.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = seeded(0.5)(X)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(seeded(0.5)(X), first)
    assert not torch.equal(seeded(0.5, seed=1)(X), first)


def test_the_generators_state_resumes_the_draws() -> None:
    layer = torch.nn.Sequential(seeded(0.5), Dropout(0.5))
    generator = seed_dropout(layer, 3)
    assert dropout_generator(layer) is generator
    layer(X)
    state = generator.get_state()
    expected = layer(X)
    layer(X)
    generator.set_state(state)
    assert torch.equal(layer(X), expected)
    assert dropout_generator(torch.nn.Linear(1, 1)) is None


def test_gradient_flows_only_through_what_was_kept() -> None:
    x = X.clone().requires_grad_()
    out = seeded(0.5)(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out.detach())


def test_errors() -> None:
    with pytest.raises(ConfigError, match="no generator"):
        Dropout(0.5)(X)
    for p in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="probability"):
            Dropout(p)


def test_a_copied_model_draws_the_same() -> None:
    layer = seeded(0.5)
    twin = copy.deepcopy(layer)
    assert torch.equal(layer(X), twin(X))
