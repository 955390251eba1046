"""Every fast twin computes what its plain twin does, forward and backward, from the same parameters."""

import pytest
import torch

from underhood.nn import activation, fast, norm
from underhood.nn.gpt import GPT, GPTConfig, build_gpt

CONFIGS = {
    "gpt2": {},
    "modern": {"norm": "BareRMSNorm", "positions": "Rotary", "activation": "relu_squared", "qk_norm": True, "tie": False, "bias": False},
    "llama": {"norm": "RMSNorm", "positions": "Rotary", "feedforward": "GatedFeedForward", "activation": "silu", "bias": False, "fused_qkv": False},
    "capped": {"logit_cap": 2.0, "positions": "Sinusoidal", "activation": "gelu"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_whole_model_is_equal(name: str) -> None:
    config = GPTConfig(vocab_size=31, context=16, n_layer=2, width=32, init="fan_in", **CONFIGS[name])  # type: ignore[arg-type]
    plain = build_gpt(config, 0)
    quick = GPT(fast.fast(config))
    quick.load_state_dict(plain.state_dict())
    ids = torch.randint(31, (3, 16), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(quick(ids), plain(ids), atol=1e-5, rtol=1e-5)
    for model in (plain, quick):
        model(ids).logsumexp(-1).mean().backward()
    for (parameter, ours), theirs in zip(plain.named_parameters(), quick.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, atol=1e-5, rtol=1e-4, msg=lambda m, p=parameter: f"{p}: {m}")


def test_twins_are_named_where_there_are_any() -> None:
    quick = fast.fast(GPTConfig(vocab_size=2, activation="relu"))
    assert (quick.kernel, quick.norm, quick.activation) == ("sdpa", "underhood.nn.fast:LayerNorm", "relu")
    assert fast.fast(quick) == quick


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "relu_squared"])
def test_activations(name: str) -> None:
    x = torch.linspace(-8, 8, 1001)
    torch.testing.assert_close(getattr(fast, name)(x), getattr(activation, name)(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm", "BareRMSNorm"])
def test_norms(name: str) -> None:
    plain, quick = getattr(norm, name)(12, epsilon=1e-3), getattr(fast, name)(12, epsilon=1e-3)
    generator = torch.Generator().manual_seed(0)
    plain.load_state_dict({n: torch.randn(12, generator=generator) for n, _ in plain.named_parameters()})
    quick.load_state_dict(plain.state_dict())
    x = torch.randn(4, 12, generator=generator)
    torch.testing.assert_close(quick(x), plain(x), atol=1e-5, rtol=1e-5)
