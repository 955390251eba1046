"""The key-value cache: what earlier positions offered is kept, so that each new token costs one position's work instead of all of them.

Three kinds, all with one ``LayerCache`` a layer: ``KVCache`` fills buffers of a capacity; ``StaticCache`` always shows the layer the same shape, for
compilers that want one; ``RollingCache`` forgets what a sliding window cannot see.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from underhood.base.errors import ConfigError, ShapeError
from underhood.nn.gpt import GPTConfig

Pair = tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]


class LayerCache:
    """One layer's keys and values, in buffers of ``capacity`` positions made at the first use.

    ``length`` positions are held; ``keys`` and ``values`` are the buffers, (B G capacity D) in the dtype of what came first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.keys, self.values = torch.empty(0), torch.empty(0)

    def extend(self, k: Float[Tensor, "B G T D"], v: Float[Tensor, "B G T D"]) -> Pair:
        """Append; the result holds all positions so far. Raises ``ShapeError`` beyond the capacity, and then nothing is kept.

        How: make both buffers when nothing is held, write the new positions behind the old, and give back the filled part, which is a view and no copy.
        """
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ShapeError(f"{end} positions in the cache", expected=f"at most {self.capacity}")
        if self.length == 0:
            self.keys, self.values = (x.new_empty(*x.shape[:2], self.capacity, x.shape[3]) for x in (k, v))
        self.keys[:, :, self.length : end], self.values[:, :, self.length : end] = k, v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def keep(self, length: int) -> None:
        """Forget all but the first ``length`` positions; a length beyond what is held changes nothing."""
        self.length = min(length, self.length)


class KVCache:
    """A ``LayerCache`` for each of a model's layers, in ``layers``."""

    def __init__(self, n_layer: int, capacity: int) -> None:
        self.layers = [LayerCache(capacity) for _ in range(n_layer)]

    @property
    def length(self) -> int:
        """Positions held: where the next token stands."""
        return self.layers[0].length

    def keep(self, length: int) -> None:
        """Forget all but the first ``length`` positions of every layer."""
        for layer in self.layers:
            layer.keep(length)


class StaticLayer:
    """One layer's keys and values in buffers that are always ``capacity`` long, zeros in front of what is held.

    How: drop as many positions in front as come in at the end, so that the newest always stands last.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.keys, self.values = torch.empty(0), torch.empty(0)

    def extend(self, k: Float[Tensor, "B G T D"], v: Float[Tensor, "B G T D"]) -> Pair:
        """Append; the result is (B G capacity D), and what is not filled yet must be masked. Raises ``ShapeError`` beyond the capacity."""
        T = k.shape[2]
        if self.length + T > self.capacity:
            raise ShapeError(f"{self.length + T} positions in the cache", expected=f"at most {self.capacity}")
        if self.length == 0:
            self.keys, self.values = (x.new_zeros(*x.shape[:2], self.capacity, x.shape[3]) for x in (k, v))
        self.keys, self.values = (torch.cat([old[:, :, T:], new], dim=2) for old, new in ((self.keys, k), (self.values, v)))
        self.length += T
        return self.keys, self.values


class StaticCache:
    """A ``StaticLayer`` for each of a model's layers, in ``layers``, and the mask that goes with them."""

    def __init__(self, n_layer: int, capacity: int) -> None:
        self.capacity = capacity
        self.layers = [StaticLayer(capacity) for _ in range(n_layer)]

    @property
    def length(self) -> int:
        """Positions held."""
        return self.layers[0].length

    def filled(self, coming: int) -> Bool[Tensor, "S"]:
        """Which of the ``capacity`` places will hold something once ``coming`` more positions are in.

        How: what is held stands at the end, so the last length + ``coming`` places.
        """
        return torch.arange(self.capacity) >= self.capacity - self.length - coming


class RollingLayer:
    """One layer's last ``window`` - 1 keys and values: with itself, all that a new query can see. ``length`` counts all that have been through."""

    def __init__(self, window: int) -> None:
        self.window, self.length = window, 0
        self.keys, self.values = torch.empty(0), torch.empty(0)

    def extend(self, k: Float[Tensor, "B G T D"], v: Float[Tensor, "B G T D"]) -> Pair:
        """Append; the result holds what was kept and what is new, ending at the newest.

        How: keep a copy of the end, for a view of it would hold the whole in memory.
        """
        T = k.shape[2]
        if self.length:
            k, v = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
        first = max(0, k.shape[2] - (self.window - 1))
        self.keys, self.values = k[:, :, first:].clone(), v[:, :, first:].clone()
        self.length += T
        return k, v


class RollingCache:
    """A ``RollingLayer`` for each layer that has a window, a ``LayerCache`` of ``capacity`` for each other, in ``layers``.

    ``windows`` holds each layer's, None for one without. Raises ``ConfigError`` where no layer has one.
    """

    def __init__(self, windows: Sequence[int | None], capacity: int) -> None:
        if not any(windows):
            raise ConfigError("no layer has a window: every position may still be seen", where="window")
        self.layers = [RollingLayer(w) if w else LayerCache(capacity) for w in windows]

    @property
    def length(self) -> int:
        """Positions that have been through."""
        return self.layers[0].length


def cache_bytes(config: GPTConfig, length: int, *, itemsize: int = 4, batch: int = 1) -> int:
    """The memory of keys and values for ``batch`` texts of ``length`` tokens: 2 · B · Σ over layers of min(length, window - 1) · G · D · itemsize bytes.

    Without windows that is 2 · B · L · length · G · D numbers. Latent attention keeps kv_rank + rope_width numbers a position in place of 2 · G · D.

    How: the numbers of one position in one layer, times the positions that each layer of ``config.block_configs`` keeps.
    """
    wide = config.latent
    numbers = 2 * (config.n_kv_head or config.n_head) * config.head_width if wide is None else wide.kv_rank + wide.rope_width
    kept = sum(length if w is None else min(length, w - 1) for w in (c.attend.window for c in config.block_configs))
    return batch * kept * numbers * itemsize
