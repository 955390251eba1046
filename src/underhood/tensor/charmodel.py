"""The MLP character model: the last few characters, each looked up in a table of embeddings, side by side through one hidden layer.

Source: Bengio, Ducharme, Vincent and Jauvin, "A neural probabilistic language model" (JMLR 3, 2003), §2, without the direct connections.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from numpy.lib.stride_tricks import sliding_window_view

from underhood.base.config import get_part, part
from underhood.base.errors import DataError
from underhood.base.rng import stream_seed
from underhood.tensor.tensor import Array, Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharConfig:
    """The shape of the model."""

    vocab_size: int
    context: int = 8  # characters: about a word and a half
    width: int = 16  # numbers per character: room for what matters about one of some 60
    hidden: int = 128  # a few seconds of training on one core
    embedding: str = part("underhood.tensor.layers", "Embedding")
    linear: str = part("underhood.tensor.layers", "Linear")


class CharModel:
    """logits = W₂ tanh(W₁ [e₁ … e_T] + b₁) + b₂, where eₜ is the embedding of the t-th of the last ``context`` characters."""

    def __init__(self, config: CharConfig, seed: int) -> None:
        embedding, linear = get_part(config, "embedding"), get_part(config, "linear")
        self.context = config.context
        self.embedding = embedding(config.vocab_size, config.width, _generator(seed, "init/embedding"))
        self.hidden = linear(config.context * config.width, config.hidden, _generator(seed, "init/hidden"))
        self.output = linear(config.hidden, config.vocab_size, _generator(seed, "init/output"))

    def __call__(self, ids: Int[Array, "B T"]) -> Float[Tensor, "B V"]:
        side_by_side = self.embedding(ids).reshape(len(ids), -1)  # (B, T·C)
        logits: Tensor = self.output(self.hidden(side_by_side).tanh())
        return logits

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
