"""Initialisation: each parameter from its own stream, with the deviation that its scheme names."""

import math

import pytest
import torch

from underhood.base.rng import stream_seed
from underhood.nn.gpt import GPTConfig, build_gpt

CONFIG = GPTConfig(vocab_size=50, context=16, n_layer=2, n_head=2, width=64)


def test_gpt2_scheme() -> None:
    state = build_gpt(CONFIG, 0).state_dict()
    for name, value in state.items():
        if name.endswith("bias"):
            assert (value == 0).all()
        elif value.ndim == 1:
            assert (value == 1).all()
        else:
            expected = 0.02 / math.sqrt(4) if name.endswith(("output.weight", "down.weight")) else 0.02
            assert value.std().item() == pytest.approx(expected, rel=0.1), name


def test_fan_in_keeps_the_variance() -> None:
    state = build_gpt(GPTConfig(vocab_size=50, width=64, init="fan_in", residual_init="plain"), 0).state_dict()
    assert state["blocks.0.attention.qkv.weight"].std().item() == pytest.approx(1 / 8, rel=0.05)
    assert state["blocks.0.feedforward.down.weight"].std().item() == pytest.approx(1 / 16, rel=0.05)


def test_the_residual_option() -> None:
    plain, zero = (build_gpt(GPTConfig(vocab_size=50, residual_init=r), 0).state_dict() for r in ("plain", "zero"))
    assert plain["blocks.1.attention.output.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert (zero["blocks.1.attention.output.weight"] == 0).all()
    assert torch.equal(plain["blocks.1.attention.qkv.weight"], zero["blocks.1.attention.qkv.weight"])


def test_zeros_is_zero_everywhere_but_the_gains() -> None:
    for name, value in build_gpt(GPTConfig(vocab_size=50, init="zeros"), 0).named_parameters():
        assert (value == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name


def test_every_parameter_has_a_stream_of_its_own() -> None:
    state = build_gpt(CONFIG, 7).state_dict()
    name = "blocks.1.attention.qkv.weight"
    generator = torch.Generator().manual_seed(stream_seed(7, f"init/{name}"))
    assert torch.equal(state[name], 0.02 * torch.randn(192, 64, generator=generator))
    deeper = build_gpt(GPTConfig(vocab_size=50, context=16, n_layer=3, n_head=2, width=64, positions="Rotary"), 7).state_dict()
    assert torch.equal(deeper[name], state[name])
    assert not torch.equal(build_gpt(CONFIG, 8).state_dict()[name], state[name])


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    first = build_gpt(CONFIG, 0).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert all(torch.equal(v, first[n]) for n, v in build_gpt(CONFIG, 0).state_dict().items())
