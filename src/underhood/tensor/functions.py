"""Softmax, log-softmax and cross-entropy, each composed of tensor operations, and each safe for any finite logit.

exp overflows float32 above 88.7 and float64 above 709.8; a probability underflows to 0, whose log is −inf, about as far below.
Subtracting the largest logit first changes no ratio and leaves every exponent ≤ 0; taking the log before, not after, dividing keeps
small probabilities as numbers.

Source: Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions" (2021), eqs. 1.4 and 3.8.
"""

import numpy as np
from jaxtyping import Float, Int

from underhood.base.errors import ShapeError
from underhood.tensor.tensor import Array, Tensor


def softmax(logits: Float[Tensor, "... V"]) -> Float[Tensor, "... V"]:
    """exp(logit) as a share of their sum, along the last axis: positive, and 1 in total."""
    shifted: Tensor = logits - logits.data.max(axis=-1, keepdims=True)
    e = shifted.exp()
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(logits: Float[Tensor, "... V"]) -> Float[Tensor, "... V"]:
    """The natural logarithm of ``softmax``, along the last axis, without going through a probability."""
    shifted: Tensor = logits - logits.data.max(axis=-1, keepdims=True)
    return shifted - shifted.exp().sum(axis=-1, keepdims=True).log()


def cross_entropy(logits: Float[Tensor, "B V"], targets: Int[Array, " B"]) -> Float[Tensor, ""]:
    """The mean of −log softmax(logits)[target], in nats. Raises ``ShapeError`` for a target outside 0 … V−1 or an empty batch."""
    B, V = logits.shape
    if B == 0 or targets.shape != (B,) or targets.min() < 0 or targets.max() >= V:
        raise ShapeError(f"targets of shape {targets.shape} for logits of shape {(B, V)}", expected=f"{B or 'some'} integers in 0 … {V - 1}")
    picked = log_softmax(logits)[np.arange(B), targets]
    return -picked.mean()
