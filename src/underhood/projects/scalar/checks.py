"""What any correct scalar engine satisfies. The oracles are central differences, closed forms and torch."""

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from underhood.lab.check import Check, Part, check, close, equal, holds, refuses, runs

CALLS = 1000  # that Python allows inside one another


def _data(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments).data


def _slope(result: Any, leaf: Any) -> float:
    """d(result)/d(leaf) from the slopes that the nodes between them keep: path by path, so for small graphs only, and without ``backward``."""
    if result is leaf:
        return 1.0
    return math.fsum(slope * _slope(source, leaf) for source, slope in zip(result.inputs, result.slopes, strict=True))


@check(
    "Arithmetic",
    hints=(
        "Every operator returns a new node; a plain number on either side becomes a node first.",
        "Build − and ÷ from what is there: a − b is a + (−b), and a ÷ b is a × b to the power −1. For 3 − x Python calls x.__rsub__(3).",
        "__neg__: self * -1.0. __sub__: self + -other. __rsub__(self, other): -self + other. __rtruediv__(self, other): self**-1 * other.",
    ),
)
def check_arithmetic(part: Part, rng: random.Random) -> None:
    """Each operator gives the number that plain Python gives, whichever side a plain number stands on."""
    operators: dict[str, Callable[[Any, Any], Any]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }
    a, b = rng.uniform(1, 3), rng.uniform(-3, -1)
    for sign, operate in operators.items():
        for kind, left, right in (("Value, Value", part.Value(a), part.Value(b)), ("Value, number", part.Value(a), b), ("number, Value", a, part.Value(b))):
            found = runs(partial(_data, operate, left, right), f"{kind}: {sign} does not run", given=(a, b))
            close(found, operate(a, b), f"{kind}: {sign} gives another number", given=(a, b))
    close(runs(lambda: (part.Value(a) ** 3).data, "** does not run", given=a), a**3, "** gives another number", given=a)
    close(runs(lambda: (-part.Value(a)).data, "− in front does not run", given=a), -a, "− in front gives another number", given=a)


@check(
    "The product rule",
    hints=(
        "How much does a × b grow when a grows a little? It depends on b.",
        "d(ab)/da = b and d(ab)/db = a: each operand's slope is the other's number.",
        "return Value(self.data * other.data, (self, other), (other.data, self.data), '×')",
    ),
)
def check_product_rule(part: Part, rng: random.Random) -> None:
    """A product keeps a slope for each of its operands."""
    a, b = rng.uniform(1, 3), rng.uniform(-3, -1)
    x, y = part.Value(a), part.Value(b)
    z = runs(lambda: x * y, "the product does not run", given=(a, b))
    found = runs(lambda: (_slope(z, x), _slope(z, y)), "the product's inputs and slopes cannot be read", given=(a, b))
    close(found, (b, a), "the slopes of a × b towards a and b are b and a", given=(a, b))


@check(
    "Functions",
    hints=(
        "Each function stores its own derivative, worked out at the input it was given.",
        "tanh′ = 1 − tanh²; exp′ = exp; log′ = 1/x; relu′ is 1 right of zero and 0 left of it; (xᵏ)′ = k xᵏ⁻¹.",
        "For tanh: t = math.tanh(self.data), then the slope is 1.0 - t * t, with the square.",
    ),
)
def check_functions(part: Part, rng: random.Random) -> None:
    """tanh, relu, exp, log and powers give the right number and the right slope."""
    x = rng.uniform(0.3, 1.5)
    cases: list[tuple[str, Callable[[Any], Any], float, float, float]] = [
        ("tanh", lambda v: v.tanh(), x, math.tanh(x), 1 / math.cosh(x) ** 2),
        ("tanh", lambda v: v.tanh(), -x, math.tanh(-x), 1 / math.cosh(x) ** 2),
        ("relu", lambda v: v.relu(), x, x, 1.0),
        ("relu", lambda v: v.relu(), -x, 0.0, 0.0),
        ("exp", lambda v: v.exp(), x, math.exp(x), math.exp(x)),
        ("log", lambda v: v.log(), x, math.log(x), 1 / x),
        ("** 3", lambda v: v**3, -x, -(x**3), 3 * x**2),
        ("** -0.5", lambda v: v**-0.5, x, x**-0.5, -0.5 * x**-1.5),
        ("** 0", lambda v: v**0, 0.0, 1.0, 0.0),
    ]
    for name, function, at, value, slope in cases:
        leaf = part.Value(at)
        result = runs(partial(function, leaf), f"{name} does not run", given=at)
        close(result.data, value, f"{name} gives another number", given=at)
        close(runs(partial(_slope, result, leaf), f"the slopes of {name} cannot be read", given=at), slope, f"{name} has another slope", given=at)


