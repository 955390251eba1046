"""The attention ladder: worked by hand, against torch's SDPA and MultiheadAttention forward and backward, and by its properties."""

import math

import pytest
import torch
import torch.nn.functional as F

from underhood.base.errors import ConfigError, ShapeError
from underhood.nn import attention
from underhood.nn.attention import AttentionConfig, MultiHeadAttention, attend, average_past, causal_mask, entropy, hide, merge_heads, split_heads
from underhood.nn.dropout import Dropout, seed_dropout
from underhood.nn.init import fan_in, init_parameters
from underhood.nn.positions import Rotary


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# stage 1


def test_average_past_by_hand() -> None:
    assert average_past(torch.tensor([[3.0], [5.0], [1.0]])).tolist() == [[3.0], [4.0], [3.0]]


def test_average_past_is_a_running_mean() -> None:
    x = gaussian(2, 7, 3)
    torch.testing.assert_close(average_past(x), x.cumsum(1) / torch.arange(1, 8).reshape(1, 7, 1))


# stages 2 and 3


def test_attend_by_hand() -> None:
    q = torch.tensor([[2.0 * math.log(3), 0.0, 0.0, 0.0]])  # scores ln 3 and 0 after √4: weights 3/4 and 1/4
    k = torch.eye(4)[:2]
    out, weights = attend(q, k, torch.tensor([[4.0], [8.0]]))
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(out, torch.tensor([[5.0]]))


@pytest.mark.parametrize("shape", [(2, 3, 5, 5, 8), (1, 1, 1, 1, 1), (2, 2, 4, 7, 16), (1, 2, 1, 9, 4)])
@pytest.mark.parametrize("masked", [None, "causal", "random"])
def test_attend_equals_sdpa_forward_and_backward(shape: tuple[int, ...], masked: str | None) -> None:
    B, H, T, S, D = shape
    q, k, v = (gaussian(B, H, n, D, seed=n + i).requires_grad_() for i, n in enumerate((T, S, S)))
    random = (gaussian(B, 1, T, S) > 0) | (torch.arange(S) == 0)
    mask = {None: None, "causal": causal_mask(T, S), "random": random}[masked]
    out, weights = attend(q, k, v, mask)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, T, dtype=torch.float64))
    upstream = gaussian(B, H, T, D, seed=9)
    for mine, theirs in zip(torch.autograd.grad(out, (q, k, v), upstream), torch.autograd.grad(expected, (q, k, v), upstream), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_attend_gradients() -> None:
    q, k, v = (gaussian(1, 3, 2, seed=i).requires_grad_() for i in range(3))
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, causal_mask(3))[0], (q, k, v))
    strided = gaussian(2, 3, 1).transpose(0, 2).requires_grad_()  # neither contiguous nor wide
    assert torch.autograd.gradcheck(lambda x: attend(x, x, x)[0], strided)


def test_unit_variance_scores_stay_unit_variance_at_any_width() -> None:
    for D in (16, 256):
        q, k = gaussian(1, 400, D), gaussian(1, 400, D, seed=1)
        assert (q @ k.transpose(-2, -1) / math.sqrt(D)).std().item() == pytest.approx(1, abs=0.05)


def test_causal_mask_by_hand() -> None:
    assert causal_mask(3).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert causal_mask(2, 4).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]  # two earlier keys, as with a cache
    assert causal_mask(1, 5).all()


def test_the_future_has_no_weight_and_does_not_matter() -> None:
    q, k, v = (gaussian(6, 4, seed=i) for i in range(3))
    out, weights = attend(q, k, v, causal_mask(6))
    assert (weights.triu(1) == 0).all()
    k2, v2 = k.clone(), v.clone()
    k2[4:], v2[4:] = 100, -100
    assert torch.equal(attend(q, k2, v2, causal_mask(6))[0][:4], out[:4])


def test_permuting_the_keys_changes_nothing_without_a_mask() -> None:
    q, k, v = (gaussian(5, 4, seed=i) for i in range(3))
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(attend(q, k[order], v[order])[0], attend(q, k, v)[0])


def test_a_row_with_nothing_to_attend_to_is_named() -> None:
    mask = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    mask[1, 0, 2] = False
    with pytest.raises(ShapeError, match=r"mask row \[1, 0, 2\]: query 2 has nothing to attend to"):
        hide(torch.zeros(2, 1, 3, 3), mask)
    for kernel in ("plain", "sdpa"):
        with pytest.raises(ShapeError, match="query 2"):
            layer(kernel=kernel)(gaussian(2, 3, 12), mask=mask)


def test_large_scores_do_not_overflow() -> None:
    q = torch.full((2, 4), 1e4)
    assert attend(q, q, torch.ones(2, 4), causal_mask(2))[0].isfinite().all()


def test_entropy_by_hand() -> None:
    assert entropy(torch.tensor([1.0, 0.0])).item() == 0
    assert entropy(torch.full((8,), 1 / 8)).item() == pytest.approx(math.log(8))


# stage 4


def test_heads_by_hand() -> None:
    x = torch.arange(8).reshape(1, 2, 4)  # two positions of width 4
    assert split_heads(x, 2).tolist() == [[[[0, 1], [4, 5]], [[2, 3], [6, 7]]]]
    assert torch.equal(merge_heads(split_heads(x, 2)), x)
    assert torch.equal(split_heads(x, 4)[0, 3], torch.tensor([[3], [7]]))


