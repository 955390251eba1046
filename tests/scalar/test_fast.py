"""The tape gives the numbers of the plain engine: expressions, networks, training."""

import gc
import random
from typing import Any, Literal

import pytest

from underhood.scalar import fast, mlp
from underhood.scalar.value import Value

POINTS, TARGETS = [[0.5, -1.0], [-0.2, 0.8], [1.5, 0.3]], [[1.0, 0.0], [-1.0, 2.0], [0.5, -0.5]]


def expression(a: Any, b: Any) -> Any:
    """Every operator, with shared nodes and plain numbers on both sides."""
    c = (a * b + 2.0) / (b * b + 1.0)
    d = (3.0 - c).tanh() - 1.0 / (a * a + 1.0)
    return (-d).exp() * c + (c * c + 0.1).log() + (a * a) ** 1.5 + 2.0 * b.relu() + a**0 + d / 4.0 + (1.0 + a)


@pytest.mark.parametrize(("x", "y"), [(0.7, -1.2), (-0.4, 0.9), (1.5, 1.5), (0.3, 0.0)])
def test_expressions_equal_the_plain_engine(x: float, y: float) -> None:
    a, b = Value(x), Value(y)
    plain = expression(a, b)
    plain.backward()
    tape = fast.Tape()
    u, v = tape.number(x), tape.number(y)
    quick = expression(u, v)
    quick.backward()
    assert quick.data == pytest.approx(plain.data, rel=1e-12)
    assert (u.grad, v.grad) == pytest.approx((a.grad, b.grad), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("activation", ["tanh", "relu", "none"])
def test_training_equals_the_plain_network(activation: Literal["tanh", "relu", "none"]) -> None:
    plain, quick = (kind(2, [6, 5, 2], random.Random(4), activation) for kind in (mlp.MLP, fast.MLP))
    for _ in range(50):
        expected = mlp.train_step(plain, POINTS, TARGETS, 0.05)  # type: ignore[arg-type]
        assert fast.train_step(quick, POINTS, TARGETS, 0.05) == pytest.approx(expected, rel=1e-9)  # type: ignore[arg-type]
    assert [p.data for p in quick.parameters()] == pytest.approx([p.data for p in plain.parameters()], rel=1e-9, abs=1e-12)


def test_the_tape_is_rewound_after_a_step() -> None:
    model = fast.MLP(2, [3, 2], random.Random(0))
    fast.train_step(model, POINTS, TARGETS, 0.1)
    assert len(model.tape.data) == model.n_parameters == 17
    assert model.tape.steps == []


def test_a_step_leaves_next_to_nothing_for_the_garbage_collector() -> None:
    """Objects that the collector has to visit, while the graph of a whole batch is alive: hundreds here, tens of thousands for the plain engine."""
    points = POINTS * 20

    def alive(model: Any) -> int:
        gc.collect()
        before = len(gc.get_objects())
        outputs = [model(x) for x in points]
        count = len(gc.get_objects()) - before
        assert len(outputs) == 60
        return count

    gc.disable()
    try:
        quick, plain = alive(fast.MLP(2, [16, 16, 2], random.Random(0))), alive(mlp.MLP(2, [16, 16, 2], random.Random(0)))
    finally:
        gc.enable()
    assert quick * 20 < plain
