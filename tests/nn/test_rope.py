"""Frequencies beyond the trained length, beside transformers' own."""

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from underhood.base.errors import ConfigError
from underhood.nn.positions import Rotary, frequencies
from underhood.nn.rope import LateTurn, RopeConfig, ScaledRotary, dynamic_factor, kept_by_turns, ntk_base, scaled_frequencies, yarn_factor

D = 32
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}
CASES = {
    "linear": (RopeConfig(kind="linear", factor=4), {"factor": 4.0}),
    "dynamic": (RopeConfig(kind="dynamic", factor=2, original_context=512), {"factor": 2.0}),
    "llama3": (RopeConfig(kind="llama3", factor=8, original_context=256, base=500_000), {**LLAMA3, "rope_theta": 500_000.0}),
    "yarn": (RopeConfig(kind="yarn", factor=4, original_context=128), YARN),
    "yarn, not truncated": (RopeConfig(kind="yarn", factor=4, original_context=128, truncate=False), {**YARN, "truncate": False}),
    "yarn, other bounds": (RopeConfig(kind="yarn", factor=4, original_context=128, beta_fast=16, beta_slow=2), {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("length", [100, 700])
def test_frequencies_are_those_of_transformers(case: str, length: int) -> None:
    ours, parameters = CASES[case]
    rope = {"rope_type": ours.kind, "rope_theta": 10_000.0, **parameters}
    config = LlamaConfig(hidden_size=4 * D, num_attention_heads=4, max_position_embeddings=512, rope_parameters=rope)
    theirs, factor = ROPE_INIT_FUNCTIONS[ours.kind](config, torch.device("cpu"), seq_len=length)
    torch.testing.assert_close(scaled_frequencies(D, ours, length).float(), theirs, rtol=2e-6, atol=0)
    assert ScaledRotary(1024, 4 * D, D, ours).attention_factor == pytest.approx(factor)


def test_without_scaling_it_is_plain_rotary() -> None:
    x, q = torch.randn(2, 9, 4 * D), torch.randn(2, 4, 9, D)
    scaled, plain = ScaledRotary(64, 4 * D, D, RopeConfig()), Rotary(64, 4 * D, D)
    torch.testing.assert_close(scaled.rotation(x, 7)(q), plain.rotation(x, 7)(q))


def test_interpolation_puts_new_positions_between_the_old() -> None:
    scaled, plain = ScaledRotary(64, D, D, RopeConfig(kind="linear", factor=4)), ScaledRotary(64, D, D, RopeConfig())
    four, one = scaled.turn(torch.tensor([4.0]), 5, torch.zeros(1)), plain.turn(torch.tensor([1.0]), 2, torch.zeros(1))
    torch.testing.assert_close(four.cos, one.cos)
    torch.testing.assert_close(four.sin, one.sin)


def test_ntk_divides_the_slowest_by_the_factor_and_leaves_the_fastest() -> None:
    before, after = frequencies(D), frequencies(D, ntk_base(10_000.0, 4.0, D))
    assert float(after[0]) == 1
    assert float(before[-1] / after[-1]) == pytest.approx(4)


def test_dynamic_grows_with_the_length() -> None:
    assert [dynamic_factor(2, n, 100) for n in (1, 100, 200, 400)] == [1, 1, 3, 7]


def test_yarn_sharpens_and_keeps_fast_pairs() -> None:
    assert yarn_factor(1) == 1
    assert 1 < yarn_factor(8) == pytest.approx(0.1 * math.log(8) + 1)  # more than 1 makes scores larger: the temperature falls
    keep = kept_by_turns(D, RopeConfig(kind="yarn", factor=4, original_context=1024))
    assert float(keep[0]) == 1
    assert float(keep[-1]) == 0
    assert bool((keep.diff() <= 0).all())


def test_a_dynamic_turn_turns_all_keys_anew() -> None:
    rotary = ScaledRotary(64, D, D, RopeConfig(kind="dynamic", factor=2, original_context=8))
    x = torch.zeros(1, 1, D)
    late = rotary.rotation(x, 19)
    assert isinstance(late, LateTurn)
    assert late.keys.cos.shape == (20, D // 2)
    torch.testing.assert_close(late.keys.cos[-1:], late.cos)
    short = rotary.rotation(x, 3)
    torch.testing.assert_close(short.cos, ScaledRotary(64, D, D, RopeConfig()).rotation(x, 3).cos)


def test_a_cast_model_keeps_its_angles() -> None:
    rotary = ScaledRotary(4096, D, D, RopeConfig())
    before = rotary.rotation(torch.zeros(1, 1, D), 4000).cos
    torch.testing.assert_close(rotary.to(torch.bfloat16).rotation(torch.zeros(1, 1, D), 4000).cos, before)


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"kind": "yarn", "factor": 2}, "original_context"),
        ({"kind": "linear", "factor": 0.5}, "factor"),
        ({"base": 0}, "base"),
        ({"factor": math.inf}, "factor"),
        ({"attention_factor": 0.0}, "attention_factor"),
        ({"attention_factor": math.nan}, "attention_factor"),
        ({"kind": "llama3", "factor": 2, "original_context": 8, "low_freq_factor": 4, "high_freq_factor": 4}, "high_freq_factor"),
    ],
)
def test_what_cannot_be_is_named(wrong: dict[str, object], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        RopeConfig(**wrong)  # type: ignore[arg-type]


def test_an_odd_head_has_no_pairs() -> None:
    with pytest.raises(ConfigError, match="even head width"):
        ScaledRotary(8, 5, 5, RopeConfig())
