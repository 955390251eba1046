"""Attention layers of a learner's own, which mix by themselves and so cannot read pages: each text gets its keys and values as tensors, one after another.

Slower than pages and right: a layer written for one text and a cache is all that is needed to serve many.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, cat, nn

from underhood.infer.paged import PagedLayer, Reach
from underhood.nn.attention import plain
from underhood.nn.gpt import GPT


class TextByText(nn.Module):
    """``inner`` for a step of several texts. What it is called with otherwise goes to it as it is."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.kernel = inner, plain  # the engine looks for a kernel; this layer has its own

    def forward(self, x: Float[Tensor, "1 N C"], *, rotate: Callable[[Tensor], Tensor] | None = None, cache: Any = None, **more: Any) -> Float[Tensor, "1 N C"]:
        """As the layer's."""
        if not isinstance(cache, PagedLayer):
            return self.inner(x, rotate=rotate, cache=cache, **more)  # type: ignore[no-any-return]
        N = x.shape[1]
        texts = [(x[:, r.begin : r.end], rotate and _rotate_part(rotate, r, N), OneText(cache, r)) for r in cache.step.reaches]
        return cat([self.inner(part, rotate=turn, cache=held, **more) for part, turn, held in texts], dim=1)


class OneText:
    """One text's keys and values out of a layer's pages, as a ``LayerCache``."""

    def __init__(self, pages: PagedLayer, reach: Reach) -> None:
        self.pages, self.reach = pages, reach

    def extend(self, k: Float[Tensor, "1 G T D"], v: Float[Tensor, "1 G T D"]) -> tuple[Float[Tensor, "1 G S D"], Float[Tensor, "1 G S D"]]:
        """Write the new ones into their slots; all of the text's come back."""
        slots = self.pages.step.slots[self.reach.begin : self.reach.end]
        for pool, new in ((self.pages.keys, k), (self.pages.values, v)):
            pool.view(-1, *pool.shape[2:])[slots] = new[0].transpose(0, 1).to(pool.dtype)
        return self._of(self.pages.keys).to(k.dtype), self._of(self.pages.values).to(v.dtype)

    def _of(self, pool: Tensor) -> Float[Tensor, "1 G S D"]:
        return pool[self.reach.blocks].flatten(0, 1)[: self.reach.length].transpose(0, 1).unsqueeze(0)


def _rotate_part(rotate: Callable[[Tensor], Tensor], reach: Reach, N: int) -> Callable[[Tensor], Tensor]:
    """The rotation of all ``N`` tokens of a step, for those of one text."""

    def turn(part: Tensor) -> Tensor:
        whole = part.new_zeros(*part.shape[:2], N, part.shape[3])
        whole[:, :, reach.begin : reach.end] = part
        return rotate(whole)[:, :, reach.begin : reach.end]

    return turn


def serve_text_by_text(model: GPT) -> GPT:
    """Wrap every attention layer of ``model`` that has no kernel to be replaced."""
    for block in model.blocks:
        if not hasattr(block.attention, "kernel"):
            block.attention = TextByText(block.attention)  # type: ignore[arg-type]
    return model
