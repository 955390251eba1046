"""What any correct tensor satisfies, then what is built on it (``checks_functions``, ``checks_models``).

The oracles are torch, closed forms and counting by hand. Steps before ``backward`` are checked without it: by the pullbacks that the nodes keep.
"""

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from underhood.lab.check import Check, Part, check, close, equal, holds, refuses, runs
from underhood.projects.tensor.checks_functions import CHECKS as FUNCTION_CHECKS
from underhood.projects.tensor.checks_models import CHECKS as MODEL_CHECKS
from underhood.projects.tensor.compare import arrays_of, pulls_as_torch, same_as_torch

PAIRS = (((3, 4), (3, 4)), ((3, 4), (4,)), ((4,), (3, 4)), ((3, 1), (1, 4)), ((2, 3, 4), (3, 1)), ((), (2, 3)), ((1, 1), (5,)), ((0, 3), (3,)))


@check(
    "Broadcasting",
    hints=(
        "Write the two shapes under one another, aligned at the right.",
        "Fill the shorter one up with 1 at the left; then each pair of sizes must be equal or hold a 1, which stretches.",
        "a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b; then per axis: n if m == 1 else m.",
    ),
)
def check_broadcast_shape(part: Part, rng: random.Random) -> None:
    """The shape rules, beside torch's; shapes that do not fit are refused."""
    import torch

    for a, b in PAIRS:
        found = runs(partial(part.broadcast_shape, a, b), "two shapes that fit are refused", given=(a, b))
        equal(tuple(found), tuple((torch.zeros(a) + torch.zeros(b)).shape), "another shape", given=(a, b))
    for a, b in (((3, 4), (3,)), ((2, 3), (3, 2)), ((5,), (4,)), ((2, 1, 3), (3, 2))):
        refuses(partial(part.broadcast_shape, a, b), ValueError, "shapes that do not fit must be refused", given=(a, b))


@check(
    "Broadcasting",
    hints=(
        "A number that was copied to many places influences the result at each of them.",
        "So its gradient is the sum over the copies: over axes that were added at the left, and over axes of size 1 that were stretched.",
        "gradient.sum(axis=tuple(range(extra))), then gradient.sum(axis=stretched, keepdims=True).",
    ),
)
def check_unbroadcast(part: Part, rng: random.Random) -> None:
    """Worked by hand: a gradient of ones comes back as the number of copies."""
    for shape, wide in (((4,), (3, 4)), ((3, 1), (3, 5)), ((1, 1), (2, 6)), ((), (2, 3)), ((2, 1, 4), (2, 3, 4)), ((3, 4), (3, 4))):
        found = runs(partial(part.unbroadcast, np.ones(wide), shape), "unbroadcast does not run", given=(wide, shape))
        copies = math.prod(wide) // math.prod(shape)
        close(found, np.full(shape, float(copies)), f"each element was copied {copies} times", given=(wide, shape))


@check(
    "Arithmetic",
    hints=(
        "The pullback of each operation says what the gradient of the result means for each input.",
        "a + b passes g to both; a · b passes g · b and g · a; xᵏ passes g · k · xᵏ⁻¹, and zeros for k = 0. What comes out too wide is left so.",
        "Tensor.result(a * b, (self, other), lambda g: (g * b, g * a)): a tuple with one gradient for each input.",
    ),
)
def check_arithmetic(part: Part, rng: random.Random) -> None:
    """+ − × ÷ with broadcasting, powers, numbers and arrays on either side: values and pullbacks as in torch."""
    import torch

    _check_nodes(part)
    operators: dict[str, Callable[[Any, Any], Any]] = {
        "a + b": lambda a, b: a + b,
        "a − b": lambda a, b: a - b,
        "a × b": lambda a, b: a * b,
        "a ÷ b": lambda a, b: a / b,
    }
    for a, b in PAIRS:
        for says, operate in operators.items():
            pulls_as_torch(part, says, operate, operate, [*arrays_of(rng, a), *arrays_of(rng, b, low=0.5)], dtypes=False)
    row = np.array([1.0, -2.0, 3.0], np.float32)
    pulls_as_torch(part, "array × x", lambda x: row * x, lambda x: torch.tensor(row) * x, arrays_of(rng, (2, 3)), dtypes=False)
    pulls_as_torch(part, "x⁰ at 0, where the slope is 0", lambda x: x**0, lambda x: x**0, [np.array([0.0, -1.5, 2.0])], dtypes=False)
    for says, function in {"3 − x": lambda x: 3.0 - x, "2 ÷ x": lambda x: 2.0 / x, "x³": lambda x: x**3, "−x": lambda x: -x}.items():
        pulls_as_torch(part, says, function, function, arrays_of(rng, (2, 3), low=0.5), dtypes=False)


