"""The cache: what goes in comes out, in order, within its capacity."""

import pytest
import torch

from tests.infer.small import CONFIGS, model
from underhood.base.errors import ConfigError, ShapeError
from underhood.infer.cache import KVCache, LayerCache, RollingCache, RollingLayer, StaticCache, StaticLayer, cache_bytes
from underhood.nn.attention import LatentConfig
from underhood.nn.llama import llama


def test_extend_returns_all_so_far() -> None:
    k, v = torch.randn(2, 2, 3, 7, 4, generator=torch.Generator().manual_seed(0))
    cache = LayerCache(7)
    for start, end in ((0, 3), (3, 4), (4, 7)):
        keys, values = cache.extend(k[:, :, start:end], v[:, :, start:end])
        assert torch.equal(keys, k[:, :, :end])
        assert torch.equal(values, v[:, :, :end])
        assert cache.length == end


def test_beyond_the_capacity_is_an_error() -> None:
    cache = LayerCache(2)
    with pytest.raises(ShapeError, match="3 positions in the cache; expected at most 2"):
        cache.extend(torch.zeros(1, 1, 3, 1), torch.zeros(1, 1, 3, 1))


def test_each_layer_has_its_own() -> None:
    cache = KVCache(3, 5)
    cache.layers[0].extend(torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 2, 1))
    assert [layer.length for layer in cache.layers] == [2, 0, 0]
    assert cache.length == 2


def test_what_is_not_kept_is_written_over() -> None:
    cache = KVCache(1, 6)
    layer = cache.layers[0]
    layer.extend(torch.ones(1, 1, 4, 1), torch.ones(1, 1, 4, 1))
    cache.keep(2)
    keys, _ = layer.extend(torch.full((1, 1, 1, 1), 5.0), torch.zeros(1, 1, 1, 1))
    assert keys.flatten().tolist() == [1, 1, 5]


def test_a_static_layer_keeps_its_shape_and_ends_with_the_newest() -> None:
    layer = StaticLayer(5)
    for new in ([1.0, 2.0], [3.0]):
        keys, _ = layer.extend(torch.tensor(new).view(1, 1, -1, 1), torch.zeros(1, 1, len(new), 1))
    assert keys.flatten().tolist() == [0, 0, 1, 2, 3]
    with pytest.raises(ShapeError, match="at most 5"):
        layer.extend(torch.zeros(1, 1, 3, 1), torch.zeros(1, 1, 3, 1))


def test_a_static_cache_says_what_is_filled() -> None:
    cache = StaticCache(1, 4)
    cache.layers[0].extend(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    assert cache.filled(2).tolist() == [False, True, True, True]


def test_a_rolling_layer_keeps_what_the_next_query_can_see() -> None:
    layer = RollingLayer(3)
    keys, _ = layer.extend(torch.arange(5.0).view(1, 1, -1, 1), torch.zeros(1, 1, 5, 1))
    assert keys.flatten().tolist() == [0, 1, 2, 3, 4], "the first queries need theirs"
    keys, _ = layer.extend(torch.tensor(5.0).view(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    assert keys.flatten().tolist() == [3, 4, 5]
    assert layer.length == 6
    assert layer.keys.shape[2] == 2


def test_without_a_window_nothing_rolls() -> None:
    with pytest.raises(ConfigError, match="window"):
        RollingCache([None, None], 8)


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_the_memory_model_counts_what_is_there(name: str) -> None:
    made = model(name)
    windows = [c.attend.window for c in made.config.block_configs]
    cache = RollingCache(windows, 30) if any(windows) else KVCache(2, 30)
    made.hidden(torch.arange(60).view(2, 30), cache)
    held = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
    assert held == cache_bytes(made.config, 30, batch=2)


def test_latent_attention_keeps_little() -> None:
    wide = LatentConfig(kv_rank=12, rope_width=6, nope_width=8, value_width=5)
    config = llama(vocab_size=9, n_layer=3, attention="underhood.nn.latent:LatentAttention", latent=wide)
    assert cache_bytes(config, 10, itemsize=2) == 3 * 10 * 18 * 2


def test_what_rolls_out_is_given_back() -> None:
    """A view of the end would hold the whole prompt in memory."""
    layer = RollingLayer(4)
    layer.extend(torch.zeros(1, 1, 1000, 8), torch.zeros(1, 1, 1000, 8))
    assert layer.keys.untyped_storage().nbytes() == 3 * 8 * 4


def test_keep_never_lengthens_and_a_refusal_keeps_nothing() -> None:
    layer = LayerCache(4)
    layer.extend(torch.ones(1, 1, 3, 1), torch.ones(1, 1, 3, 1))
    layer.keep(9)
    assert layer.length == 3
    with pytest.raises(ShapeError):
        layer.extend(torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 2, 1))
    assert layer.length == 3
