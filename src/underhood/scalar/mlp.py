"""A multi-layer perceptron made of scalars, and the step that trains it: neuron, layer, network, gradient descent.

Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors" (Nature 323, 1986).
"""

import random
from collections.abc import Sequence
from typing import Literal

from underhood.scalar.value import Value

Activation = Literal["tanh", "relu", "none"]


class Neuron:
    """activation(w · x + b). Weights start uniform in ±1 / √inputs, drawn in order from ``rng``; the bias starts at 0."""

    def __init__(self, n_inputs: int, rng: random.Random, activation: Activation = "tanh") -> None:
        scale = n_inputs**-0.5  # keeps the sum near 1 whatever the number of inputs, so that tanh starts in its steep part
        self.weights = [Value(rng.uniform(-scale, scale)) for _ in range(n_inputs)]
        self.bias = Value(0.0)
        self.activation = activation

    def __call__(self, inputs: Sequence[Value | float]) -> Value:
        total = self.bias
        for weight, x in zip(self.weights, inputs, strict=True):
            total = total + weight * x
        if self.activation == "none":
            return total
        return total.tanh() if self.activation == "tanh" else total.relu()

    def parameters(self) -> list[Value]:
        """The weights, then the bias."""
        return [*self.weights, self.bias]


class Layer:
    """``n_outputs`` neurons side by side, all reading the same inputs."""

    def __init__(self, n_inputs: int, n_outputs: int, rng: random.Random, activation: Activation = "tanh") -> None:
        self.neurons = [Neuron(n_inputs, rng, activation) for _ in range(n_outputs)]

    def __call__(self, inputs: Sequence[Value | float]) -> list[Value]:
        return [neuron(inputs) for neuron in self.neurons]

    def parameters(self) -> list[Value]:
        """Neuron by neuron."""
        return [p for neuron in self.neurons for p in neuron.parameters()]


class MLP:
    """Layers in a row, e.g. ``MLP(2, [8, 8, 1], rng)``; the last one has no activation, so that it can answer any number."""

    def __init__(self, n_inputs: int, widths: Sequence[int], rng: random.Random, activation: Activation = "tanh") -> None:
        sizes = [n_inputs, *widths]
        kinds = [activation] * (len(widths) - 1) + ["none"]
        self.layers = [Layer(a, b, rng, kind) for a, b, kind in zip(sizes[:-1], sizes[1:], kinds, strict=True)]

    def __call__(self, inputs: Sequence[Value | float]) -> list[Value]:
        outputs: Sequence[Value | float] = inputs
        for layer in self.layers:
            outputs = layer(outputs)
        return list(outputs)  # type: ignore[arg-type]

    def parameters(self) -> list[Value]:
        """Layer by layer."""
        return [p for layer in self.layers for p in layer.parameters()]


def mean_squared_error(outputs: Sequence[Sequence[Value]], targets: Sequence[Sequence[float]]) -> Value:
    """The mean over all outputs of (output − target)²."""
    errors = [(y - t) ** 2 for ys, ts in zip(outputs, targets, strict=True) for y, t in zip(ys, ts, strict=True)]
    return sum(errors, Value(0.0)) / len(errors)


def train_step(model: MLP, inputs: Sequence[Sequence[float]], targets: Sequence[Sequence[float]], learning_rate: float) -> float:
    """One step of gradient descent on the mean squared error over all points; returns the loss before the step."""
    loss = mean_squared_error([model(x) for x in inputs], targets)
    for parameter in model.parameters():
        parameter.grad = 0.0
    loss.backward()
    for parameter in model.parameters():
        parameter.data -= learning_rate * parameter.grad
    return loss.data