def layer(**options: object) -> MultiHeadAttention:
    built = MultiHeadAttention(AttentionConfig(width=12, n_head=3, **options)).double()  # type: ignore[arg-type]
    init_parameters(built, 0, fan_in)
    return built


def torchs(ours: MultiHeadAttention) -> torch.nn.MultiheadAttention:
    theirs = torch.nn.MultiheadAttention(12, 3, bias=ours.config.bias, batch_first=True, dtype=torch.float64)
    for kind in ("weight", "bias") if ours.config.bias else ("weight",):
        separate = not ours.config.fused_qkv and torch.cat([getattr(getattr(ours, n), kind) for n in ("query", "key", "value")])
        getattr(theirs, f"in_proj_{kind}").data = separate if separate is not False else getattr(ours.qkv, kind).data
        getattr(theirs.out_proj, kind).data = getattr(ours.output, kind).data
    return theirs


@pytest.mark.parametrize("kernel", ["plain", "sdpa"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_torchs_multihead_attention(kernel: str, causal: bool, fused: bool, bias: bool) -> None:
    ours = layer(causal=causal, kernel=kernel, fused_qkv=fused, bias=bias)
    x = gaussian(2, 5, 12).requires_grad_()
    expected, weights = torchs(ours)(x, x, x, attn_mask=~causal_mask(5) if causal else None, average_attn_weights=False)
    out, ours_weights = ours.look(x)
    torch.testing.assert_close(out, expected)
    if kernel == "plain":
        torch.testing.assert_close(ours_weights, weights)
    upstream = gaussian(2, 5, 12, seed=5)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, upstream)[0] for y in (out, expected)))


@pytest.mark.parametrize("kernel", ["plain", "sdpa"])
def test_cross_attention_with_padding(kernel: str) -> None:
    ours = layer(causal=False, fused_qkv=False, kernel=kernel)
    x, context = gaussian(2, 4, 12), gaussian(2, 7, 12, seed=1)
    real = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    expected, _ = torchs(ours)(x, context, context, key_padding_mask=~real)
    torch.testing.assert_close(ours(x, context=context, mask=real[:, None, None]), expected)


@pytest.mark.parametrize("kernel", ["plain", "sdpa"])
def test_the_callers_mask_narrows_the_causal_one(kernel: str) -> None:
    ours = layer(kernel=kernel)
    x = gaussian(2, 5, 12)
    near = torch.ones(5, 5, dtype=torch.bool).triu(-1)  # itself and one before
    expected, _ = torchs(ours)(x, x, x, attn_mask=~(near & causal_mask(5)))
    torch.testing.assert_close(ours(x, mask=near), expected)


@pytest.mark.parametrize("kernel", ["plain", "sdpa"])
def test_fused_and_separate_projections_are_the_same_numbers(kernel: str) -> None:
    fused, separate = layer(kernel=kernel), layer(kernel=kernel, fused_qkv=False)
    for kind in ("weight", "bias"):
        for name, value in zip(("query", "key", "value"), getattr(fused.qkv, kind).chunk(3), strict=True):
            getattr(getattr(separate, name), kind).data.copy_(value)
    separate.output.load_state_dict(fused.output.state_dict())
    x = gaussian(2, 5, 12)
    torch.testing.assert_close(separate(x), fused(x))


class GrowingCache:
    """Keys and values laid end to end."""

    def __init__(self) -> None:
        self.held: list[tuple[torch.Tensor, torch.Tensor]] = []

    def extend(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.held.append((k, v))
        keys, values = zip(*self.held, strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)


@pytest.mark.parametrize("kernel", ["plain", "sdpa"])
@pytest.mark.parametrize("chunks", [(1,) * 7, (3, 1, 1, 2), (5, 2)])
def test_in_pieces_with_a_cache_as_at_once(kernel: str, chunks: tuple[int, ...]) -> None:
    ours, rotary, cache = layer(kernel=kernel, qk_norm=True), Rotary(7, 12, 4).double(), GrowingCache()
    x, start, pieces = gaussian(2, 7, 12), 0, []
    for piece in x.split(chunks, dim=1):
        pieces.append(ours(piece, rotate=rotary.rotation(piece, start), cache=cache))
        start += piece.shape[1]
    torch.testing.assert_close(torch.cat(pieces, dim=1), ours(x, rotate=rotary.rotation(x)))


def test_qk_norm_bounds_the_scores() -> None:
    ours = layer(qk_norm=True, causal=False)
    bare = layer(causal=False)
    sharp, flat = (entropy(m.look(1e3 * gaussian(1, 6, 12))[1]).mean() for m in (bare, ours))
    assert sharp < 0.1 < flat


def test_dropout_on_the_weights_is_the_same_with_either_kernel() -> None:
    outs = []
    for kernel in ("plain", "sdpa"):
        ours = layer(dropout=0.5, kernel=kernel)
        seed_dropout(ours, 1)
        outs.append(ours(gaussian(2, 5, 12)))
        assert not torch.equal(outs[-1], ours.eval()(gaussian(2, 5, 12)))
    torch.testing.assert_close(*outs)


def test_sdpa_never_draws_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    dropout = Dropout(0.3)
    seed_dropout(dropout, 0)
    q = gaussian(1, 1, 4, 4)
    attention.sdpa(q, q, q, causal=True, mask=None, dropout=dropout)
    assert torch.equal(torch.get_rng_state(), before)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="cannot be cut into 5 equal heads"):
        AttentionConfig(width=12, n_head=5)
    with pytest.raises(ConfigError, match="cross-attention"):
        layer()(gaussian(1, 2, 12), context=gaussian(1, 2, 12))
