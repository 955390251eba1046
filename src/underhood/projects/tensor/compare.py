"""How a tensor's values and gradients are compared with torch's: by its pullbacks alone, before there is a ``backward``, and through ``backward``."""

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from underhood.lab.check import Part, close, equal, holds, runs

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]
SHOWN = 8  # numbers up to which the inputs are shown, not only their shapes


def arrays_of(rng: random.Random, *shapes: tuple[int, ...], low: float = -2, high: float = 2) -> list[Array]:
    """Random float64 arrays."""
    return [np.array([rng.uniform(low, high) for _ in range(math.prod(shape))]).reshape(shape) for shape in shapes]


def pulls_as_torch(part: Part, says: str, ours: Function, theirs: Function, arrays: list[Array], *, dtypes: bool = True) -> None:
    """The value of an operation, and what the pullbacks behind it make of a gradient; with ``dtypes``, float32 stays float32 on both ways."""
    tensors = [part.Tensor(a.copy(), requires_grad=True) for a in arrays]
    expected, g, gradients = _of_torch(theirs, arrays)
    given = _shown(arrays)
    found = runs(partial(ours, *tensors), f"{says}: forward does not run", given=given)
    close(found.data, expected, f"{says}: another value", given=given, rtol=1e-9, atol=1e-9)
    pulled = runs(partial(_pull, says, found, g, tensors), f"{says}: its pullback does not run", given=f"{given}, a gradient of shape {g.shape}")
    for i, (mine, gradient) in enumerate(zip(pulled, gradients, strict=True)):
        close(mine, gradient, f"{says}: its pullback gives another gradient of input {i}", given=f"{given}, g = {g.tolist()}", rtol=1e-9, atol=1e-9)
    if dtypes:
        _keeps_float32(part, says, ours, arrays, g)


def _keeps_float32(part: Part, says: str, ours: Function, arrays: list[Array], g: Array) -> None:
    tensors = [part.Tensor(a.astype(np.float32), requires_grad=True) for a in arrays]
    found = runs(partial(ours, *tensors), f"{says} of float32 does not run", given=_shown(arrays))
    equal(str(found.data.dtype), "float32", f"{says} of float32: the dtype of the result", given=_shown(arrays))
    pulled = runs(partial(_pull, says, found, g.astype(np.float32), tensors), f"{says} of float32: its pullback does not run", given=_shown(arrays))
    equal([str(p.dtype) for p in pulled], ["float32"] * len(arrays), f"{says} of float32: the dtypes of the gradients", given=_shown(arrays))


def same_as_torch(part: Part, says: str, ours: Function, theirs: Function, arrays: list[Array]) -> None:
    """Value and gradients, through ``backward``, of a function of some arrays, weighed so that each element of the result counts differently."""
    tensors = [part.Tensor(a.copy(), requires_grad=True) for a in arrays]
    expected, g, gradients = _of_torch(theirs, arrays)
    given = _shown(arrays)
    found = runs(partial(ours, *tensors), f"{says}: forward does not run", given=given)
    close(found.data, expected, f"{says}: another value", given=given, rtol=1e-9, atol=1e-9)
    runs(lambda: (found * g).sum().backward(), f"{says}: backward does not run", given=given)
    for i, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        holds(tensor.grad is not None, f"{says}: input {i} received no gradient", given=given)
        close(tensor.grad, gradient, f"{says}: another gradient of input {i}", given=given, rtol=1e-9, atol=1e-9)


def _of_torch(theirs: Function, arrays: list[Array]) -> tuple[Any, Array, list[Any]]:
    """The value, the gradient that is sent back through it, and what arrives at the inputs."""
    import torch

    references = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = theirs(*references)
    g = np.cos(np.arange(expected.numel())).reshape(tuple(expected.shape))
    (expected * torch.tensor(g)).sum().backward()
    return expected, g, [reference.grad for reference in references]


def _pull(says: str, result: Any, g: Array, leaves: list[Any]) -> list[Array]:
    """The gradients at the leaves, from the pullbacks of the nodes between: path by path, so for small graphs only."""
    found: list[Any] = [None for _ in leaves]
    queue = [(result, g)]
    while queue:
        node, gradient = queue.pop()
        if node.pullback is None:
            found = [_sum(old, gradient) if node is leaf else old for old, leaf in zip(found, leaves, strict=True)]
            continue
        pulled, inputs = node.pullback(gradient), list(node.inputs)
        fits = isinstance(pulled, tuple) and len(pulled) == len(inputs)
        given = f"inputs of shape {', '.join(str(tuple(source.data.shape)) for source in inputs)}"
        shown = f"a tuple of {len(pulled)}" if isinstance(pulled, tuple) else type(pulled).__name__
        holds(fits, f"{says}: a pullback returns a tuple with one gradient for each input", given=given, expected=f"a tuple of {len(inputs)}", found=shown)
        queue += [(source, _narrowed(_array(p, gradient), source.data.shape)) for source, p in zip(inputs, pulled, strict=True) if p is not None]
    return [np.zeros(leaf.data.shape) if total is None else total for total, leaf in zip(found, leaves, strict=True)]


def _sum(old: Any, new: Array) -> Any:
    return new if old is None else old + new


def _array(part: Any, like: Array) -> Array:
    """A single number, such as comes from another process, gets the dtype of the gradient that it was made of."""
    return np.asarray(part) if hasattr(part, "dtype") else np.asarray(part, like.dtype)


def _narrowed(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Added up over the axes that broadcasting added or stretched."""
    while gradient.ndim > len(shape):
        gradient = gradient.sum(axis=0)
    for axis, size in enumerate(shape):
        gradient = gradient.sum(axis=axis, keepdims=True) if size == 1 else gradient
    return gradient


def _shown(arrays: list[Array]) -> str:
    return ", ".join(f"{a.tolist()}" if sum(b.size for b in arrays) <= SHOWN else f"shape {a.shape}" for a in arrays)