@check(
    "Functions",
    hints=(
        "Where no number exists, an error is better than nan: nan spreads silently through everything behind it.",
        "math.log and math.pow raise by themselves; float arithmetic with ** may give a complex number instead.",
        "Use math.pow(self.data, exponent), which raises ValueError for a root of a negative number.",
    ),
)
def check_refuses_what_is_no_number(part: Part, rng: random.Random) -> None:
    """The log of 0, a division by 0 and the root of a negative number are errors, born where they happen."""
    errors = (ValueError, ZeroDivisionError, OverflowError)
    refuses(lambda: part.Value(0.0).log(), errors, "the log of 0 must be an error")
    refuses(lambda: 1.0 / part.Value(0.0), errors, "a division by 0 must be an error")
    refuses(lambda: part.Value(-rng.uniform(1, 2)) ** 0.5, errors, "the square root of a negative number must be an error")


@check(
    "The order",
    hints=(
        "A node may pass its gradient on only when everything that uses it has paid in.",
        "Walk depth first and write a node down after all its inputs; backward then goes through the list from the end.",
        "Put (node, False) on a stack; when it comes off, put (node, True) back, then its inputs; when (node, True) comes off, append it.",
    ),
)
def check_topological_order(part: Part, rng: random.Random) -> None:
    """Every node once, inputs before what uses them, the result last."""
    nodes = [part.Value(rng.uniform(-1, 1)) for _ in range(4)]
    for _ in range(30):
        nodes.append(rng.choice(nodes) * rng.choice(nodes) + rng.choice(nodes))
    result = sum(nodes[1:], nodes[0])
    order = runs(result.topological_order, "topological_order does not run")
    place = {id(node): i for i, node in enumerate(order)}
    equal(len(place), len(order), "a node stands in the order more than once")
    holds(order[-1] is result, "the result must stand last")
    late = [(i, id(source)) for i, node in enumerate(order) for source in node.inputs if place.get(id(source), len(order)) >= i]
    equal(late, [], "some nodes stand before one of their inputs (place in the order, id of the input)")


@check(
    "The order",
    hints=(
        "Python allows about a thousand calls inside one another; a loss over many examples is a deeper chain than that.",
        "Keep the nodes still to be visited in a list of your own, and take from its end.",
        "stack = [(self, False)]; while stack: node, inputs_done = stack.pop() …",
    ),
)
def check_any_depth(part: Part, rng: random.Random) -> None:
    """A chain three times as long as Python's calls may be deep is no problem."""
    x = part.Value(rng.uniform(-1, 1))
    y = x
    for _ in range(3 * CALLS):
        y = y + x
    order = runs(y.topological_order, f"the order of a chain of {3 * CALLS:,} additions", given="x + x + x + …")
    holds(order[0] is x, "the far end of the chain must stand first")
    equal(len(order), 3 * CALLS + 1, "the number of nodes in the order")


@check(
    "Backward",
    hints=(
        "A number that is used twice influences the result in two ways.",
        "The gradients that arrive at a node along different ways are added.",
        "source.grad += slope * node.grad, with += rather than =.",
    ),
)
def check_shared_node(part: Part, rng: random.Random) -> None:
    """A node that is used twice receives the sum: worked by hand for a·(a + b) and (a + b)·a, where a = x², b = 3x."""
    for product in ("a·(a + b)", "(a + b)·a"):
        v = rng.uniform(0.5, 2)
        x = part.Value(v)
        a = x * x
        b = x * 3.0
        y = a * (a + b) if product.startswith("a") else (a + b) * a
        runs(y.backward, "backward does not run", given=v)
        close(x.grad, 4 * v**3 + 9 * v**2, "y = x⁴ + 3x³ has the slope 4x³ + 9x²", given=f"y = {product}, a = x², b = 3x, x = {v}", rtol=1e-9)


