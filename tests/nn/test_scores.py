"""ALiBi and the soft cap: by hand, against transformers' slopes, and as kernels that a model runs with."""

import math

import pytest
import torch

from underhood.infer.cache import KVCache
from underhood.nn.attention import plain
from underhood.nn.dropout import Dropout
from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.nn.scores import SCORE_CAP, alibi, alibi_bias, alibi_slopes, capped, soft_cap

NONE = Dropout(0.0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_bias_by_hand() -> None:
    assert alibi_slopes(2).tolist() == [1 / 16, 1 / 256]
    assert (16 * alibi_bias(2, 2, 3)[0]).tolist() == [[-1.0, 0.0, 1.0], [-2.0, -1.0, 0.0]]  # the key after the query is hidden anyway


@pytest.mark.parametrize("heads", [1, 2, 8, 16])
def test_slopes_equal_transformers(heads: int) -> None:
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    theirs = bloom.build_alibi_tensor(torch.ones(1, 3, dtype=torch.long), heads, torch.float32)[:, 0, 1]  # slope · position, of position 1
    torch.testing.assert_close(alibi_slopes(heads), theirs)


def test_alibi_equals_attention_with_a_bias() -> None:
    q, k, v = noise(2, 4, 3, 8), noise(2, 4, 5, 8, seed=1), noise(2, 4, 5, 8, seed=2)
    seen = torch.ones(3, 5, dtype=torch.bool).tril(2)
    bias = alibi_bias(4, 3, 5).double().masked_fill(~seen, -math.inf)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    mixed, weights = alibi(q, k, v, causal=True, mask=None, dropout=NONE)
    torch.testing.assert_close(mixed, expected)
    assert weights is not None
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 3, dtype=torch.float64))


def test_a_caller_may_narrow_the_view() -> None:
    q, mask = noise(1, 2, 4, 8), torch.ones(4, 4, dtype=torch.bool)
    mask[3, 0] = False
    for causal in (True, False):
        weights = alibi(q, q, q, causal=causal, mask=mask, dropout=NONE)[1]
        assert weights is not None
        assert (weights[..., 3, 0] == 0).all()
        assert bool((weights[..., 0, 1:] == 0).all()) is causal


def test_cap_bends_what_is_large_and_leaves_what_is_small() -> None:
    assert soft_cap(torch.tensor(0.0), 30.0) == 0
    assert float(soft_cap(torch.tensor(30.0), 30.0)) == pytest.approx(30 * math.tanh(1))
    x = noise(50) * 100
    assert bool((soft_cap(x, 30.0).abs() < 30).all())
    torch.testing.assert_close(soft_cap(x / 1e4, 30.0), x / 1e4, rtol=1e-4, atol=0)
    assert torch.autograd.gradcheck(lambda t: soft_cap(t, 2.0), (noise(5).requires_grad_(),))


def test_capped_is_plain_for_small_scores_and_bounded_for_large() -> None:
    q, k, v = noise(1, 2, 4, 8), noise(1, 2, 4, 8, seed=1), noise(1, 2, 4, 8, seed=2)
    arguments = {"causal": True, "mask": None, "dropout": NONE}
    torch.testing.assert_close(capped(q, k, v, **arguments)[0], plain(q, k, v, **arguments)[0], atol=1e-3, rtol=1e-3)  # type: ignore[arg-type]
    weights = capped(1e3 * q, 1e3 * k, v, **arguments)[1]  # type: ignore[arg-type]
    assert weights is not None
    assert float(weights[..., -1, :].min()) >= math.exp(-2 * SCORE_CAP) / 5


@pytest.mark.parametrize("kernel", ["alibi", "capped"])
def test_a_model_runs_with_it_and_caches(kernel: str) -> None:
    config = GPTConfig(vocab_size=11, context=8, n_layer=2, n_head=2, width=8, kernel=f"underhood.nn.scores:{kernel}", positions="Positions", init="fan_in")
    model = build_gpt(config, 0).eval()
    ids = torch.tensor([[1, 5, 2, 9, 3]])
    cache = KVCache(2, 8)
    with torch.no_grad():
        pieces = []
        for i in range(5):
            pieces.append(model(ids[:, i : i + 1], cache))
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), atol=1e-5, rtol=1e-5)


def test_the_models_logits_are_capped_alike() -> None:
    config = GPTConfig(vocab_size=11, context=8, n_layer=1, n_head=2, width=8, logit_cap=3.0)
    model, h = build_gpt(config, 0), 100 * torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.logits(h), soft_cap(h @ model.head_weight.T, 3.0))
