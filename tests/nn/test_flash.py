"""Tiled attention: worked by hand, against torch forward and backward at every tile size, and by its properties."""

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from underhood.base.errors import ShapeError
from underhood.lab.baselines.flash import peak_bytes
from underhood.nn.attention import AttentionConfig, MultiHeadAttention, causal_mask, plain
from underhood.nn.dropout import Dropout, seed_dropout
from underhood.nn.flash import absorb, flash, flash_attention, flash_forward, in_groups, keys_in_sight, tile_scores, tiles, widen
from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.nn.init import fan_in, init_parameters


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_absorb_by_hand() -> None:
    """Scores ln 2, then ln 6: weights 1/4 and 3/4."""
    state = (torch.tensor([[-math.inf]]), torch.zeros(1, 1), torch.zeros(1, 1))
    m, l, a = absorb(state, torch.tensor([[math.log(2)]]), torch.tensor([[8.0]]))
    assert (m.item(), l.item(), a.item()) == (pytest.approx(math.log(2)), 1, 8)
    m, l, a = absorb((m, l, a), torch.tensor([[math.log(6)]]), torch.tensor([[4.0]]))
    assert m.item() == pytest.approx(math.log(6))
    assert l.item() == pytest.approx(1 / 3 + 1)
    assert (a / l).item() == pytest.approx(8 / 4 + 4 * 3 / 4)


def test_the_state_does_not_depend_on_the_cut() -> None:
    scores, v = 5 * gaussian(3, 12), gaussian(12, 2, seed=1)
    for cut in range(1, 12):
        state = (torch.full((3, 1), -math.inf, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64))
        for part in (slice(0, cut), slice(cut, 12)):
            state = absorb(state, scores[:, part], v[part])
        torch.testing.assert_close(state[2] / state[1], scores.softmax(-1) @ v)


