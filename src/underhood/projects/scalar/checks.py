"""What any correct scalar engine satisfies, then (``checks_network``) what is built on it. The oracles are central differences, closed forms and torch."""

import math
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from underhood.lab.check import Check, Part, check, close, equal, holds, refuses, runs
from underhood.projects.scalar.checks_network import CHECKS as NETWORK_CHECKS

CALLS = 1000  # that Python allows inside one another
NODES, LINES = 2000, 30  # of the graph on which the order is timed, and that lead into each of its nodes
TIMES = 100  # as long as our own walk over the lines: with a set, and the way from process to process, 20 to 40 times as long; with a list, 400 or more

SLOPES = {
    "tanh": "tanh′ = 1 − tanh²",
    "relu": "1 right of 0, and 0 elsewhere, at 0 too",
    "exp": "exp is its own slope",
    "log": "log′ x = 1/x",
    "** 3": "(xᵏ)′ = k·xᵏ⁻¹",
    "** -0.5": "(xᵏ)′ = k·xᵏ⁻¹",
    "** 0": "x⁰ is 1 everywhere, so its slope is 0, at x = 0 too",
    "1 ÷ x": "(1/x)′ = −1/x²",
}


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
    _check_nodes(part, a, b)
    for sign, operate in operators.items():
        for kind, left, right in (("Value, Value", part.Value(a), part.Value(b)), ("Value, number", part.Value(a), b), ("number, Value", a, part.Value(b))):
            found = runs(partial(_data, operate, left, right), f"{kind}: {sign} does not run", given=(a, b))
            close(found, operate(a, b), f"{kind}: {sign} gives another number", given=(a, b))
    close(runs(lambda: (part.Value(a) ** 3).data, "** does not run", given=a), a**3, "** gives another number", given=a)
    close(runs(lambda: (-part.Value(a)).data, "− in front does not run", given=a), -a, "− in front gives another number", given=a)


def _check_nodes(part: Part, a: float, b: float) -> None:
    """What stands in a leaf and in a sum."""
    x, y = part.Value(a), part.Value(b)
    equal((x.data, x.grad), (a, 0.0), "a new node holds its number, and the gradient 0.0", given=f"x = Value({a})")
    equal(runs(lambda: len(x.inputs), "its inputs cannot be counted", given=f"x = Value({a})"), 0, "a leaf has no inputs", given=f"x = Value({a})")
    z = runs(lambda: x + y, "Value, Value: + does not run", given=(a, b))
    kept = runs(lambda: list(z.inputs), "the inputs of x + y cannot be read", given=(a, b))
    holds(len(kept) == 2 and kept[0] is x and kept[1] is y, "x + y is a new node whose inputs are x and y", given=(a, b), expected=[x, y], found=kept)
    equal((x.data, y.data), (a, b), "x + y leaves x and y as they are", given=(a, b))
    holds(bool(z.op), "op says what computed a node", given="x + y", expected="'+', or another word for it", found=z.op)


@check(
    "The product rule",
    hints=(
        "How much does a × b grow when a grows a little? It depends on b.",
        "d(ab)/da = b and d(ab)/db = a: each operand's slope is the other's number.",
        "return Value(self.data * other.data, (self, other), (other.data, self.data), '×')",
    ),
)
def check_product_rule(part: Part, rng: random.Random) -> None:
    """A product keeps a slope for each of its operands; so do sums and differences, which need no other rule."""
    a, b = rng.uniform(1, 3), rng.uniform(-3, -1)
    x, y = part.Value(a), part.Value(b)
    z = runs(lambda: x * y, "the product does not run", given=(a, b))
    found = runs(lambda: (_slope(z, x), _slope(z, y)), "the product's inputs and slopes cannot be read", given=(a, b))
    close(found, (b, a), "the slopes of a × b towards a and b are b and a", given=(a, b))
    close(runs(lambda: _slope(x * x, x), "the slopes of x × x cannot be read", given=a), 2 * a, "x × x hears a nudge of x twice", given=a)
    for sign, operate, slopes in (("+", lambda: x + y, (1, 1)), ("−", lambda: x - y, (1, -1)), ("3 −", lambda: 3.0 - x + y, (-1, 1))):
        z = runs(operate, f"{sign} does not run", given=(a, b))
        found = runs(partial(_slopes, z, x, y), f"the slopes of {sign} cannot be read", given=(a, b))
        close(found, slopes, f"the slopes of {'3 − a + b' if sign == '3 −' else f'a {sign} b'} towards a and b", given=(a, b))


def _slopes(result: Any, *leaves: Any) -> list[float]:
    return [_slope(result, leaf) for leaf in leaves]


