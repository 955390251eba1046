"""What any correct tensor library satisfies, then (``checks_models``) what is built on it. The oracles are torch, closed forms and counting by hand."""

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from underhood.lab.check import Check, Part, check, close, equal, holds, refuses, runs
from underhood.projects.tensor.checks_models import CHECKS as MODEL_CHECKS

Arrays = list[np.ndarray[Any, Any]]


def _arrays(rng: random.Random, *shapes: tuple[int, ...], low: float = -2, high: float = 2) -> Arrays:
    """Random float64 arrays."""
    return [np.array([rng.uniform(low, high) for _ in range(math.prod(shape))]).reshape(shape) for shape in shapes]


def _same_as_torch(part: Part, says: str, ours: Callable[..., Any], theirs: Callable[..., Any], arrays: Arrays) -> None:
    """Value and gradients of a function of some arrays, weighed so that each element of the result counts differently."""
    import torch

    tensors = [part.Tensor(a.copy(), requires_grad=True) for a in arrays]
    references = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = theirs(*references)
    weights = np.cos(np.arange(expected.numel())).reshape(tuple(expected.shape))
    shapes = [a.shape for a in arrays]
    found = runs(partial(ours, *tensors), f"{says}: forward does not run", given=shapes)
    close(found.data, expected, f"{says}: another value", given=shapes, rtol=1e-9, atol=1e-9)
    runs(lambda: (found * weights).sum().backward(), f"{says}: backward does not run", given=shapes)
    (expected * torch.tensor(weights)).sum().backward()
    for i, (tensor, reference) in enumerate(zip(tensors, references, strict=True)):
        holds(tensor.grad is not None, f"{says}: input {i} received no gradient", given=shapes)
        close(tensor.grad, reference.grad, f"{says}: another gradient of input {i}", given=shapes, rtol=1e-9, atol=1e-9)


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
        "a + b passes g to both; a · b passes g · b and g · a; what comes out wider than the input must be un-broadcast.",
        "In backward: own = unbroadcast(part, source.data.shape), then add own to what source has.",
    ),
)
def check_arithmetic(part: Part, rng: random.Random) -> None:
    """+ − × ÷ with broadcasting, powers and numbers on either side: values and gradients as in torch."""
    operators: dict[str, Callable[[Any, Any], Any]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }
    for a, b in PAIRS:
        for sign, operate in operators.items():
            arrays = [*_arrays(rng, a), *_arrays(rng, b, low=0.5)]
            _same_as_torch(part, f"a {sign} b", operate, operate, arrays)
    for name, function in {"3 − x": lambda x: 3.0 - x, "2 ÷ x": lambda x: 2.0 / x, "x³": lambda x: x**3, "−x": lambda x: -x, "x⁰": lambda x: x**0}.items():
        _same_as_torch(part, name, function, function, _arrays(rng, (3, 4), low=0.5))


@check(
    "Arithmetic",
    hints=(
        "A training run in float32 that quietly becomes float64 costs twice the memory and time.",
        "A plain number takes the dtype of the tensor that it meets.",
        "np.asarray(other, self.data.dtype) for anything that is not a Tensor yet.",
    ),
)
def check_dtypes(part: Part, rng: random.Random) -> None:
    """float32 stays float32, forward and backward, through numbers, powers, means and functions; integers have no gradient."""
    x = part.Tensor(np.array([[0.5, 1.5]], np.float32), requires_grad=True)
    y = runs(lambda: ((2 * x + 1.0) / 3 - x**2).exp().tanh().mean(), "the expression does not run")
    runs(y.backward, "backward does not run")
    equal(str(y.data.dtype), "float32", "the dtype of a result of float32")
    equal(str(x.grad.dtype), "float32", "the dtype of its gradient")
    refuses(lambda: part.Tensor(np.array([1, 2]), requires_grad=True), (ValueError, TypeError), "a gradient for integers must be refused")


@check(
    "Functions",
    hints=(
        "Each function keeps in its pullback what it needs of the forward result.",
        "exp passes g · e, log g / x, tanh g · (1 − t²), relu g where x > 0.",
        "t = np.tanh(self.data); Tensor.result(t, (self,), lambda g: (g * (1 - t * t),))",
    ),
)
def check_functions(part: Part, rng: random.Random) -> None:
    """exp, log, tanh and relu: values and gradients as in torch."""
    for name in ("exp", "tanh", "relu"):
        call = partial(_method, name)
        _same_as_torch(part, name, call, call, _arrays(rng, (2, 5)))
    call = partial(_method, "log")
    _same_as_torch(part, "log", call, call, _arrays(rng, (2, 5), low=0.5))


