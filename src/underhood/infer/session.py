"""A conversation with one cache: what the next prompt has in common with the text so far is not computed again.

Two things make a cache stale without a sound: a prompt that goes another way than the text that is cached, and weights that have changed since.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from underhood.base.errors import DataError
from underhood.infer.cache import KVCache
from underhood.nn.gpt import GPT


@torch.no_grad()
def prefill(model: GPT, ids: Int[Tensor, "B T"], cache: KVCache) -> Float[Tensor, "B V"]:
    """Logits after the last of ``ids``, which continue what the cache holds; their keys and values are kept.

    How: the head is applied to the last position alone; nobody asked for the others' logits.
    """
    return model.logits(model.hidden(ids, cache)[:, -1])


@torch.no_grad()
def decode(model: GPT, tokens: Int[Tensor, "B"], cache: KVCache) -> Float[Tensor, "B V"]:
    """Logits after one more token of each row: the work of one position."""
    return model.logits(model.hidden(tokens.unsqueeze(-1), cache)[:, -1])


def continue_greedily(model: GPT, ids: Int[Tensor, "B T"], count: int) -> Iterator[Int[Tensor, "B"]]:
    """The likeliest next token of each row, ``count`` times: the prompt once, then a token at a time. Nothing is computed after the last."""
    cache = KVCache(model.config.n_layer, ids.shape[1] + count)
    tokens = ids[:, -1]
    for i in range(count):
        tokens = (decode(model, tokens, cache) if i else prefill(model, ids, cache)).argmax(-1)
        yield tokens


def in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def weights_version(model: GPT) -> tuple[int, ...]:
    """Changes whenever a weight is written to, or another tensor takes its place.

    How: torch counts the writes to every tensor (``_version``), and ``data_ptr()`` says where it lies. A write through ``.data`` is not counted.
    """
    return tuple(n for p in model.parameters() for n in (p.data_ptr(), p._version))


class Session:
    """A model and the text that its cache, a ``KVCache`` of the model's context, holds. ``computed`` counts the positions that were worked through."""

    def __init__(self, model: GPT) -> None:
        self.model, self.cache, self.ids, self.computed = model, KVCache(model.config.n_layer, model.config.context), list[int](), 0
        self.version = weights_version(model)

    def logits(self, ids: Sequence[int]) -> Float[Tensor, "V"]:
        """Logits after ``ids``, a whole text from its beginning. Raises ``DataError`` for an empty one.

        How: with the weights as they were, keep what ``ids`` has in common with the cached text, but never all: the last token's logits are not cached.
        """
        if not ids:
            raise DataError("the prompt holds no token", expected="at least one to continue from")
        version = weights_version(self.model)
        known = in_common(self.ids, ids) if version == self.version else 0
        known = min(known, len(ids) - 1)
        self.cache.keep(known)
        self.ids, self.version = list(ids[:known]), version  # true even if what follows is refused
        logits = prefill(self.model, torch.tensor([list(ids[known:])]), self.cache)[0]
        self.ids = list(ids)
        self.computed += len(ids) - known
        return logits
