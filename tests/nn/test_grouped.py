"""Shared heads: equal to multi-head attention with as many groups as heads, and to torch's grouped kernel with fewer."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.base.errors import ConfigError
from underhood.infer.cache import LayerCache
from underhood.nn.attention import AttentionConfig, MultiHeadAttention
from underhood.nn.gpt import GPTConfig
from underhood.nn.grouped import GroupedQueryAttention, cut_heads, pool_heads, share_heads, window_mask
from underhood.nn.init import fan_in, init_parameters


def layer(**options: object) -> GroupedQueryAttention:
    config = AttentionConfig(**{"width": 32, "n_head": 4, "fused_qkv": False} | options)  # type: ignore[arg-type]
    made = GroupedQueryAttention(config)
    init_parameters(made, 0, fan_in)
    return made


def test_as_many_groups_as_heads_is_multi_head_attention() -> None:
    grouped = layer(n_kv_head=4)
    plain = MultiHeadAttention(AttentionConfig(width=32, n_head=4, fused_qkv=False))
    plain.load_state_dict(grouped.state_dict())
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(grouped(x), plain(x))


@given(groups=st.sampled_from([1, 2, 4]), T=st.integers(1, 9), D=st.sampled_from([4, 8, 10]), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_shared_heads_are_those_of_torch(groups: int, T: int, D: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, n, T, D, generator=generator) for n in (4, groups, groups))
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    ours = F.scaled_dot_product_attention(q, share_heads(k, 4), share_heads(v, 4), is_causal=True)
    torch.testing.assert_close(ours, theirs)


def test_neighbouring_heads_share() -> None:
    shared = share_heads(torch.tensor([10.0, 20.0]).view(1, 2, 1, 1), 4)
    assert shared.flatten().tolist() == [10, 10, 20, 20]


def test_the_window_reaches_back_so_far_and_no_further() -> None:
    assert window_mask(3, 5, 2).long().tolist() == [[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]  # the future is the causal mask's business


def test_a_window_hides_what_lies_before_it() -> None:
    narrow = layer(window=3)
    x = torch.randn(1, 8, 32)
    before = narrow(x)
    x[:, 2] += 1
    moved = (narrow(x) - before).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [False, False, True, True, True, False, False, False]


@pytest.mark.parametrize("options", [{"n_kv_head": 2}, {"n_kv_head": 1, "window": 3}, {"head_dim": 12, "qk_gain": True}, {"qkv_bias": True, "bias": False}])
def test_cached_steps_are_the_whole(options: dict[str, object]) -> None:
    made, x, cache = layer(**options), torch.randn(2, 9, 32), LayerCache(9)
    steps = [made(x[:, :4], cache=cache)] + [made(x[:, t : t + 1], cache=cache) for t in range(4, 9)]
    torch.testing.assert_close(torch.cat(steps, dim=1), made(x), rtol=1e-5, atol=1e-6)


def test_the_cache_holds_the_groups_alone() -> None:
    made, cache = layer(n_kv_head=1), LayerCache(5)
    made(torch.randn(2, 5, 32), cache=cache)
    assert cache.keys.shape == (2, 1, 5, 8)


def test_biases_stand_where_they_are_wanted() -> None:
    qwen = layer(bias=False, qkv_bias=True)
    assert [name for name, _ in qwen.named_parameters() if name.endswith("bias")] == ["query.bias", "key.bias", "value.bias"]
    other = layer(bias=True, output_bias=False)
    assert other.output.bias is None


def test_pooled_heads_are_the_mean_of_those_that_share() -> None:
    weight = torch.arange(4.0).repeat_interleave(2).view(8, 1).expand(8, 3)  # head h holds h
    assert pool_heads(weight, 4, 2)[:, 0].tolist() == [0.5, 0.5, 2.5, 2.5]
    assert pool_heads(torch.arange(4.0), 4, 2).tolist() == [0.5, 2.5]
    assert torch.equal(pool_heads(weight, 4, 4), weight)


def test_equal_heads_survive_pooling() -> None:
    """Where the heads that will share are alike already, nothing is lost."""
    full = layer(n_kv_head=4)
    with torch.no_grad():
        for part in (full.key, full.value):
            part.weight.copy_(part.weight.view(2, 2, 8, 32)[:, :1].expand(2, 2, 8, 32).reshape(32, 32))
    small = layer(n_kv_head=2)
    pooled = {f"{p}.{kind}": pool_heads(getattr(getattr(full, p), kind), 4, 2) for p in ("key", "value") for kind in ("weight", "bias")}
    small.load_state_dict({**full.state_dict(), **pooled})
    x = torch.randn(1, 6, 32)
    torch.testing.assert_close(small(x), full(x))


def test_cut_heads_takes_any_width() -> None:
    assert cut_heads(torch.zeros(2, 3, 20), 4).shape == (2, 4, 3, 5)


@pytest.mark.parametrize(("options", "names"), [({"n_kv_head": 3}, "n_kv_head"), ({"head_dim": 0}, "head_dim"), ({"window": 0}, "window")])
def test_what_cannot_be_is_named(options: dict[str, int], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        AttentionConfig(width=32, n_head=4, **options)  # type: ignore[arg-type]


def test_one_matrix_for_all_three_is_refused() -> None:
    with pytest.raises(ConfigError, match="fused_qkv"):
        layer(fused_qkv=True)


def test_plain_attention_does_not_pretend_to_share() -> None:
    with pytest.raises(ConfigError, match="GroupedQueryAttention"):
        GPTConfig(vocab_size=10, n_kv_head=2)
