"""The two layers of the character model: a linear map and a table of embeddings."""

import numpy as np
from jaxtyping import Float, Int

from underhood.tensor.tensor import Array, Tensor


class Linear:
    """x W + b. ``weight`` (in, out) starts normal with deviation 1/√in, so that outputs start as large as inputs; ``bias`` (out) starts at 0."""

    def __init__(self, n_inputs: int, n_outputs: int, rng: np.random.Generator) -> None:
        self.weight = Tensor((rng.standard_normal((n_inputs, n_outputs)) * n_inputs**-0.5).astype(np.float32), requires_grad=True)
        self.bias = Tensor(np.zeros(n_outputs, np.float32), requires_grad=True)

    def __call__(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return x @ self.weight + self.bias

    def parameters(self) -> list[Tensor]:
        """The weight and the bias."""
        return [self.weight, self.bias]


class Embedding:
    """One learned row of ``width`` numbers per token, starting standard normal: ``weight`` (V, C)."""

    def __init__(self, n_tokens: int, width: int, rng: np.random.Generator) -> None:
        rows = rng.standard_normal((n_tokens, width)).astype(np.float32)
        self.weight = Tensor(rows, requires_grad=True)

    def __call__(self, ids: Int[Array, "..."]) -> Float[Tensor, "... C"]:
        return self.weight[ids]

    def parameters(self) -> list[Tensor]:
        """The table, where it is trained."""
        return [self.weight]