def _check_nodes(part: Part) -> None:
    """What a new tensor holds, and that only what wants a gradient leaves a graph."""
    plain = part.Tensor(np.ones((2, 3)))
    equal(
        (tuple(plain.shape), plain.grad, plain.requires_grad),
        ((2, 3), None, False),
        "a new tensor: shape, grad, requires_grad",
        given="Tensor(np.ones((2, 3)))",
    )
    close(plain.data, np.ones((2, 3)), "a new tensor holds its array", given="Tensor(np.ones((2, 3)))")
    wanted = part.Tensor(np.ones((2, 3)), requires_grad=True)
    left, right = part.Tensor.result(np.zeros(3), (plain,), _give_back), part.Tensor.result(np.zeros(3), (plain, wanted), _give_back)
    kept = (left.requires_grad, len(left.inputs), left.pullback is None)
    equal(
        kept,
        (False, 0, True),
        "the result of what wants no gradient: requires_grad, how many inputs, no pullback",
        given="Tensor.result(data, (plain,), pullback)",
    )
    given = "Tensor.result(data, (plain, wanted), pullback), wanted with requires_grad"
    equal((right.requires_grad, len(right.inputs), right.pullback is None), (True, 2, False), "it keeps all its inputs and its pullback", given=given)


def _give_back(g: Any) -> tuple[Any, ...]:
    return (g,)


@check(
    "Arithmetic",
    hints=(
        "A training run in float32 that quietly becomes float64 costs twice the memory and time.",
        "A plain number takes the dtype of the tensor that it meets.",
        "np.asarray(other, self.data.dtype) for anything that is not a Tensor yet. In __init__: refuse requires_grad where data.dtype.kind is not 'f'.",
    ),
)
def check_dtypes(part: Part, rng: random.Random) -> None:
    """float32 stays float32, whatever plain numbers it meets; integers have no gradient."""
    expressions: dict[str, Callable[[Any], Any]] = {
        "2 * x": lambda x: 2 * x,
        "x + 1.0": lambda x: x + 1.0,
        "1.0 - x": lambda x: 1.0 - x,
        "x / 3": lambda x: x / 3,
        "3 / x": lambda x: 3 / x,
        "x**2": lambda x: x**2,
        "x**-0.5": lambda x: x**-0.5,
    }
    for dtype in ("float32", "float64"):
        for text, expression in expressions.items():
            x = part.Tensor(np.array([[0.5, 1.5]], dtype), requires_grad=True)
            given = f"{text} with x = Tensor(np.array([[0.5, 1.5]], np.{dtype}))"
            found = runs(partial(_data, expression, x), "an expression does not run", given=given)
            equal(str(found.dtype), dtype, "another dtype", given=given)
    given = "Tensor(np.array([1, 2]), requires_grad=True)"
    refuses(lambda: part.Tensor(np.array([1, 2]), requires_grad=True), (ValueError, TypeError), "a gradient for integers must be refused", given=given)


@check(
    "Functions",
    hints=(
        "Each function keeps in its pullback what it needs of the forward result.",
        "exp passes g · e, log g / x, tanh g · (1 − t²), relu g where x > 0.",
        "Tensor.result(t, (self,), lambda g: (g * (1 - t * t),)) with t = np.tanh(self.data); exp: (g * e,); log: (g / x,); relu: (g * (y > 0),).",
    ),
)
def check_functions(part: Part, rng: random.Random) -> None:
    """exp, log, tanh and relu: values and pullbacks as in torch."""
    for name in ("exp", "tanh", "relu"):
        call = partial(_method, name)
        pulls_as_torch(part, name, call, call, [np.array([rng.uniform(-2, 0), 0.0, rng.uniform(0, 2)])])
    call = partial(_method, "log")
    pulls_as_torch(part, "log", call, call, arrays_of(rng, (3,), low=0.5))


def _method(name: str, x: Any, *arguments: Any) -> Any:
    return getattr(x, name)(*arguments)


