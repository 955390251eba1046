"""The embedding: one learned vector per token id. A lookup is a product with a one-hot vector that skips the zeros."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from underhood.base.errors import ShapeError


def embed(ids: Int[Tensor, "..."], weight: Float[Tensor, "V C"]) -> Float[Tensor, "... C"]:
    """Row ``ids`` of ``weight``, written as the one-hot product that it is: what ``Embedding`` computes, and what defines correct."""
    return F.one_hot(ids, weight.shape[0]).to(weight.dtype) @ weight


class Embedding(nn.Module):
    """``count`` vectors of ``width`` numbers; ``weight`` is (count, width), NaN until initialised or loaded."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((count, width), torch.nan))

    def forward(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... C"]:
        """The vectors of ``ids``. Raises ``ShapeError`` for an id outside 0 … count-1 (on a GPU torch's own assertion speaks first)."""
        try:
            return F.embedding(ids, self.weight)
        except IndexError:
            count = self.weight.shape[0]
            wrong = ids[(ids < 0) | (ids >= count)][0].item()
            raise ShapeError(
                f"id {wrong} is not in the vocabulary", expected=f"ids from 0 to {count - 1}", remedy="Is this the model's own tokenizer?"
            ) from None

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"{self.weight.shape[0]} × {self.weight.shape[1]}"
