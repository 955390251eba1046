"""The MLP character model: the last few characters, each looked up in a table of embeddings, side by side through one hidden layer.

Source: Bengio, Ducharme, Vincent and Jauvin, "A neural probabilistic language model" (JMLR 3, 2003), §2, without the direct connections.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy.lib.stride_tricks import sliding_window_view

from underhood.base.errors import DataError
from underhood.base.rng import stream_seed
from underhood.tensor.layers import Embedding, Linear
from underhood.tensor.tensor import Array, Tensor


class CharModel:
    """logits = W₂ tanh(W₁ [e₁ … e_T] + b₁) + b₂, where eₜ is the embedding of the t-th of the last ``context`` characters.

    ``width``: numbers per character. ``hidden``: units. Each parameter starts from a random stream of its own under ``seed``.
    """

    def __init__(self, vocab_size: int, seed: int, *, context: int = 8, width: int = 16, hidden: int = 128) -> None:
        self.context = context
        self.embedding = Embedding(vocab_size, width, _generator(seed, "init/embedding"))
        self.hidden = Linear(context * width, hidden, _generator(seed, "init/hidden"))
        self.output = Linear(hidden, vocab_size, _generator(seed, "init/output"))

    def __call__(self, ids: Int[Array, "B T"]) -> Float[Tensor, "B V"]:
        """The logits of the character after each row of ``context`` characters."""
        side_by_side = self.embedding(ids).reshape(len(ids), -1)  # (B, T·C)
        return self.output(self.hidden(side_by_side).tanh())

    def parameters(self) -> list[Tensor]:
        """Embedding, hidden layer, output layer."""
        return [*self.embedding.parameters(), *self.hidden.parameters(), *self.output.parameters()]


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(stream_seed(seed, purpose))


def windows(ids: Int[Array, " N"], context: int) -> tuple[Int[Array, "B T"], Int[Array, " B"]]:
    """Every ``context`` characters in a row and the one that follows them: N − context examples. Raises ``DataError`` when there is none."""
    if len(ids) <= context:
        raise DataError(f"a text of {len(ids)} characters", expected=f"more than the context of {context}")
    return sliding_window_view(ids, context)[:-1], ids[context:]