@check(
    "Sums, products, shapes",
    hints=(
        "A sum sends its gradient, copied, to everything that was summed. Which shape does g have, and which shape must it get?",
        "If an axis was dropped, put it back first, with size 1; with keepdims=True, or summed over everything, g broadcasts as it is.",
        "np.broadcast_to(g if axis is None or keepdims else np.expand_dims(g, axis), shape); mean: the sum times result size ÷ input size.",
    ),
)
def check_sums_and_shapes(part: Part, rng: random.Random) -> None:
    """Sums, means, reshape and transpose: values and pullbacks as in torch, the summed axes kept or dropped."""
    for name in ("sum", "mean"):
        for axis in (None, 0, -1, (0, 2)):
            for keep in (False, True):
                arrays = arrays_of(rng, (2, 3, 4))
                says = f"x.{name}(axis={axis}, keepdims={keep})"
                pulls_as_torch(part, says, partial(_reduced, name, axis, keep), partial(_torch_reduced, name, axis, keep), arrays)
    pulls_as_torch(part, "x.reshape(2, -1)", lambda x: x.reshape(2, -1), lambda x: x.reshape(2, -1), arrays_of(rng, (3, 4)))
    pulls_as_torch(part, "x.transpose(0, 2)", lambda x: x.transpose(0, 2), lambda x: x.transpose(0, 2), arrays_of(rng, (2, 3, 4)))


def _reduced(name: str, axis: Any, keep: bool, x: Any) -> Any:
    return getattr(x, name)(axis=axis, keepdims=keep)


def _torch_reduced(name: str, axis: Any, keep: bool, x: Any) -> Any:
    return getattr(x, name)(dim=(0, 1, 2) if axis is None else axis, keepdim=keep)


@check(
    "Sums, products, shapes",
    hints=(
        "Which entries of a does an entry of a b depend on, and with which factor?",
        "For y = a b: the gradient of a is g bᵀ and that of b is aᵀ g, over the last two axes. Two axes at least, on both sides.",
        "lambda g: (g @ b.swapaxes(-1, -2), a.swapaxes(-1, -2) @ g); before it: if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]: raise ShapeError(…)",
    ),
)
def check_matrix_products(part: Part, rng: random.Random) -> None:
    """Matrix products, with leading axes: values and pullbacks as in torch; below two axes, and where the sizes differ, they are refused."""
    for a, b in (((3, 4), (4, 2)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((1, 1), (1, 1))):
        pulls_as_torch(part, "a @ b", lambda a, b: a @ b, lambda a, b: a @ b, arrays_of(rng, a, b))
    wrong: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (((2, 3), (2, 3)), ((3,), (3, 2)), ((2, 3), (3,)), ((3,), (3,)))
    for left, right in wrong:
        product = partial(_product, part.Tensor(np.ones(left)), part.Tensor(np.ones(right)))
        refuses(product, ValueError, "shapes that are not (…, n, k) @ (…, k, m) must be refused", given=f"{left} @ {right}")


def _product(a: Any, b: Any) -> Any:
    return a @ b


def _data(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments).data


@check(
    "Picking rows",
    hints=(
        "The gradient goes back to the places that were read.",
        "A row that was read three times gets three gradients, and they add up; plain assignment would keep the last.",
        "full = np.zeros_like(x); np.add.at(full, index, g)",
    ),
)
def check_repeated_rows(part: Part, rng: random.Random) -> None:
    """Indexing, also with a row picked twice: values and pullbacks as in torch."""
    import torch

    rows, columns = [2, 0, 2, 2], [1, 3, 1, 0]
    pulls_as_torch(part, "x[1:, 2]", lambda x: x[1:, 2], lambda x: x[1:, 2], arrays_of(rng, (3, 4)))
    pulls_as_torch(part, "x[[2, 0, 2, 2]]", lambda x: x[np.array(rows)], lambda x: x[torch.tensor(rows)], arrays_of(rng, (3, 2)))
    both, theirs = (np.array(rows), np.array(columns)), (torch.tensor(rows), torch.tensor(columns))
    pulls_as_torch(part, "x[[2, 0, 2, 2], [1, 3, 1, 0]]", lambda x: x[both], lambda x: x[theirs], arrays_of(rng, (3, 4)))


@check(
    "Backward",
    hints=(
        "Backward starts with 1 at the result and goes through the order from its end.",
        "Each node pulls its gradient back to its inputs; what comes out wider than an input is un-broadcast before it is added.",
        "gradients = {self: np.ones_like(self.data)}; for node in reversed(order): … own = unbroadcast(part, source.data.shape); leaves add theirs to grad.",
    ),
)
def check_backward(part: Part, rng: random.Random) -> None:
    """From one number back to every leaf: gradients as torch has them, in the shapes and dtypes of the leaves."""
    arrays = arrays_of(rng, (2, 3), (3, 4), (4,))
    same_as_torch(part, "tanh(x @ w + b)", lambda x, w, b: (x @ w + b).tanh(), lambda x, w, b: (x @ w + b).tanh(), arrays)
    for a, b in PAIRS:
        same_as_torch(part, "a × b", lambda a, b: a * b, lambda a, b: a * b, [*arrays_of(rng, a), *arrays_of(rng, b, low=0.5)])
    x = part.Tensor(np.array([[0.5, 1.5]], np.float32), requires_grad=True)
    plain = part.Tensor(np.array([[2.0], [3.0]], np.float32))
    given = "y = (c * x / 3).mean() of float32, c of shape (2, 1) without requires_grad, x of shape (1, 2)"
    y = runs(partial(_mean_of_thirds, plain, x), "the expression does not run", given=given)
    runs(y.backward, "backward does not run", given=given)
    equal((tuple(x.grad.shape), str(x.grad.dtype)), ((1, 2), "float32"), "the shape and dtype of x.grad", given=given)
    holds(plain.grad is None, "what wants no gradient gets none", given=given, expected="c.grad is None", found=plain.grad)
    refuses((x * x).backward, ValueError, "backward from more than one number must be refused", given="(x * x).backward() with x of shape (1, 2)")


def _mean_of_thirds(c: Any, x: Any) -> Any:
    return (c * x / 3).mean()


@check(
    "Backward",
    hints=(
        "A tensor that is used twice influences the result in two ways.",
        "Keep one gradient per tensor while walking backward, and add to it whatever arrives: with a + b, for both inputs of a sum receive the same array.",
        "gradients[source] = gradients[source] + own if source in gradients else own",
    ),
)
def check_shared_tensors(part: Part, rng: random.Random) -> None:
    """Where ways meet, gradients add, and no other tensor's with them; a second backward adds to the leaves; a chain may be 3,000 long."""
    for says, function in SHARED.items():
        same_as_torch(part, says, function, function, arrays_of(rng, (2,), (2,), (2,)))
    x, w = (part.Tensor(np.array([rng.uniform(1, 2)]), requires_grad=True) for _ in range(2))
    y = (x * x + (x + w)).sum()
    for times in (1, 2):
        given = f"y = x² + (x + w) at x = {x.data}; y.backward(), {times} times"
        runs(y.backward, "backward does not run", given=given)
        close((x.grad, w.grad), (times * (2 * x.data + 1), [times]), f"{times} times the slopes 2x + 1 and 1", given=given)
    _check_order(part)
    deep = x
    for _ in range(3_000):
        deep = deep + 1.0
    x.grad = None
    runs(deep.backward, "backward does not run", given="a chain of 3,000 additions")
    close(x.grad, [1.0], "the gradient at the far end of the chain", given="a chain of 3,000 additions")


SHARED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "a·(a + tanh b)·w": lambda a, b, w: a * (a + b.tanh()) * w,
    "((a + b) + a)·w": lambda a, b, w: ((a + b) + a) * w,
    "(a + (a + b))·w": lambda a, b, w: (a + (a + b)) * w,
    "(a + a + b + b)·w": lambda a, b, w: (a + a + b + b) * w,
}