def _method(name: str, x: Any, *arguments: Any) -> Any:
    return getattr(x, name)(*arguments)


@check(
    "Sums, products, shapes",
    hints=(
        "A sum sends its gradient, copied, to everything that was summed; a reshaped array sends it back in the old shape.",
        "For y = a b: the gradient of a is g bᵀ and that of b is aᵀ g, over the last two axes.",
        "lambda g: (g @ b.swapaxes(-1, -2), a.swapaxes(-1, -2) @ g)",
    ),
)
def check_products_and_shapes(part: Part, rng: random.Random) -> None:
    """Matrix products (with leading axes), sums, means, reshape and transpose: values and gradients as in torch."""
    for a, b in (((3, 4), (4, 2)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((1, 1), (1, 1))):
        _same_as_torch(part, "a @ b", lambda a, b: a @ b, lambda a, b: a @ b, _arrays(rng, a, b))
    for axis in (None, 0, -1, (0, 2)):
        for keep in (False, True):
            arrays = _arrays(rng, (2, 3, 4))
            _same_as_torch(part, f"sum over {axis}", partial(_sum, axis, keep), partial(_torch_sum, axis, keep), arrays)
    _same_as_torch(part, "mean over the last axis", lambda x: x.mean(-1), lambda x: x.mean(-1), _arrays(rng, (3, 4)))
    _same_as_torch(part, "reshape", lambda x: x.reshape(2, -1), lambda x: x.reshape(2, -1), _arrays(rng, (3, 4)))
    _same_as_torch(part, "transpose", lambda x: x.transpose(0, 2), lambda x: x.transpose(0, 2), _arrays(rng, (2, 3, 4)))
    square = part.Tensor(np.ones((2, 3)))
    refuses(lambda: square @ square, ValueError, "a product of (2, 3) and (2, 3) must be refused")


def _data(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments).data


def _sum(axis: Any, keep: bool, x: Any) -> Any:
    return x.sum(axis=axis, keepdims=keep)


def _torch_sum(axis: Any, keep: bool, x: Any) -> Any:
    return x.sum() if axis is None and not keep else x.sum(dim=axis if axis is not None else (0, 1, 2), keepdim=keep)


@check(
    "Picking rows",
    hints=(
        "The gradient goes back to the places that were read.",
        "A row that was read three times gets three gradients, and they add up; plain assignment would keep the last.",
        "full = np.zeros_like(x); np.add.at(full, index, g)",
    ),
)
def check_repeated_rows(part: Part, rng: random.Random) -> None:
    """Indexing, also with a row picked twice: values and gradients as in torch."""
    import torch

    index = [2, 0, 2, 2]
    _same_as_torch(part, "x[[2, 0, 2, 2]]", lambda x: x[np.array(index)], lambda x: x[torch.tensor(index)], _arrays(rng, (3, 4)))
    _same_as_torch(part, "x[1:, 2]", lambda x: x[1:, 2], lambda x: x[1:, 2], _arrays(rng, (3, 4)))


@check(
    "Backward",
    hints=(
        "A tensor that is used twice influences the result in two ways.",
        "Keep one gradient per tensor while walking backward, and add to it whatever arrives.",
        "gradients[source] = gradients[source] + own if source in gradients else own",
    ),
)
def check_shared_tensors(part: Part, rng: random.Random) -> None:
    """Where ways meet, gradients add; a second backward adds to the leaves; a chain may be 5,000 long."""

    def twice(x: Any) -> Any:
        a = x * x
        return a * (a + x.tanh())

    _same_as_torch(part, "x²·(x² + tanh x)", twice, twice, _arrays(rng, (2, 3)))
    x = part.Tensor(np.array([rng.uniform(1, 2)]), requires_grad=True)
    y = (x * x).sum()
    runs(y.backward, "backward does not run")
    runs(y.backward, "a second backward does not run")
    close(x.grad, 4 * x.data, "two backwards through x² leave twice the slope 2x", given=x.data)
    deep = x
    for _ in range(5_000):
        deep = deep + 1.0
    x.grad = None
    runs(deep.backward, "backward through a chain of 5,000 additions")
    close(x.grad, [1.0], "the gradient at the far end of the chain")


@check(
    "Softmax",
    hints=(
        "exp of 89 is more than float32 can hold.",
        "Adding the same number to every logit changes no probability: subtract the largest first.",
        "shifted = logits - logits.data.max(axis=-1, keepdims=True)",
    ),
)
def check_softmax(part: Part, rng: random.Random) -> None:
    """Softmax and log-softmax as in torch, also for logits of a thousand in float32."""
    import torch

    for shape in ((5,), (3, 4), (2, 3, 4), (3, 1)):
        _same_as_torch(part, "softmax", part.softmax, lambda x: torch.softmax(x, -1), _arrays(rng, shape))
        _same_as_torch(part, "log_softmax", part.log_softmax, lambda x: torch.log_softmax(x, -1), _arrays(rng, shape))
    large = np.array([[1000.0, 998.0, -1000.0], [-3e4, 0.0, 3e4]], np.float32)
    with np.errstate(all="ignore"):
        for name, ours, theirs in (("softmax", part.softmax, torch.softmax), ("log_softmax", part.log_softmax, torch.log_softmax)):
            found = runs(partial(_data, ours, part.Tensor(large)), f"{name} of large logits does not run", given=large)
            close(found, theirs(torch.tensor(large), -1), f"{name} of large logits", given=large, rtol=1e-5)


@check(
    "Cross-entropy",
    hints=(
        "The loss is the mean of −log p, where p is the probability that the model gave to what came.",
        "Never take the log of a probability that has underflowed to 0: pick from log_softmax instead.",
        "picked = log_softmax(logits)[np.arange(B), targets]; return -picked.mean()",
    ),
)
def check_cross_entropy(part: Part, rng: random.Random) -> None:
    """Value and gradient as in torch; a target that is 200 below the top costs 200, not infinity."""
    import torch

    targets = np.array([rng.randrange(5) for _ in range(4)])
    arrays = _arrays(rng, (4, 5))
    ours, theirs = partial(_with_targets, part.cross_entropy, targets), partial(_with_targets, torch.nn.functional.cross_entropy, torch.tensor(targets))
    _same_as_torch(part, "cross_entropy", ours, theirs, arrays)
    for dtype, gap in ((np.float32, 200.0), (np.float64, 2000.0)):
        logits = part.Tensor(np.array([[0.0, gap]], dtype), requires_grad=True)
        with np.errstate(all="ignore"):
            loss = runs(partial(part.cross_entropy, logits, np.array([0])), "an unlikely target does not run", given=gap)
            runs(loss.backward, "backward from an unlikely target does not run", given=gap)
        close(loss.data, gap, f"the loss of a target {gap:g} below the top, in {np.dtype(dtype)}", given=gap, rtol=1e-5)
        close(logits.grad, [[-1.0, 1.0]], "its gradient: all probability is in the wrong place", given=gap, rtol=1e-5)


def _with_targets(function: Callable[..., Any], targets: Any, logits: Any) -> Any:
    return function(logits, targets)


@check(
    "Cross-entropy",
    hints=(
        "What does array[-1] mean in Python?",
        "A target of −1 silently means the last character; refuse whatever is not among the V characters.",
        "if targets.min() < 0 or targets.max() >= V: raise ShapeError(…)",
    ),
)
def check_refuses_wrong_targets(part: Part, rng: random.Random) -> None:
    """Targets outside the vocabulary, or none at all, are errors."""
    logits = part.Tensor(np.zeros((2, 3)))
    for targets in ([0, -1], [0, 3], [0]):
        refuses(partial(part.cross_entropy, logits, np.array(targets)), (ValueError, IndexError), "targets that do not fit must be refused", given=targets)


CHECKS: tuple[Check, ...] = (
    check_broadcast_shape,
    check_unbroadcast,
    check_arithmetic,
    check_dtypes,
    check_functions,
    check_products_and_shapes,
    check_repeated_rows,
    check_shared_tensors,
    check_softmax,
    check_cross_entropy,
    check_refuses_wrong_targets,
    *MODEL_CHECKS,
)
