"""The scalar engine made fast, still in plain Python: the same sums as ``value.py`` and ``mlp.py``, several times sooner.

Three changes. *A tape* (Wengert list): all numbers lie in one list and all steps in another, in the order in which they were made, which
is a topological order already, so nothing has to be sorted. *A fused step*: a whole layer is one step, its sums done by ``sum`` and ``map``
over slices. *Nothing for the garbage collector*: floats and tuples of numbers are never traversed; a graph of objects is, again and again.

Source: Wengert, "A simple automatic derivative evaluation program" (CACM 7, 1964).
"""

import math
import random
from collections.abc import Callable, Sequence
from operator import mul
from typing import Any

from underhood.scalar.mlp import Activation

Undo = Callable[[list[float], list[float], tuple[Any, ...]], None]


class Tape:
    """The numbers of a computation (``data``), the slope of the result with respect to each (``grad``), and how to go back (``steps``)."""

    def __init__(self) -> None:
        self.data: list[float] = []
        self.grad: list[float] = []
        self.steps: list[tuple[Undo, tuple[Any, ...]]] = []

    def number(self, value: float) -> "Number":
        """A leaf."""
        self.data.append(value)
        return Number(self, len(self.data) - 1)

    def one(self, value: float, source: int, slope: float) -> "Number":
        """Record a result of one input."""
        self.steps.append((_undo_one, (len(self.data), source, slope)))
        return self.number(value)

    def two(self, value: float, left: int, left_slope: float, right: int, right_slope: float) -> "Number":
        """Record a result of two inputs."""
        self.steps.append((_undo_two, (len(self.data), left, left_slope, right, right_slope)))
        return self.number(value)

    def layer(self, parameters: int, source: int, n_inputs: int, n_outputs: int, activation: Activation) -> int:
        """Record activation(W x + b) and return where its outputs start.

        ``parameters``: where the rows start, each the weights of a neuron and then its bias. ``source``: where x starts.
        """
        data, out = self.data, len(self.data)
        x = data[source : source + n_inputs]
        rows = range(parameters, parameters + n_outputs * (n_inputs + 1), n_inputs + 1)
        sums = [sum(map(mul, data[row : row + n_inputs], x), data[row + n_inputs]) for row in rows]
        if activation == "tanh":
            sums = list(map(math.tanh, sums))
        elif activation == "relu":
            sums = [s if s > 0 else 0.0 for s in sums]
        data.extend(sums)
        self.steps.append((_undo_layer, (out, parameters, source, n_inputs, n_outputs, activation)))
        return out

    def backward(self, result: "Number") -> None:
        """Fill ``grad`` with d(result)/d(number) for every number on the tape."""
        data, grad = self.data, [0.0] * len(self.data)
        grad[result.at] = 1.0
        for undo, step in reversed(self.steps):
            undo(data, grad, step)
        self.grad = grad

    def rewind(self, length: int) -> None:
        """Forget every step and all numbers but the first ``length``."""
        del self.data[length:]
        self.steps.clear()


def _undo_one(data: list[float], grad: list[float], step: tuple[Any, ...]) -> None:
    out, source, slope = step
    grad[source] += slope * grad[out]


def _undo_two(data: list[float], grad: list[float], step: tuple[Any, ...]) -> None:
    out, left, left_slope, right, right_slope = step
    g = grad[out]
    grad[left] += left_slope * g
    grad[right] += right_slope * g


def _undo_layer(data: list[float], grad: list[float], step: tuple[Any, ...]) -> None:
    out, row, source, n_inputs, n_outputs, activation = step
    x, x_grad = data[source : source + n_inputs], grad[source : source + n_inputs]
    gradients = grad[out : out + n_outputs]
    if activation == "tanh":
        gradients = [g * (1.0 - y * y) for y, g in zip(data[out : out + n_outputs], gradients, strict=True)]
    elif activation == "relu":
        gradients = [g if y > 0 else 0.0 for y, g in zip(data[out : out + n_outputs], gradients, strict=True)]
    for g in gradients:
        end = row + n_inputs
        if g:
            grad[row:end] = [old + g * v for old, v in zip(grad[row:end], x, strict=True)]
            grad[end] += g
            x_grad = [old + g * w for old, w in zip(x_grad, data[row:end], strict=True)]
        row = end + 1
    grad[source : source + n_inputs] = x_grad