def _check_order(part: Part) -> None:
    """Each once, inputs first, the result last, and none that wants no gradient."""
    x, c = part.Tensor(np.ones(2), requires_grad=True), part.Tensor(np.ones(2))
    nodes = {"x": x, "a": (a := x * x), "b": (b := a * c), "s": (s := b + a), "y": a * s}
    uses = {"a": "x", "b": "a", "s": "ba", "y": "as"}
    names = {id(node): name for name, node in nodes.items()}
    order = runs(lambda: list(nodes["y"].topological_order()), "topological_order does not run", given=ORDERED)
    found = "".join("c" if node is c else names.get(id(node), "?") for node in order)
    right = sorted(found) == sorted(nodes) and all(found.index(i) < found.index(name) for name, inputs in uses.items() for i in inputs)
    holds(right, "the order: each once, inputs before what uses them, only what wants a gradient", given=ORDERED, expected="x a b s y", found=" ".join(found))


ORDERED = "a = x·x; b = a·c; s = b + a; y = a·s; c wants no gradient"


CHECKS: tuple[Check, ...] = (
    check_broadcast_shape,
    check_unbroadcast,
    check_arithmetic,
    check_dtypes,
    check_functions,
    check_sums_and_shapes,
    check_matrix_products,
    check_repeated_rows,
    check_backward,
    check_shared_tensors,
    *FUNCTION_CHECKS,
    *MODEL_CHECKS,
)
