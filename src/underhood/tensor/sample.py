"""Sampling with a temperature: below 1 the likely characters become likelier, above 1 the unlikely ones; 0 takes the likeliest."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from underhood.base.errors import ConfigError
from underhood.tensor.functions import softmax
from underhood.tensor.tensor import Array, Tensor


def draw(logits: Float[Array, " V"], temperature: float, rng: np.random.Generator) -> int:
    """One index, with probabilities softmax(logits ÷ temperature). Raises ``ConfigError`` for a negative temperature.

    How: the index at which the running sum of the probabilities passes a uniform number.
    """
    if temperature < 0:
        raise ConfigError(f"temperature {temperature}", expected="0 or more")
    if temperature == 0:
        return int(logits.argmax())
    p = softmax(Tensor(np.asarray(logits, np.float64) / temperature)).data
    reached = p.cumsum()
    return int(np.searchsorted(reached, rng.random() * reached[-1], side="right"))


def continue_text(model: Callable[[Array], Tensor], start: Int[Array, " T"], n: int, temperature: float, rng: np.random.Generator) -> Int[Array, " N"]:
    """``n`` more characters after ``start`` (exactly the model's context), each drawn after reading the ones before it."""
    ids = list(start)
    for _ in range(n):
        logits = model(np.array([ids[-len(start) :]])).data[0]
        ids.append(draw(logits, temperature, rng))
    return np.array(ids[len(start) :])
