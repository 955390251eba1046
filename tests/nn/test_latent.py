"""Latent attention beside transformers' DeepSeek-V2."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention, DeepseekV2RotaryEmbedding

from underhood.base.errors import ConfigError
from underhood.infer.cache import LayerCache
from underhood.nn.attention import AttentionConfig, LatentConfig
from underhood.nn.gpt import build_gpt
from underhood.nn.init import fan_in, init_parameters
from underhood.nn.latent import LatentAttention
from underhood.nn.llama import llama
from underhood.nn.rope import RopeConfig, ScaledRotary

C, H, T = 32, 4, 9
WIDE = LatentConfig(kv_rank=12, q_rank=10, rope_width=6, nope_width=8, value_width=5)
CONFIG = AttentionConfig(width=C, n_head=H, bias=False, latent=WIDE, epsilon=1e-6)


def layer(*, bias: bool = False) -> LatentAttention:
    made = LatentAttention(dataclasses.replace(CONFIG, bias=bias))
    init_parameters(made, 0, fan_in)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return made


@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_attention_of_deepseek(bias: bool) -> None:
    """Theirs rotates neighbours (2i, 2i+1), ours halves (i, i + P/2): the rows that are rotated change places."""
    ours = layer(bias=bias)
    config = DeepseekV2Config(
        hidden_size=C,
        num_attention_heads=H,
        num_key_value_heads=H,
        kv_lora_rank=WIDE.kv_rank,
        q_lora_rank=WIDE.q_rank,
        qk_rope_head_dim=WIDE.rope_width,
        qk_nope_head_dim=WIDE.nope_width,
        v_head_dim=WIDE.value_width,
        attention_bias=bias,
        attn_implementation="eager",
    )
    theirs = DeepseekV2Attention(config, 0).eval()
    pairs = torch.arange(WIDE.rope_width).view(2, -1).T.flatten()  # theirs[j] is our row pairs[j]
    up = ours.query_up.weight.detach().view(H, -1, WIDE.q_rank or 0).clone()
    up[:, WIDE.nope_width :] = up[:, WIDE.nope_width :][:, pairs]
    order = torch.cat([torch.arange(WIDE.kv_rank), WIDE.kv_rank + pairs])
    names = {"q_a_proj": "query_down", "q_a_layernorm": "query_norm", "kv_a_layernorm": "kv_norm", "kv_b_proj": "kv_up", "o_proj": "output"}
    held = ours.state_dict()
    state = {f"{a}.{kind}": held[f"{b}.{kind}"] for a, b in names.items() for kind in ("weight", "bias") if f"{b}.{kind}" in held}
    state |= {f"kv_a_proj_with_mqa.{kind}": held[f"kv_down.{kind}"][order] for kind in ("weight", "bias")[: 1 + bias]}
    theirs.load_state_dict(state | {"q_b_proj.weight": up.flatten(0, 1)})
    x = torch.randn(2, T, C)
    turn = DeepseekV2RotaryEmbedding(config)(x, torch.arange(T)[None])
    future = torch.full((T, T), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        expected = theirs(x, attention_mask=future, position_embeddings=turn)[0]
        found = ours(x, rotate=ScaledRotary(T, C, WIDE.rope_width, RopeConfig()).rotation(x))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_cached_steps_are_the_whole_and_the_cache_is_small() -> None:
    made, x, cache, rotary = layer(), torch.randn(2, T, C), LayerCache(T), ScaledRotary(T, C, WIDE.rope_width, RopeConfig())
    steps = [made(x[:, t : t + 1], rotate=rotary.rotation(x[:, t : t + 1], t), cache=cache) for t in range(T)]
    torch.testing.assert_close(torch.cat(steps, dim=1), made(x, rotate=rotary.rotation(x)), rtol=1e-5, atol=1e-6)
    assert cache.keys.shape[-1] + cache.values.shape[-1] == WIDE.kv_rank + WIDE.rope_width


def test_keys_are_turned_anew_where_the_turn_changes_with_the_length() -> None:
    """Dynamic scaling: the cache holds the shared key unturned."""
    rope = RopeConfig(kind="dynamic", factor=4.0, original_context=4)
    made, x, cache, rotary = layer(), torch.randn(2, T, C), LayerCache(T), ScaledRotary(T, C, WIDE.rope_width, rope)
    made(x[:, :-1], rotate=rotary.rotation(x[:, :-1]), cache=cache)
    last = made(x[:, -1:], rotate=rotary.rotation(x[:, -1:], T - 1), cache=cache)
    torch.testing.assert_close(last, made(x, rotate=rotary.rotation(x))[:, -1:], rtol=1e-5, atol=1e-6)


def biased(made: LatentAttention) -> set[str]:
    return {name for name, _ in made.named_parameters() if name.endswith("bias")}


def test_each_end_has_its_own_bias() -> None:
    below, above = {"query_down.bias", "kv_down.bias"}, {"output.bias"}
    assert biased(layer(bias=True)) == below | above
    assert biased(LatentAttention(dataclasses.replace(CONFIG, qkv_bias=True))) == below
    assert biased(LatentAttention(dataclasses.replace(CONFIG, bias=True, qkv_bias=False))) == above
    assert biased(LatentAttention(dataclasses.replace(CONFIG, output_bias=True))) == above


@pytest.mark.parametrize("options", [{"n_kv_head": 2}, {"head_dim": 4}, {"qk_norm": True}, {"qk_gain": True}, {"window": 3}, {"latent": None}])
def test_what_it_does_not_know_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        LatentAttention(dataclasses.replace(CONFIG, **options))  # type: ignore[arg-type]


def test_a_model_is_made_of_it() -> None:
    config = llama(
        vocab_size=50, context=16, n_layer=2, n_head=H, width=C, hidden=48, attention="underhood.nn.latent:LatentAttention", latent=WIDE,
        positions="underhood.nn.rope:ScaledRotary", rope=RopeConfig(),
    )  # fmt: skip
    logits = build_gpt(config, 0).eval()(torch.arange(T)[None])
    assert bool(torch.isfinite(logits).all())
