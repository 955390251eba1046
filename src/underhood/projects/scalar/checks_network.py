"""What any correct neuron, layer, network and training step satisfy. The oracles are closed forms and torch."""

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from underhood.lab.check import Check, Part, check, close, equal, runs

BENDS: dict[str, Callable[[float], float]] = {"tanh": math.tanh, "relu": lambda v: max(0.0, v)}


def _named(activation: str) -> tuple[str, ...]:
    """The arguments that ask for it: none for tanh, which is meant where nothing is said."""
    return () if activation == "tanh" else (activation,)


def _short(numbers: list[float]) -> list[float]:
    return [round(n, 2) for n in numbers]


def _data(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments).data


def _set(parameters: list[Any], rng: random.Random, size: float = 1) -> list[float]:
    """Give every parameter a number of our choice, biases too, and return them."""
    numbers = [round(rng.uniform(-size, size), 2) for _ in parameters]
    for parameter, number in zip(parameters, numbers, strict=True):
        parameter.data = number
    return numbers


@check(
    "The neuron",
    hints=(
        "A neuron is a weighted sum, a bias, and a bend.",
        "Start the sum with the bias, add weight × input for each pair, then apply the activation.",
        "total = self.bias; for weight, x in zip(self.weights, inputs): total = total + weight * x; return total.tanh()",
    ),
)
def check_neuron(part: Part, rng: random.Random) -> None:
    """tanh, relu or nothing of w · x + b; ``parameters()`` are the weights and then the bias, which start as they are said to."""
    for n in (3, 16):
        seed = rng.getrandbits(32)
        neuron = runs(partial(part.Neuron, n, random.Random(seed)), f"Neuron({n}, rng) cannot be built")
        equal(len(neuron.parameters()), n + 1, f"a neuron of {n} inputs has {n} weights and a bias")
        _check_start(neuron, [n], seed, f"Neuron({n}, random.Random({seed}))")
    for activation, function in {**BENDS, "none": float}.items():
        neuron = runs(partial(part.Neuron, 3, random.Random(1), activation), "Neuron(3, rng, activation) cannot be built", given=activation)
        *w, b = _set(neuron.parameters(), rng)
        x = [rng.uniform(-1, 1) for _ in range(3)]
        found = runs(partial(_data, neuron, x), "the neuron does not run", given=x)
        given = f"activation {activation}, weights {w}, bias {b}, x = {x}"
        close(found, function(sum(i * j for i, j in zip(w, x, strict=True)) + b), "activation(w · x + b), bias included", given=given)


def _check_start(model: Any, inputs: list[int], seed: int, given: str) -> None:
    """The first numbers of the neurons of ``model``, which have so many ``inputs``, in their order."""
    numbers = iter([p.data for p in model.parameters()])
    rng = random.Random(seed)
    for i, n in enumerate(inputs, 1):
        *weights, bias = [next(numbers) for _ in range(n + 1)]
        expected = [rng.uniform(-(n**-0.5), n**-0.5) for _ in range(n)]
        which = f" (neuron {i} of {len(inputs)})" if len(inputs) > 1 else ""
        close(weights, expected, f"weights start uniform in ±1/√inputs, here ±{n**-0.5:.3g}, drawn in order from rng{which}", given=given, rtol=1e-9)
        close(bias, 0.0, f"the bias starts at 0{which}", given=given)


@check(
    "The network",
    hints=(
        "A layer is a list of neurons that read the same inputs; a network is a list of layers, each reading the one before.",
        "The last layer answers with any number: it has no activation.",
        'kinds = [activation] * (len(widths) - 1) + ["none"], one for each layer.',
    ),
)
def check_network(part: Part, rng: random.Random) -> None:
    """A 2-3-2 network gives what the formula gives, from the parameters in their documented order; the output is not squashed."""
    for activation, function in BENDS.items():
        seed, kind = rng.getrandbits(32), _named(activation)
        built = f"MLP({', '.join(['2', '[3, 2]', f'random.Random({seed})', *map(repr, kind)])})"
        model = runs(partial(part.MLP, 2, [3, 2], random.Random(seed), *kind), f"{built} cannot be built")
        equal(len(model.parameters()), 17, "2-3-2 has 3·(2+1) + 2·(3+1) parameters", given=built)
        _check_start(model, [2, 2, 2, 3, 3], seed, built)
        n = _set(model.parameters(), rng, 3)
        x = [rng.uniform(-1, 1) for _ in range(2)]
        hidden = [function(n[i] * x[0] + n[i + 1] * x[1] + n[i + 2]) for i in (0, 3, 6)]
        expected = [sum(w * h for w, h in zip(n[i : i + 3], hidden, strict=True)) + n[i + 3] for i in (9, 13)]
        found = runs(partial(_numbers, model, x), "the network does not run", given=x)
        given = f"{built}, its parameters set to {_short(n)}, x = {x}"
        close(found, expected, f"the outputs of W₂ {activation}(W₁ x + b₁) + b₂", given=given)


def _numbers(model: Any, x: list[float]) -> list[float]:
    return [v.data for v in model(x)]


