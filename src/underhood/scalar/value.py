"""A number that remembers how it was made, so that the slope of a result with respect to everything behind it can be worked out.

Reverse-mode automatic differentiation in its smallest form. Each result keeps its inputs and, per input, one *slope*: the derivative
of this one operation, known already while computing forward. The chain rule is then a single loop, ``backward``.
``fast.py`` does the same sums in fewer, larger steps; ``underhood.tensor.tensor`` does them for whole arrays.

Source: Linnainmaa, "Taylor expansion of the accumulated rounding error" (BIT 16, 1976); Griewank and Walther, "Evaluating Derivatives", ch. 3.
"""

import math


class Value:
    """A scalar node of a computation graph: its number, and the slope of the final result with respect to it.

    ``data``: the number. ``grad``: filled by ``backward``. ``inputs``: the nodes it was computed from (none for a leaf).
    ``slopes``: d(this)/d(input), one per input. ``op``: what computed it, for drawings.
    A plain number may stand on either side of an operator; exponents are plain numbers.
    Raises ``ValueError`` (log of 0, a root of a negative number), ``ZeroDivisionError``, or ``OverflowError`` (exp, powers) where no finite number exists.
    """

    __slots__ = ("data", "grad", "inputs", "op", "slopes")

    def __init__(self, data: float, inputs: "tuple[Value, ...]" = (), slopes: tuple[float, ...] = (), op: str = "") -> None:
        self.data, self.grad = data, 0.0
        self.inputs, self.slopes, self.op = inputs, slopes, op

    def __add__(self, other: "Value | float") -> "Value":
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0), "+")

    def __mul__(self, other: "Value | float") -> "Value":
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data), "×")

    def __pow__(self, exponent: float) -> "Value":
        slope = exponent * math.pow(self.data, exponent - 1) if exponent else 0.0
        return Value(math.pow(self.data, exponent), (self,), (slope,), f"^{exponent:g}")

    def __neg__(self) -> "Value":
        return self * -1.0

    def __sub__(self, other: "Value | float") -> "Value":
        return self + -other

    def __truediv__(self, other: "Value | float") -> "Value":
        return self * (other**-1 if isinstance(other, Value) else 1 / other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: float) -> "Value":
        return -self + other

    def __rtruediv__(self, other: float) -> "Value":
        return self**-1 * other

    def tanh(self) -> "Value":
        t = math.tanh(self.data)
        return Value(t, (self,), (1.0 - t * t,), "tanh")

    def relu(self) -> "Value":
        return Value(max(0.0, self.data), (self,), (1.0 if self.data > 0 else 0.0,), "relu")

    def exp(self) -> "Value":
        e = math.exp(self.data)
        return Value(e, (self,), (e,), "exp")

    def log(self) -> "Value":
        return Value(math.log(self.data), (self,), (1.0 / self.data,), "log")

    def topological_order(self) -> "list[Value]":
        """Every node behind this one and itself, each once, inputs before what uses them; a graph of any depth.

        How: depth first with a stack of our own; a node is written down when it comes off the stack the second time, after its inputs.
        """
        order: list[Value] = []
        seen: set[Value] = set()
        stack = [(self, False)]
        while stack:
            node, inputs_done = stack.pop()
            if inputs_done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((i, False) for i in node.inputs)
        return order

    def backward(self) -> None:
        """Add d(self)/d(leaf) to ``grad`` of every leaf behind this node (a second call adds again); inner nodes get theirs afresh.

        How: walk the order backwards, so that a node passes on its gradient only once everything that uses it has paid in.
        """
        order = self.topological_order()
        for node in order:
            if node.inputs:
                node.grad = 0.0
        self.grad += 1.0
        for node in reversed(order):
            for source, slope in zip(node.inputs, node.slopes, strict=True):
                source.grad += slope * node.grad

    def __repr__(self) -> str:
        return f"Value({self.data:g}, grad={self.grad:g})"
