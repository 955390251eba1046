"""The key-value cache: what earlier positions offered is kept, so that each new token costs one position's work instead of all of them."""

import torch
from jaxtyping import Float
from torch import Tensor

from underhood.base.errors import ShapeError


class LayerCache:
    """One layer's keys and values, in buffers of ``capacity`` positions made at the first use."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.keys, self.values = torch.empty(0), torch.empty(0)

    def extend(self, k: Float[Tensor, "B H T D"], v: Float[Tensor, "B H T D"]) -> tuple[Float[Tensor, "B H S D"], Float[Tensor, "B H S D"]]:
        """Append; the result holds all positions so far. Raises ``ShapeError`` beyond the capacity."""
        T = k.shape[2]
        if self.length + T > self.capacity:
            raise ShapeError(f"{self.length + T} positions in the cache", expected=f"at most {self.capacity}")
        if self.length == 0:
            self.keys, self.values = (x.new_empty(*x.shape[:2], self.capacity, x.shape[3]) for x in (k, v))
        end = self.length + T
        self.keys[:, :, self.length : end], self.values[:, :, self.length : end] = k, v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """A ``LayerCache`` for each of a model's layers."""

    def __init__(self, n_layer: int, capacity: int) -> None:
        self.layers = [LayerCache(capacity) for _ in range(n_layer)]

    @property
    def length(self) -> int:
        """Positions held."""
        return self.layers[0].length