@check(
    "The layer",
    hints=(
        "Side by side means: the same inputs for each neuron, one output from each.",
        "Call every neuron on the inputs and collect the results in a list.",
        "return [neuron(inputs) for neuron in self.neurons]",
    ),
)
def check_layer(part: Part, rng: random.Random) -> None:
    """Each of a layer's outputs is its neuron's, biases and all; the neurons start one after the other."""
    for activation, function in BENDS.items():
        seed, kind = rng.getrandbits(32), _named(activation)
        built = f"Layer({', '.join(['2', '3', f'random.Random({seed})', *map(repr, kind)])})"
        layer = runs(partial(part.Layer, 2, 3, random.Random(seed), *kind), f"{built} cannot be built")
        equal(len(layer.parameters()), 9, "three neurons of two inputs have nine parameters", given=built)
        _check_start(layer, [2, 2, 2], seed, built)
        n = _set(layer.parameters(), rng)
        x = [rng.uniform(-1, 1) for _ in range(2)]
        found = runs(partial(_numbers, layer, x), "the layer does not run", given=x)
        given = f"{built}, its parameters set to {_short(n)}, x = {x}"
        close(found, [function(n[i] * x[0] + n[i + 1] * x[1] + n[i + 2]) for i in (0, 3, 6)], f"{activation}(W x + b), neuron by neuron", given=given)


@check(
    "The training step",
    hints=(
        "How many squares are there, and through what is their sum divided?",
        "The mean goes over all outputs of all points: three points with two outputs each make six squares.",
        "errors = [(y - t) ** 2 for ys, ts in zip(outputs, targets) for y, t in zip(ys, ts)]; return sum(errors, Value(0.0)) / len(errors)",
    ),
)
def check_mean_squared_error(part: Part, rng: random.Random) -> None:
    """The mean over all outputs of (output − target)², and its slope 2 (output − target) ÷ number of outputs."""
    outputs, targets = [[[round(rng.uniform(-1, 1), 2) for _ in range(2)] for _ in range(3)] for _ in range(2)]
    nodes = [[part.Value(y) for y in row] for row in outputs]
    given = f"3 points with 2 outputs each: outputs {outputs}, targets {targets}"
    loss = runs(lambda: part.mean_squared_error(nodes, targets), "mean_squared_error does not run", given=given)
    gaps = [y - t for row, wanted in zip(outputs, targets, strict=True) for y, t in zip(row, wanted, strict=True)]
    close(loss.data, sum(gap * gap for gap in gaps) / 6, "the mean of the six squares", given=given)
    runs(loss.backward, "backward from the mean does not run", given=given)
    close([y.grad for row in nodes for y in row], [gap / 3 for gap in gaps], "the slope towards each output is 2 (output − target) ÷ 6", given=given)


@check(
    "The training step",
    hints=(
        "A step is: compute the loss (the mean over all points), clear the gradients, go backward, move against the gradient.",
        "Gradients add up by themselves, so those of the last step must be cleared first; against the gradient means minus.",
        "for p in model.parameters(): p.grad = 0.0, then loss.backward(), then p.data -= learning_rate * p.grad.",
    ),
)
def check_train_step(part: Part, rng: random.Random) -> None:
    """Three steps leave the parameters where torch's SGD on the mean squared error leaves them, and return torch's losses."""
    import torch

    model = runs(lambda: part.MLP(2, [3, 2], random.Random(1)), "MLP(2, [3, 2], rng) cannot be built")
    parameters = model.parameters()
    ours = _set(parameters, rng)
    inputs, targets = [[[round(rng.uniform(-1, 1), 2) for _ in range(2)] for _ in range(4)] for _ in range(2)]
    theirs = torch.tensor(ours, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theirs], lr=0.1)
    x, y = torch.tensor(inputs, dtype=torch.float64), torch.tensor(targets, dtype=torch.float64)
    data = f"4 points {inputs} with 2 targets each {targets}"
    for step in (1, 2, 3):
        first, second = theirs[:9].view(3, 3), theirs[9:].view(2, 4)
        hidden = torch.tanh(x @ first[:, :2].T + first[:, 2])
        loss = torch.nn.functional.mse_loss(hidden @ second[:, :3].T + second[:, 3], y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        given = f"step {step} with learning rate 0.1 of MLP(2, [3, 2], rng), its parameters at {[round(p, 4) for p in ours]}; {data}"
        found = runs(lambda: part.train_step(model, inputs, targets, 0.1), "the step does not run", given=given)
        plain = runs(partial(float, found), "the loss must come back as a plain number", given=given)
        close(plain, loss.item(), f"the loss that step {step} returns is the one before it moves", given=given, rtol=1e-9)
        assert theirs.grad is not None
        for i, (p, slope, after) in enumerate(zip(parameters, theirs.grad.tolist(), theirs.tolist(), strict=True)):
            says = "the gradients of earlier steps must be cleared" if step > 1 else "it moves by −learning rate × its gradient"
            where = f"parameter {i} at {ours[i]}, its gradient in this step {slope}, the learning rate 0.1"
            close(p.data, after, f"step {step} leaves parameter {i} elsewhere: {says}", given=where, rtol=1e-9)
        ours = theirs.tolist()


CHECKS: tuple[Check, ...] = (check_neuron, check_layer, check_network, check_mean_squared_error, check_train_step)
