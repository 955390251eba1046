"""An array that remembers how it was made: the scalar engine's idea for whole NumPy arrays at once, in PyTorch's words.

``underhood.scalar.value`` stores a number per input and operation, the slope. For arrays that number would be a huge Jacobian, almost all
of it known in advance, so each operation keeps a *pullback* instead: a function from the gradient of its result to those of its inputs.

Source: Griewank and Walther, "Evaluating Derivatives", ch. 3 (reverse mode); NumPy's general broadcasting rules; Paszke et al., PyTorch (2019).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from underhood.base.errors import ShapeError, UserError

Array = npt.NDArray[Any]
Pullback = Callable[[Array], tuple[Array | None, ...]]
Axis = int | tuple[int, ...] | None


def broadcast_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an elementwise result: aligned at the right, a missing or size-1 axis stretches to the other's. Raises ``ShapeError``."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    for axis, (m, n) in enumerate(zip(a, b, strict=True)):
        if m != n and 1 not in (m, n):
            raise ShapeError(f"axis {axis - rank} is {m} on the left and {n} on the right", where=f"{a} with {b}", expected="equal sizes, or a 1")
    return tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Bring the gradient of a broadcast result back to the ``shape`` of the input: what was copied forward is summed backward."""
    extra = gradient.ndim - len(shape)
    if extra:
        gradient = gradient.sum(axis=tuple(range(extra)))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and gradient.shape[i] != 1)
    return gradient.sum(axis=stretched, keepdims=True) if stretched else gradient


