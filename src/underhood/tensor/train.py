"""Training and measuring a character model (``Bigram`` and ``CharModel`` alike): mini-batches, stochastic gradient descent, bits per character."""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from underhood.base.errors import NonFinite
from underhood.base.rng import stream_seed
from underhood.tensor.charmodel import windows
from underhood.tensor.functions import cross_entropy
from underhood.tensor.tensor import Array, Tensor


class Model(Protocol):
    """What can be trained here: from the last ``context`` characters to the logits of the next."""

    context: int

    def __call__(self, ids: Int[Array, "B T"]) -> Float[Tensor, "B V"]: ...

    def parameters(self) -> list[Tensor]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how fast."""

    steps: int = 4000
    batch: int = 64  # examples a step: enough to smooth the gradient, few enough to take many steps
    learning_rate: float = 0.5  # near the highest that trains; 0.2 takes three times the steps to the same loss
    cooldown: float = 0.3  # share of the steps, at the end, at a tenth of the rate: the noise of single batches settles


def train_step(model: Model, x: Int[Array, "B T"], y: Int[Array, " B"], learning_rate: float) -> float:
    """One step of gradient descent on the cross-entropy of a batch; returns the loss before it, in nats per character."""
    loss = cross_entropy(model(x), y)
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is not None:
            parameter.data -= learning_rate * parameter.grad
    return float(loss.data)


def fit(model: Model, ids: Int[Array, " N"], config: TrainConfig, seed: int, watch: Callable[..., None] = lambda step, **figures: None) -> float:
    """Train on random windows of ``ids``; returns the mean loss of the last tenth of the steps. Raises ``NonFinite`` naming the step."""
    x, y = windows(ids, model.context)
    rng = np.random.default_rng(stream_seed(seed, "data"))
    losses = []
    for step in range(config.steps):
        rows = rng.integers(len(x), size=config.batch)
        cool = step >= config.steps * (1 - config.cooldown)
        loss = train_step(model, x[rows], y[rows], config.learning_rate * (0.1 if cool else 1.0))
        if not math.isfinite(loss):
            raise NonFinite("the loss", step=step)
        losses.append(loss)
        watch(step, loss=loss)
    return float(np.mean(losses[-max(1, config.steps // 10) :]))


def evaluate(model: Model, ids: Int[Array, " N"], batch: int = 4096) -> float:
    """The mean loss over every window of ``ids``, in nats per character (÷ ln 2 for bits)."""
    x, y = windows(ids, model.context)
    total = sum(float(cross_entropy(model(x[i : i + batch]), y[i : i + batch]).data) * len(x[i : i + batch]) for i in range(0, len(x), batch))
    return total / len(x)