def test_tiles_by_hand() -> None:
    assert tiles(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert tiles(0, 3) == []
    assert keys_in_sight(slice(3, 6), 8, 8, causal=True) == 6
    assert keys_in_sight(slice(3, 6), 8, 10, causal=True) == 8
    assert keys_in_sight(slice(0, 2), 8, 3, causal=True) == 0
    assert keys_in_sight(slice(0, 2), 8, 3, causal=False) == 3


def test_a_tile_of_scores_by_hand() -> None:
    q = k = torch.arange(4.0).unsqueeze(-1)  # the score of query i and key j is i · j
    found = tile_scores(q, k, slice(2, 4), slice(1, 4), causal=True)
    assert found.tolist() == [[2, 4, -math.inf], [3, 6, 9]]


SHAPES = [(1, 1), (3, 3), (8, 8), (5, 13), (1, 9), (7, 7), (9, 4)]
TILES = [(1, 1), (2, 3), (3, 2), (4, 4), (8, 1), (16, 16)]


@pytest.mark.parametrize(("T", "S"), SHAPES)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_every_tile_size_equals_torch_forward_and_backward(T: int, S: int, heads: tuple[int, int], causal: bool, masked: bool) -> None:
    if causal and T > S:
        pytest.skip("the first queries would see nothing")
    H, G = heads
    q, k, v = (4 * gaussian(2, H, T, 4), gaussian(2, G, S, 4, seed=1), gaussian(2, G, S, 5, seed=2))
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    mask = (gaussian(2, 1, T, S, seed=3) > 0) | (torch.arange(S) == 0) if masked else None
    past = causal_mask(T, S)
    seen = mask if not causal else past if mask is None else mask & past
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
    upstream = gaussian(*expected.shape, seed=4)
    theirs = torch.autograd.grad(expected, (q, k, v), upstream)
    for tile in TILES:
        out = flash_attention(q, k, v, causal=causal, mask=mask, tile=tile)
        torch.testing.assert_close(out, expected)
        for a, b in zip(torch.autograd.grad(out, (q, k, v), upstream), theirs, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("causal", "tile"), list(itertools.product([False, True], [(2, 3), (4, 4)])))
def test_gradcheck(causal: bool, tile: tuple[int, int]) -> None:
    q, k, v = (gaussian(1, h, n, 3, seed=h + n).requires_grad_() for h, n in ((4, 5), (2, 6), (2, 6)))
    assert torch.autograd.gradcheck(lambda q, k, v: flash_attention(q, k, v, causal=causal, tile=tile), (q, k, v))


def test_float32_is_as_near_the_truth_as_torch() -> None:
    q, k, v = (gaussian(1, 2, 300, 32, seed=i, dtype=torch.float32) for i in range(3))
    true = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
    ours, theirs = ((x.double() - true).abs().max() for x in (flash_attention(q, k, v, causal=True), F.scaled_dot_product_attention(q, k, v, is_causal=True)))
    assert ours <= 2 * theirs + 1e-7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_in_and_out_with_float32_between(dtype: torch.dtype) -> None:
    q, k, v = (gaussian(1, 2, 200, 32, seed=i, dtype=dtype).requires_grad_() for i in range(3))
    out = flash_attention(q, k, v, causal=True)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    true = F.scaled_dot_product_attention(*wide, is_causal=True)
    assert out.dtype == dtype
    assert widen(out).dtype == torch.float32
    rounding = torch.finfo(dtype).eps / 2
    assert ((out.double() - true).abs() <= 1.01 * rounding * true.abs() + 1e-6).all()
    upstream = gaussian(*out.shape, seed=5, dtype=dtype)
    for mine, theirs in zip(torch.autograd.grad(out, (q, k, v), upstream), torch.autograd.grad(true, wide, upstream.double()), strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - theirs).abs().max() <= 3 * rounding * theirs.abs().max()


def test_scores_of_any_size() -> None:
    q = torch.full((1, 1, 5, 1), 1e4)
    for sign in (1, -1):
        out = flash_attention(q, sign * q, torch.ones(1, 1, 5, 1), causal=True, tile=(2, 2))
        torch.testing.assert_close(out, torch.ones_like(out))


def test_the_future_does_not_matter() -> None:
    q, k, v = (gaussian(1, 2, 9, 4, seed=i) for i in range(3))
    out = flash_attention(q, k, v, causal=True, tile=(4, 3))
    k[:, :, 5:], v[:, :, 5:] = 100, -100
    assert torch.equal(flash_attention(q, k, v, causal=True, tile=(4, 3))[:, :, :5], out[:, :, :5])


def test_empty_rows_and_ill_fitting_heads_are_errors() -> None:
    q = gaussian(2, 2, 4, 4)
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    mask[1, 0, 2] = False
    with pytest.raises(ShapeError, match="sequence 1: query 2 has nothing to attend to"):
        flash_attention(q, q, q, mask=mask)
    with pytest.raises(ShapeError, match="query 0"):
        flash_attention(q, q[:, :, :2], q[:, :, :2], causal=True)
    with pytest.raises(ShapeError, match="3 query heads and 2 key heads"):
        flash_attention(gaussian(2, 3, 4, 4), q, q)


def test_groups_copy_nothing() -> None:
    q, k, mask = gaussian(2, 6, 4, 3), gaussian(2, 2, 5, 3), torch.ones(4, 5, dtype=torch.bool)
    views = in_groups(q, k, k, mask)
    assert [tuple(x.shape) for x in views if x is not None] == [(2, 2, 3, 4, 3), (2, 2, 1, 5, 3), (2, 2, 1, 5, 3), (2, 2, 3, 4, 5)]
    assert [x.data_ptr() for x in views if x is not None] == [q.data_ptr(), k.data_ptr(), k.data_ptr(), mask.data_ptr()]


def test_nothing_of_size_t_squared_is_held() -> None:
    """From 512 to 1,024 positions the memory doubles; the matrix of scores alone would take 4 MiB."""

    def peak(T: int) -> int:
        q, k, v = (gaussian(1, 1, T, 16, seed=i, dtype=torch.float32).requires_grad_() for i in range(3))
        return peak_bytes(lambda: torch.autograd.grad(flash_attention(q, k, v, causal=True).sum(), (q, k, v)))

    assert peak(1024) < 1.8 * peak(512)
    assert peak(1024) < 1024 * 1024


def test_peak_bytes_by_hand() -> None:
    """Two of 4,000 bytes at once, then one of 8,000 after both are gone: a view counts once."""
    assert peak_bytes(lambda: torch.ones(1000) + torch.ones(1000).view(10, 100).reshape(1000)) == 12000
    assert peak_bytes(lambda: (torch.ones(1000).sum(), torch.ones(2000))) == 8004
    x = torch.ones(1000)
    assert peak_bytes(lambda: x.add_(1)) == 0


def layer(kernel: str, dropout: float = 0.0) -> MultiHeadAttention:
    made = MultiHeadAttention(AttentionConfig(width=12, n_head=3, kernel=kernel, dropout=dropout)).double()
    init_parameters(made, 0, fan_in)
    seed_dropout(made, 0)
    return made


def test_as_a_kernel_it_equals_plain() -> None:
    x = gaussian(2, 70, 12)
    padding = torch.ones(2, 1, 1, 70, dtype=torch.bool)
    padding[1, ..., 65:] = False
    tiled = layer("underhood.nn.flash:flash")
    for mask in (None, padding):
        torch.testing.assert_close(tiled(x, mask=mask), layer("plain")(x, mask=mask))
    assert tiled.look(x)[1] is None


def test_while_dropout_is_active_it_is_plain() -> None:
    x = gaussian(2, 6, 12)
    torch.testing.assert_close(layer("underhood.nn.flash:flash", 0.5)(x), layer("plain", 0.5)(x))
    q, k = gaussian(1, 4, 5, 3), gaussian(1, 2, 5, 3)
    dropout = Dropout(0.5)
    seed_dropout(dropout, 0)
    out, _ = flash(q, k, k, causal=True, mask=None, dropout=dropout)
    seed_dropout(dropout, 0)
    wide = k.repeat_interleave(2, dim=1)
    torch.testing.assert_close(out, plain(q, wide, wide, causal=True, mask=None, dropout=dropout)[0])


def test_a_gpt_with_it_has_the_plain_one_s_logits_and_gradients() -> None:
    config = GPTConfig(vocab_size=11, context=80, n_layer=2, n_head=2, width=8)
    ids = torch.randint(11, (2, 80), generator=torch.Generator().manual_seed(0))
    models = [build_gpt(dataclasses.replace(config, kernel=kernel), 0).double() for kernel in ("plain", "underhood.nn.flash:flash")]
    losses = [F.cross_entropy(m(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()) for m in models]
    torch.testing.assert_close(losses[0], losses[1])
    for a, b in zip(*(torch.autograd.grad(loss, list(m.parameters())) for loss, m in zip(losses, models, strict=True)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_log_sum_is_the_row_s() -> None:
    q, k = gaussian(1, 1, 5, 4), gaussian(1, 1, 7, 4, seed=1)
    _, log_sum = flash_forward(q, k, k, tile=(2, 3))
    torch.testing.assert_close(log_sum, (q @ k.transpose(-2, -1) / 2).logsumexp(-1))