class Tensor:
    """A NumPy array with a gradient.

    ``data``: the array (float32 or float64 where gradients are wanted). ``grad``: an array of the same shape, added to by ``backward``, or None.
    Operators broadcast; a plain number takes the tensor's dtype. Indices and shapes are those of NumPy.
    """

    __array_ufunc__ = None  # so that `array * tensor` asks the tensor rather than looping over it
    __slots__ = ("data", "grad", "inputs", "pullback", "requires_grad")

    def __init__(self, data: npt.ArrayLike, *, requires_grad: bool = False) -> None:
        self.data: Array = np.asarray(data)
        if requires_grad and self.data.dtype.kind != "f":
            raise UserError(f"a tensor of {self.data.dtype} cannot have a gradient", expected="float32 or float64")
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.inputs: tuple[Tensor, ...] = ()
        self.pullback: Pullback | None = None

    @staticmethod
    def result(data: Array, inputs: "tuple[Tensor, ...]", pullback: Pullback) -> "Tensor":
        """The node of an operation. ``pullback`` may give gradients of the broadcast shape, and None where no gradient is wanted."""
        out = Tensor(data)
        for source in inputs:
            if source.requires_grad:
                out.requires_grad, out.inputs, out.pullback = True, inputs, pullback
        return out

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return self.data.shape

    # ── elementwise, with broadcasting ──

    def _other(self, other: "Tensor | npt.ArrayLike") -> "Tensor":
        if not isinstance(other, Tensor):
            other = Tensor(np.asarray(other, self.data.dtype) if self.data.dtype.kind == "f" else np.asarray(other))
        if other.data.shape != self.data.shape:
            broadcast_shape(self.data.shape, other.data.shape)
        return other

    def __add__(self, other: "Tensor | npt.ArrayLike") -> "Tensor":
        other = self._other(other)
        return Tensor.result(self.data + other.data, (self, other), lambda g: (g, g))

    def __mul__(self, other: "Tensor | npt.ArrayLike") -> "Tensor":
        other = self._other(other)
        a, b = self.data, other.data
        return Tensor.result(a * b, (self, other), lambda g: (g * b if self.requires_grad else None, g * a if other.requires_grad else None))

    def __pow__(self, exponent: float) -> "Tensor":
        x = self.data
        return Tensor.result(x**exponent, (self,), lambda g: (g * exponent * x ** (exponent - 1) if exponent else np.zeros_like(x),))

    def __neg__(self) -> "Tensor":
        return Tensor.result(-self.data, (self,), lambda g: (-g,))

    def __sub__(self, other: "Tensor | npt.ArrayLike") -> "Tensor":
        return self + -self._other(other)

    def __truediv__(self, other: "Tensor | npt.ArrayLike") -> "Tensor":
        return self * self._other(other) ** -1.0

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: npt.ArrayLike) -> "Tensor":
        return -self + other

    def __rtruediv__(self, other: npt.ArrayLike) -> "Tensor":
        return self**-1.0 * other

    def exp(self) -> "Tensor":
        e = np.exp(self.data)
        return Tensor.result(e, (self,), lambda g: (g * e,))

    def log(self) -> "Tensor":
        x = self.data
        return Tensor.result(np.log(x), (self,), lambda g: (g / x,))

    def tanh(self) -> "Tensor":
        t = np.tanh(self.data)
        return Tensor.result(t, (self,), lambda g: (g * (1 - t * t),))

    def relu(self) -> "Tensor":
        y = np.maximum(self.data, 0)
        return Tensor.result(y, (self,), lambda g: (g * (y > 0),))

    # ── sums, products, shapes ──

    def __matmul__(self, other: "Tensor") -> "Tensor":
        """(…, n, k) @ (…, k, m) -> (…, n, m); leading axes broadcast. Raises ``ShapeError`` below two axes or where the k differ."""
        a, b = self.data, other.data
        if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
            raise ShapeError(f"{a.shape} @ {b.shape}", expected="(…, n, k) @ (…, k, m)")
        broadcast_shape(a.shape[:-2], b.shape[:-2])
        left, right = self.requires_grad, other.requires_grad
        return Tensor.result(a @ b, (self, other), lambda g: (g @ b.swapaxes(-1, -2) if left else None, a.swapaxes(-1, -2) @ g if right else None))

    def sum(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        shape = self.data.shape

        def pullback(g: Array) -> tuple[Array]:
            return (np.broadcast_to(g if axis is None or keepdims else np.expand_dims(g, axis), shape),)

        return Tensor.result(self.data.sum(axis=axis, keepdims=keepdims), (self,), pullback)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        total = self.sum(axis, keepdims)
        return total * (total.data.size / self.data.size)

    def reshape(self, *shape: int) -> "Tensor":
        old = self.data.shape
        return Tensor.result(self.data.reshape(shape), (self,), lambda g: (g.reshape(old),))

    def transpose(self, a: int, b: int) -> "Tensor":
        return Tensor.result(self.data.swapaxes(a, b), (self,), lambda g: (g.swapaxes(a, b),))

    def __getitem__(self, index: Any) -> "Tensor":
        """A slice, or rows picked by integer arrays; an element picked twice gets the gradients of both."""
        x = self.data

        def pullback(g: Array) -> tuple[Array]:
            full = np.zeros_like(x)
            np.add.at(full, index, g)
            return (full,)

        return Tensor.result(x[index], (self,), pullback)

    # ── backward ──

    def topological_order(self) -> "list[Tensor]":
        """Every tensor behind this one that wants a gradient, and itself: each once, inputs before what uses them, at any depth.

        How: depth first with a stack of our own; a node is written down when it comes off the stack the second time, after its inputs.
        """
        order: list[Tensor] = []
        seen: set[Tensor] = set()
        stack = [(self, False)]
        while stack:
            node, inputs_done = stack.pop()
            if inputs_done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((i, False) for i in node.inputs if i.requires_grad)
        return order

    def backward(self) -> None:
        """Add d(self)/d(leaf) to ``grad`` of every leaf that wants one. Raises ``ShapeError`` unless this is a single number.

        How: go through the order backwards; pull each node's gradient back to its inputs, un-broadcast it, and add up what meets at one input.
        """
        if self.data.size != 1 or not self.requires_grad:
            found = f"a tensor of shape {self.shape}" if self.requires_grad else "a tensor that depends on none with requires_grad"
            raise ShapeError(f"backward from {found}", expected="one number that depends on a tensor with requires_grad, such as a loss")
        gradients: dict[Tensor, Array] = {self: np.ones_like(self.data)}
        for node in reversed(self.topological_order()):
            gradient = gradients.pop(node)
            if node.pullback is None:
                node.grad = gradient.copy() if node.grad is None else node.grad + gradient
                continue
            for source, part in zip(node.inputs, node.pullback(gradient), strict=True):
                if source.requires_grad and part is not None:
                    own = unbroadcast(part, source.data.shape)
                    gradients[source] = gradients[source] + own if source in gradients else own

    def __repr__(self) -> str:
        return f"Tensor({np.array2string(self.data, precision=4)}, shape={self.shape}, dtype={self.data.dtype})"