@check(
    "Backward",
    hints=(
        "Two losses that share their weights are trained on together by calling backward on both.",
        "A leaf keeps what it has and gets more; inner nodes start from 0, or the second call would count the first one again.",
        "Before the walk: for node in order: if node.inputs: node.grad = 0.0.",
    ),
)
def check_backward_adds_up(part: Part, rng: random.Random) -> None:
    """A second backward adds to the leaves exactly what the first one did, as in torch."""
    a, b = rng.uniform(1, 2), rng.uniform(1, 2)
    x, y = part.Value(a), part.Value(b)
    result = (x * y).tanh() * x
    runs(result.backward, "backward does not run", given=(a, b))
    once = (x.grad, y.grad)
    runs(result.backward, "a second backward does not run", given=(a, b))
    t, u = math.tanh(a * b), 1 / math.cosh(a * b) ** 2
    close(once, (t + a * b * u, a * a * u), "the gradients of tanh(ab)·a", given=(a, b))
    close((x.grad, y.grad), (2 * once[0], 2 * once[1]), "the second backward must add the same again", given=(a, b))


def random_expression(rng: random.Random, leaves: list[Any], tanh: Callable[[Any], Any], relu: Callable[[Any], Any]) -> Any:
    """Twelve operations on what is there already, so that nodes are shared: the same program for every engine."""
    pool = list(leaves)
    for _ in range(12):
        a, b = rng.choice(pool), rng.choice(pool)
        kind = rng.randrange(8)
        if kind < 2:
            new = a + b
        elif kind < 4:
            new = a * b
        elif kind == 4:
            new = a - b
        elif kind == 5:
            new = a / (b * b + 1.0)
        else:
            new = tanh(a) if kind == 6 else relu(a)
        pool.append(tanh(new))
    return sum(pool[1:], pool[0])


def _tanh(value: Any) -> Any:
    return value.tanh()


def _relu(value: Any) -> Any:
    return value.relu()


@check(
    "Backward",
    hints=(
        "If the single operations pass and this fails, look at how gradients meet: sharing and order.",
        "Compare with a slope that you measure: (f(x + 0.00001) − f(x − 0.00001)) ÷ 0.00002.",
        "Set the result's grad to 1, go through the reversed topological order, and add slope × grad to each input.",
    ),
)
def check_equals_torch(part: Part, rng: random.Random) -> None:
    """Fifty random expressions of shared nodes: values and gradients as torch.autograd has them, in float64."""
    import torch

    for _ in range(50):
        program, point = rng.getrandbits(32), [rng.uniform(-2, 2) for _ in range(3)]
        ours = [part.Value(p) for p in point]
        theirs = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in point]
        result = runs(partial(random_expression, random.Random(program), ours, _tanh, _relu), "the expression does not run")
        expected = random_expression(random.Random(program), list(theirs), torch.tanh, torch.relu)
        runs(result.backward, "backward does not run", given=point)
        expected.backward()
        close(result.data, expected.item(), "the value of a random expression differs from torch's", given=point, rtol=1e-9)
        close([v.grad for v in ours], [t.grad for t in theirs], "its gradients differ from torch's", given=point, rtol=1e-9)


