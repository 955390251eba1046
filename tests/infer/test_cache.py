"""The cache: what goes in comes out, in order, within its capacity."""

import pytest
import torch

from underhood.base.errors import ShapeError
from underhood.infer.cache import KVCache, LayerCache


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
