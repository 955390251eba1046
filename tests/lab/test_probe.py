"""Probes against models whose answer is known."""

import math

import pytest
import torch

from underhood.lab import probe
from underhood.lab.patch import Edit, applied
from underhood.nn.attention import MultiHeadAttention
from underhood.nn.gpt import GPT, GPTConfig, build_gpt

IDS = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> GPT:
    return build_gpt(GPTConfig(vocab_size=64, context=32, n_layer=2, width=32), seed=1)


def test_a_leak_is_seen_only_when_there_is_one(model: GPT) -> None:
    assert probe.is_causal(model, IDS)
    with applied([Edit("underhood.nn.attention:causal_mask", ".tril(S - T)", ".tril(S - T + 1)")]):
        assert not probe.is_causal(model, IDS)


def test_future_leak_of_a_function_that_looks_ahead_by_one() -> None:
    def peeks(ids: torch.Tensor) -> torch.Tensor:
        return ids.roll(-1, dims=1).double()[..., None]

    assert probe.future_leak(peeks, IDS, 64) > 0
    assert probe.future_leak(lambda ids: ids.double()[..., None], IDS, 64) == 0


def test_attention_entropy_of_equal_weights_is_that_of_the_harmonic_row(model: GPT) -> None:
    for layer in model.modules():
        if isinstance(layer, MultiHeadAttention):
            layer.qkv.weight.data.zero_()
    expected = sum(math.log(t) for t in range(1, 17)) / 16  # row t looks at t places alike: ln t
    assert probe.attention_entropy(model, IDS) == pytest.approx(expected, rel=1e-5)


def test_row_sums(model: GPT) -> None:
    weights = probe.attention_weights(model, IDS)
    assert len(weights) == 2
    assert max(probe.row_sum_error(w) for w in weights.values()) < 1e-5
    assert probe.row_sum_error(torch.full((1, 4), 0.5)) == 1.0


def test_gradients_and_updates(model: GPT) -> None:
    assert probe.gradient_norms(model) == {}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model(IDS).sum().backward()
    assert set(probe.gradient_norms(model)) == set(before)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.01)
    assert probe.update_ratios(before, model)["tokens.weight"] == pytest.approx(0.01, rel=1e-4)


def test_probes_leave_the_model_as_it_was(model: GPT) -> None:
    model.train()
    rng = torch.get_rng_state()
    probe.attention_entropy(model, IDS)
    found = probe.activation_statistics(model, IDS, MultiHeadAttention)
    assert len(found) == 2
    assert all(v["max"] >= v["rms"] > 0 for v in found.values())
    assert model.training
    assert torch.equal(rng, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_paths_and_copies() -> None:
    assert probe.paths_differ(torch.ones(2), torch.ones(3)) == math.inf
    assert probe.paths_differ(torch.tensor([10.0, 0.0]), torch.tensor([10.0, 1.0])) == pytest.approx(0.1)
    text = "the cat sat on the mat and looked at the dog"
    assert probe.copied_share(text, f"once {text} twice") == 1.0
    assert probe.copied_share(text, text.replace("mat", "rug"), length=8) == 0.0
    assert probe.copied_share("too short", text) == 0.0