def _set(parameters: list[Any], rng: random.Random) -> list[float]:
    """Give every parameter a number of our choice, biases too, and return them."""
    numbers = [rng.uniform(-1, 1) for _ in parameters]
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
    """tanh, relu or nothing of w · x + b; ``parameters()`` are the weights and then the bias."""
    bend: dict[str, Callable[[float], float]] = {"tanh": math.tanh, "relu": lambda v: max(0.0, v), "none": lambda v: v}
    for activation, function in bend.items():
        neuron = runs(partial(part.Neuron, 3, random.Random(1), activation), "Neuron(3, rng, activation) cannot be built", given=activation)
        equal(len(neuron.parameters()), 4, "a neuron of three inputs has three weights and a bias")
        *w, b = _set(neuron.parameters(), rng)
        x = [rng.uniform(-1, 1) for _ in range(3)]
        found = runs(partial(_data, neuron, x), "the neuron does not run", given=x)
        close(found, function(sum(i * j for i, j in zip(w, x, strict=True)) + b), f"{activation}(w · x + b), bias included", given=x)


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
    model = runs(lambda: part.MLP(2, [3, 2], random.Random(1)), "MLP(2, [3, 2], rng) cannot be built")
    equal(len(model.parameters()), 17, "2-3-2 has 3·(2+1) + 2·(3+1) parameters")
    numbers = iter([3 * n for n in _set(model.parameters(), rng)])
    for parameter in model.parameters():
        parameter.data *= 3
    x = [rng.uniform(-1, 1) for _ in range(2)]
    rows = [[next(numbers) for _ in range(3)] for _ in range(3)] + [[next(numbers) for _ in range(4)] for _ in range(2)]
    hidden = [math.tanh(w * x[0] + v * x[1] + b) for w, v, b in rows[:3]]
    expected = [sum(w * h for w, h in zip(row[:3], hidden, strict=True)) + row[3] for row in rows[3:]]
    found = runs(lambda: [v.data for v in model(x)], "the network does not run", given=x)
    close(found, expected, "the outputs of W₂ tanh(W₁ x + b₁) + b₂", given=x)


@check(
    "The layer",
    hints=(
        "Side by side means: the same inputs for each neuron, one output from each.",
        "Call every neuron on the inputs and collect the results in a list.",
        "return [neuron(inputs) for neuron in self.neurons]",
    ),
)
def check_layer(part: Part, rng: random.Random) -> None:
    """Each of a layer's outputs is its neuron's, biases and all."""
    layer = runs(lambda: part.Layer(2, 3, random.Random(1), "relu"), "Layer(2, 3, rng, 'relu') cannot be built")
    equal(len(layer.parameters()), 9, "three neurons of two inputs have nine parameters")
    n = _set(layer.parameters(), rng)
    x = [rng.uniform(-1, 1) for _ in range(2)]
    found = runs(lambda: [v.data for v in layer(x)], "the layer does not run", given=x)
    close(found, [max(0.0, n[i] * x[0] + n[i + 1] * x[1] + n[i + 2]) for i in (0, 3, 6)], "relu(W x + b), neuron by neuron", given=x)


@check(
    "The training step",
    hints=(
        "A step is: compute the loss, clear the gradients, go backward, move against the gradient.",
        "Gradients add up by themselves, so those of the last step must be cleared first.",
        "for p in model.parameters(): p.grad = 0.0, then loss.backward(), then p.data -= learning_rate * p.grad.",
    ),
)
def check_train_step(part: Part, rng: random.Random) -> None:
    """Three steps leave the weights where torch's SGD on the mean squared error leaves them, and return torch's losses."""
    import torch

    model = runs(lambda: part.MLP(2, [3, 1], random.Random(1)), "MLP(2, [3, 1], rng) cannot be built")
    n = _set(model.parameters(), rng)
    inputs = [[rng.uniform(-1, 1), rng.uniform(-1, 1)] for _ in range(4)]
    targets = [[rng.uniform(-1, 1)] for _ in range(4)]
    rows = torch.tensor(n, dtype=torch.float64)
    w1, b1, w2, b2 = theirs = [t.clone().requires_grad_() for t in (rows[:9].view(3, 3)[:, :2], rows[2:9:3], rows[9:12], rows[12])]
    optimizer = torch.optim.SGD(theirs, lr=0.1)
    x, y = torch.tensor(inputs, dtype=torch.float64), torch.tensor(targets, dtype=torch.float64)
    for step in range(3):
        loss = torch.nn.functional.mse_loss((torch.tanh(x @ w1.T + b1) @ w2 + b2)[:, None], y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found = runs(lambda: part.train_step(model, inputs, targets, 0.1), "the step does not run")
        close(found, loss.item(), f"the loss before step {step + 1}", rtol=1e-9)


CHECKS: tuple[Check, ...] = (
    check_arithmetic,
    check_product_rule,
    check_functions,
    check_refuses_what_is_no_number,
    check_topological_order,
    check_any_depth,
    check_shared_node,
    check_backward_adds_up,
    check_equals_torch,
    check_neuron,
    check_layer,
    check_network,
    check_train_step,
)