@check(
    "Functions",
    hints=(
        "Each function stores its own derivative, worked out at the input it was given.",
        "tanh′ = 1 − tanh²; exp′ = exp; log′ = 1/x; relu′ is 1 right of zero and 0 left of it; (xᵏ)′ = k xᵏ⁻¹.",
        "With x = self.data. tanh: t = math.tanh(x), slope 1.0 - t * t. relu: slope 1.0 if x > 0 else 0.0. exp: e = math.exp(x), slope e. "
        "log: slope 1.0 / x. ** k: math.pow(x, k), slope k * math.pow(x, k - 1) if k else 0.0.",
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
        ("relu", lambda v: v.relu(), 0.0, 0.0, 0.0),
        ("exp", lambda v: v.exp(), x, math.exp(x), math.exp(x)),
        ("log", lambda v: v.log(), x, math.log(x), 1 / x),
        ("** 3", lambda v: v**3, -x, -(x**3), 3 * x**2),
        ("** -0.5", lambda v: v**-0.5, x, x**-0.5, -0.5 * x**-1.5),
        ("** 0", lambda v: v**0, 0.0, 1.0, 0.0),
        ("1 ÷ x", lambda v: 1.0 / v, x, 1 / x, -(x**-2)),
    ]
    for name, function, at, value, slope in cases:
        leaf = part.Value(at)
        result = runs(partial(function, leaf), f"{name} does not run", given=at)
        close(result.data, value, f"{name} gives another number", given=at)
        close(
            runs(partial(_slope, result, leaf), f"the slopes of {name} cannot be read", given=at), slope, f"{name} has another slope: {SLOPES[name]}", given=at
        )


@check(
    "Functions",
    hints=(
        "Where no number exists, an error is better than nan: nan spreads silently through everything behind it.",
        "math.log, math.exp and math.pow raise by themselves; float arithmetic with ** may give a complex number instead.",
        "math.pow(self.data, exponent) raises ValueError for a root of a negative number; leave the errors of math.log, math.exp and 1 / 0 as they are.",
    ),
)
def check_refuses_what_is_no_number(part: Part, rng: random.Random) -> None:
    """The log of 0, a division by 0, the root of a negative number and e to the 1000 are errors, born where they happen."""
    errors = (ValueError, ZeroDivisionError, OverflowError)
    refuses(lambda: part.Value(0.0).log(), errors, "the log of 0 must be an error", given="Value(0.0).log()")
    refuses(lambda: 1.0 / part.Value(0.0), errors, "a division by 0 must be an error", given="1.0 / Value(0.0)")
    refuses(lambda: part.Value(1.0) / part.Value(0.0), errors, "a division by 0 must be an error", given="Value(1.0) / Value(0.0)")
    below = -rng.uniform(1, 2)
    refuses(lambda: part.Value(below) ** 0.5, errors, "the square root of a negative number must be an error", given=f"Value({below}) ** 0.5")
    refuses(lambda: part.Value(1000.0).exp(), errors, "e to the 1000 is beyond every float: an error", given="Value(1000.0).exp()")


@check(
    "The order",
    hints=(
        "A node may pass its gradient on only when everything that uses it has paid in.",
        "Walk depth first and write a node down after all its inputs; backward then goes through the list from the end.",
        "Put (node, False) on a stack; when it comes off, put (node, True) back, then its inputs; when (node, True) comes off, append it.",
    ),
)
def check_topological_order(part: Part, rng: random.Random) -> None:
    """Every node once, inputs before what uses them, the result last: on programs of two lines, then of more."""
    for size in sorted([2, 3, 4, 5, 6] * 6):
        program, nodes, uses = _program(part, rng, size)
        order = runs(partial(_listed, nodes[max(uses)]), "topological_order does not run", given=program)
        names = {id(node): name for name, node in nodes.items()}
        listed = [names.get(id(node), "?") for node in order]
        wrong = _first_wrong(listed, uses)
        holds(not wrong, wrong, given=program, expected=f"{' '.join(nodes)}, or another order with inputs first", found=" ".join(listed))


def _program(part: Part, rng: random.Random, size: int) -> tuple[str, dict[str, Any], dict[str, tuple[str, str]]]:
    """Lines such as b = a · x, each of which uses the one before: as text, as nodes by name, and what each line uses."""
    nodes = {name: part.Value(rng.uniform(-1, 1)) for name in "xy"}
    uses: dict[str, tuple[str, str]] = {}
    text = []
    for name in "abcdefg"[:size]:
        left, right = rng.sample([list(nodes)[-1], rng.choice(list(nodes)) if uses else "x"], 2)
        sign = rng.choice("+·")
        nodes[name] = nodes[left] + nodes[right] if sign == "+" else nodes[left] * nodes[right]
        uses[name] = (left, right)
        text.append(f"{name} = {left} {sign} {right}")
    return "; ".join(text), nodes, uses


def _listed(result: Any) -> list[Any]:
    return list(result.topological_order())


def _first_wrong(listed: list[str], uses: dict[str, tuple[str, str]]) -> str:
    """What is wrong with an order, in words; nothing if it is right."""
    for name in ("x", "y", *uses):
        if listed.count(name) != 1:
            return f"{name} stands in the order {listed.count(name)} times instead of once"
    for name in listed:
        for source in uses.get(name, ()):
            if listed.index(source) > listed.index(name):
                return f"{name} stands before {source}, which it uses: backward would let {source} pay before {name} has paid in"
    return "" if listed[-1] == max(uses) else f"the result, {max(uses)}, must stand last"


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
    equal(len(order), 3 * CALLS + 1, "the number of nodes in the order", given=f"a chain of {3 * CALLS:,} additions")


@check(
    "The order",
    hints=(
        "How often do you look at a node to know whether you have seen it?",
        "`node in list` compares with one node after the other, so a graph twice as large takes four times as long; a set finds it at once.",
        "seen = set(); elif node not in seen: seen.add(node) …",
    ),
)
def check_each_line_once(part: Part, rng: random.Random) -> None:
    """The time that the order takes is in proportion to the lines of the graph, not to lines times nodes."""
    graph = [rng.sample(range(max(0, i - 2 * LINES), i), min(i, LINES)) for i in range(NODES)]
    for i in range(1, NODES):
        graph[i][0] = i - 1  # so that the last node reaches all, along a chain of all nodes
    nodes: list[Any] = []
    for sources in graph:
        nodes.append(part.Value(0.0, tuple(nodes[i] for i in sources), (1.0,) * len(sources)))
    given = f"{NODES:,} nodes with {LINES} inputs each"
    limit = TIMES * min(_seconds(partial(_walk, graph)) for _ in range(10))
    order = partial(runs, nodes[-1].topological_order, "topological_order does not run", given=given)
    soon = any(_seconds(order) < limit for _ in range(3))
    holds(soon, "the order takes too long: is what was seen kept in a set?", given=given, expected="a fraction of a second", found="many times that")


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _walk(graph: list[list[int]]) -> set[int]:
    """Each line of the graph once, from the end, as plainly as can be: what time the order is measured with."""
    seen: set[int] = set()
    stack = [len(graph) - 1]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(graph[node])
    return seen


@check(
    "Backward",
    hints=(
        "Where does backward begin, and which way does it go?",
        "The result has the gradient 1. Then go through the order from its end: each node pays slope × its own gradient to each of its inputs.",
        "self.grad += 1.0; for node in reversed(order): for source, slope in zip(node.inputs, node.slopes): source.grad += slope * node.grad",
    ),
)
def check_chain(part: Part, rng: random.Random) -> None:
    """Along one path the slopes are multiplied: worked by hand for tanh(w·x)·v."""
    w, x, v = (round(rng.uniform(0.5, 1), 2) for _ in range(3))
    leaves = [part.Value(n) for n in (w, x, v)]
    result = (leaves[0] * leaves[1]).tanh() * leaves[2]
    given = f"tanh(w·x)·v with w = {w}, x = {x}, v = {v}"
    runs(result.backward, "backward does not run", given=given)
    t, u = math.tanh(w * x), v / math.cosh(w * x) ** 2
    close([leaf.grad for leaf in leaves], [u * x, u * w, t], "the gradients of w, x and v: tanh′(w·x)·v·x, tanh′(w·x)·v·w and tanh(w·x)", given=given)


@check(
    "Backward",
    hints=(
        "A number that is used twice influences the result in two ways.",
        "The gradients that arrive at a node along different ways are added, and a node pays only when all have arrived: walk the order from its end.",
        "for node in reversed(order): … source.grad += slope * node.grad, with += rather than =.",
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
        "Before the walk: for node in order: if node.inputs: node.grad = 0.0; then self.grad += 1.0, which adds where the result is a leaf itself.",
    ),
)
def check_backward_adds_up(part: Part, rng: random.Random) -> None:
    """A second backward adds to the leaves exactly what the first one did, as in torch; an inner node has what it had; a leaf may be the result itself."""
    a, b = rng.uniform(1, 2), rng.uniform(1, 2)
    x, y = part.Value(a), part.Value(b)
    inner = (x * y).tanh()
    result = inner * x
    given = f"tanh(x·y)·x with x = {a}, y = {b}"
    runs(result.backward, "backward does not run", given=given)
    t, u = math.tanh(a * b), 1 / math.cosh(a * b) ** 2
    once = (t + a * b * u, a * a * u)
    close((x.grad, y.grad), once, "the gradients of x and y after the first backward", given=given)
    runs(result.backward, "a second backward does not run", given=given)
    close((x.grad, y.grad), (2 * once[0], 2 * once[1]), f"the second backward adds to x and y what the first one did, {once}", given=given)
    close((inner.grad, result.grad), (a, 1.0), "inner nodes get their gradients afresh: tanh(x·y) has x, the result 1", given=f"the second backward of {given}")
    leaf = part.Value(a)
    for times in (1, 2):
        runs(leaf.backward, "backward from a leaf does not run", given=f"x = Value({a}), x.backward()")
        close(leaf.grad, times, "a leaf that is the result itself gets 1 more with each backward", given=f"x = Value({a}), x.backward(), {times} times")


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


CHECKS: tuple[Check, ...] = (
    check_arithmetic,
    check_product_rule,
    check_functions,
    check_refuses_what_is_no_number,
    check_topological_order,
    check_any_depth,
    check_each_line_once,
    check_chain,
    check_shared_node,
    check_backward_adds_up,
    check_equals_torch,
    *NETWORK_CHECKS,
)
