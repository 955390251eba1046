"""What the scalar engine costs on this machine: figures whose names say the units. Nothing is printed."""

import gc
import random
import sys

from underhood.lab.timing import best_of
from underhood.scalar import fast, mlp
from underhood.scalar.value import Value

SECONDS = 2  # about, on one thread
Figures = dict[str, float]
INPUTS = [[x / 10, (x * x % 7) / 7] for x in range(-10, 10)]
TARGETS = [[1.0 if x * y > 0 else -1.0] for x, y in INPUTS]


def measure() -> Figures:
    """Nodes, time and memory of one training step of a 2-16-16-1 network on 20 points, plain and on the tape."""
    plain = mlp.MLP(2, [16, 16, 1], random.Random(0))
    tape = fast.MLP(2, [16, 16, 1], random.Random(0))
    loss = mlp.mean_squared_error([plain(x) for x in INPUTS], TARGETS)
    nodes = loss.topological_order()
    seconds = best_of(lambda: mlp.train_step(plain, INPUTS, TARGETS, 0.1))
    gc.disable()
    try:
        quiet = best_of(lambda: mlp.train_step(plain, INPUTS, TARGETS, 0.1))
    finally:
        gc.enable()
    return {
        "parameters": len(plain.parameters()),
        "nodes_per_step": len(nodes),
        "ns_per_node": seconds / len(nodes) * 1e9,
        "ns_per_node_collector_off": quiet / len(nodes) * 1e9,
        "graph_bytes": sum(map(_bytes, nodes)),
        "graph_bytes_per_node": sum(map(_bytes, nodes)) / len(nodes),
        "ms_per_step": seconds * 1e3,
        "ms_per_step_on_the_tape": best_of(lambda: fast.train_step(tape, INPUTS, TARGETS, 0.1)) * 1e3,
        "gradient_error_relative": _gradient_error(plain),
    }


def _bytes(node: Value) -> int:
    """A node with all that it alone holds: the object, its tuples and its numbers."""
    held = (node.data, node.grad, *(s for s in node.slopes if s != 1.0))
    return sys.getsizeof(node) + sys.getsizeof(node.inputs) + sys.getsizeof(node.slopes) + sum(map(sys.getsizeof, held))


def _gradient_error(model: mlp.MLP, width: float = 1e-5) -> float:
    """The largest difference from a central difference, over the first layer's parameters, on a few of the points."""

    def loss() -> Value:
        return mlp.mean_squared_error([model(x) for x in INPUTS[:4]], TARGETS[:4])

    parameters = model.layers[0].parameters()
    for p in parameters:
        p.grad = 0.0
    loss().backward()
    errors, slopes = [], []
    for p in parameters:
        start = p.data
        p.data = start + width
        up = loss().data
        p.data = start - width
        slopes.append((up - loss().data) / (2 * width))
        p.data = start
        errors.append(abs(slopes[-1] - p.grad))
    return max(errors) / max(map(abs, slopes))
