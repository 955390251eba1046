"""The bigram model: the next character from the last one alone, by counting.

It is a table of log-probabilities, so gradient descent on the same table (``trainable``) can only come to the same place, more slowly:
counting is the closed form that the trained models are measured against.

Source: Shannon, "A mathematical theory of communication" (1948), §3; add-one smoothing after Laplace.
"""

import numpy as np
from jaxtyping import Float, Int

from underhood.base.errors import DataError
from underhood.tensor.tensor import Array, Tensor


class Bigram:
    """``table`` (V, V): row i holds the logits of what follows character i."""

    context = 1

    def __init__(self, table: Tensor) -> None:
        self.table = table

    @staticmethod
    def count(ids: Int[Array, " N"], vocab_size: int, smoothing: float = 1.0) -> "Bigram":
        """The model whose P(j after i) is the share of j among the followers of i, each count raised by ``smoothing``.

        Raises ``DataError`` when there is no pair to count or smoothing is not positive (an unseen pair would cost infinitely much).
        """
        if len(ids) < 2 or smoothing <= 0:
            raise DataError(f"{len(ids)} characters with smoothing {smoothing}", expected="at least 2, and smoothing above 0")
        counts = np.full((vocab_size, vocab_size), smoothing)
        np.add.at(counts, (ids[:-1], ids[1:]), 1)
        return Bigram(Tensor(np.log(counts / counts.sum(axis=1, keepdims=True))))

    @staticmethod
    def trainable(vocab_size: int) -> "Bigram":
        """The same table, starting at "anything may follow anything", for gradient descent."""
        return Bigram(Tensor(np.zeros((vocab_size, vocab_size), np.float32), requires_grad=True))

    def __call__(self, ids: Int[Array, "B T"]) -> Float[Tensor, "B V"]:
        """The logits of the character after the last of each row."""
        return self.table[ids[:, -1]]

    def parameters(self) -> list[Tensor]:
        """The table."""
        return [self.table]