class Number:
    """A place on a tape, with the operators of ``Value``; both sides of an operator must lie on the same tape."""

    __slots__ = ("at", "tape")

    def __init__(self, tape: Tape, at: int) -> None:
        self.tape, self.at = tape, at

    @property
    def data(self) -> float:
        """The number."""
        return self.tape.data[self.at]

    @property
    def grad(self) -> float:
        """Its gradient, once the tape has gone back."""
        return self.tape.grad[self.at]

    def __add__(self, other: "Number | float") -> "Number":
        if isinstance(other, Number):
            return self.tape.two(self.data + other.data, self.at, 1.0, other.at, 1.0)
        return self.tape.one(self.data + other, self.at, 1.0)

    def __mul__(self, other: "Number | float") -> "Number":
        if isinstance(other, Number):
            a, b = self.data, other.data
            return self.tape.two(a * b, self.at, b, other.at, a)
        return self.tape.one(self.data * other, self.at, other)

    def __pow__(self, exponent: float) -> "Number":
        slope = exponent * math.pow(self.data, exponent - 1) if exponent else 0.0
        return self.tape.one(math.pow(self.data, exponent), self.at, slope)

    def __neg__(self) -> "Number":
        return self * -1.0

    def __sub__(self, other: "Number | float") -> "Number":
        return self + -other

    def __truediv__(self, other: "Number | float") -> "Number":
        return self * (other**-1 if isinstance(other, Number) else 1 / other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: float) -> "Number":
        return -self + other

    def __rtruediv__(self, other: float) -> "Number":
        return self**-1 * other

    def tanh(self) -> "Number":
        t = math.tanh(self.data)
        return self.tape.one(t, self.at, 1.0 - t * t)

    def relu(self) -> "Number":
        x = self.data
        return self.tape.one(x, self.at, 1.0) if x > 0 else self.tape.one(0.0, self.at, 0.0)

    def exp(self) -> "Number":
        e = math.exp(self.data)
        return self.tape.one(e, self.at, e)

    def log(self) -> "Number":
        x = self.data
        return self.tape.one(math.log(x), self.at, 1.0 / x)

    def backward(self) -> None:
        """Fill the gradients of everything on the tape."""
        self.tape.backward(self)


class MLP:
    """``underhood.scalar.mlp.MLP`` on a tape: the same arguments, the same initial weights from the same ``rng``, the same answers."""

    def __init__(self, n_inputs: int, widths: Sequence[int], rng: random.Random, activation: Activation = "tanh") -> None:
        self.tape = Tape()
        self.sizes = list(zip([n_inputs, *widths[:-1]], widths, strict=True))
        self.activation = activation
        for a, b in self.sizes:
            for _ in range(b):
                self.tape.data += [rng.uniform(-(a**-0.5), a**-0.5) for _ in range(a)] + [0.0]
        self.n_parameters = len(self.tape.data)

    def __call__(self, inputs: Sequence[float]) -> list[Number]:
        row, at = 0, len(self.tape.data)
        self.tape.data += inputs
        for i, (a, b) in enumerate(self.sizes):
            at = self.tape.layer(row, at, a, b, self.activation if i < len(self.sizes) - 1 else "none")
            row += (a + 1) * b
        return [Number(self.tape, at + k) for k in range(self.sizes[-1][1])]

    def parameters(self) -> list[Number]:
        """In the order of the plain network: layer by layer, neuron by neuron, weights and then the bias."""
        return [Number(self.tape, i) for i in range(self.n_parameters)]

    def descend(self, learning_rate: float) -> None:
        """Move every parameter against its gradient and forget the graph."""
        self.tape.rewind(self.n_parameters)
        self.tape.data = [p - learning_rate * g for p, g in zip(self.tape.data, self.tape.grad, strict=False)]


def train_step(model: MLP, inputs: Sequence[Sequence[float]], targets: Sequence[Sequence[float]], learning_rate: float) -> float:
    """``underhood.scalar.mlp.train_step`` on a tape; returns the mean squared error before the step."""
    outputs = [model(x) for x in inputs]
    errors = [(y - t) ** 2 for ys, ts in zip(outputs, targets, strict=True) for y, t in zip(ys, ts, strict=True)]
    loss = sum(errors[1:], errors[0]) / len(errors)
    loss.backward()
    value = loss.data
    model.descend(learning_rate)
    return value
