"""The scalar engine: worked examples, closed forms, central differences, torch."""

import ast
import inspect
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.scalar import value
from underhood.scalar.value import Value

numbers = st.floats(-3, 3, allow_nan=False).filter(lambda v: abs(v) > 1e-3)


def test_a_neuron_by_hand() -> None:
    """y = tanh(w·x + b) with w = −3, x = 2, b = 7: the sum is 1, the slope of tanh there 1 − tanh²1 ≈ 0.41997."""
    w, x, b = Value(-3.0), Value(2.0), Value(7.0)
    y = (w * x + b).tanh()
    y.backward()
    slope = 1 - math.tanh(1.0) ** 2
    assert y.data == pytest.approx(0.76159, abs=1e-5)
    assert (w.grad, x.grad, b.grad) == pytest.approx((2 * slope, -3 * slope, slope))


def test_a_quotient_by_hand() -> None:
    """y = (a − 1) / b² at a = 5, b = 2: y = 1, dy/da = 1/4, dy/db = −2·4/8 = −1."""
    a, b = Value(5.0), Value(2.0)
    y = (a - 1) / b**2
    y.backward()
    assert (y.data, a.grad, b.grad) == pytest.approx((1.0, 0.25, -1.0))


def test_a_shared_node_adds_what_reaches_it() -> None:
    x = Value(3.0)
    y = x + x
    y.backward()
    assert x.grad == 2.0


def program(rng: random.Random, leaves: list[Any], call: Callable[[str, Any], Any]) -> Any:
    """A random expression of shared nodes, the same for every engine; each new node is kept within ±10 so that nothing overflows."""
    pool = list(leaves)
    for _ in range(10):
        a, b = rng.choice(pool), rng.choice(pool)
        kind = rng.randrange(10)
        if kind < 5:
            new = (a + b, a - b, a * b, a / (b * b + 1), 2 - a)[kind]
        elif kind == 5:
            new = (a * a + 0.5) ** rng.choice([2, 0.5, -1, 1.5])
        elif kind == 6:
            new = call("log", a * a + 0.5)
        else:
            new = call(["tanh", "relu", "exp"][kind - 7], call("tanh", a))
        pool.append(call("tanh", new / 10) * 10)
    return sum(pool[1:], pool[0])


def test_a_thousand_random_expressions_equal_torch() -> None:
    rng = random.Random(1)
    for _ in range(1000):
        seed, point = rng.getrandbits(32), [rng.uniform(-2, 2) for _ in range(3)]
        ours = [Value(p) for p in point]
        theirs = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in point]
        y = program(random.Random(seed), ours, lambda name, v: getattr(v, name)())
        z = program(random.Random(seed), theirs, lambda name, v: getattr(torch, name)(v))
        y.backward()
        z.backward()
        assert y.data == pytest.approx(z.item(), rel=1e-9, abs=1e-9)
        assert [v.grad for v in ours] == pytest.approx([0.0 if t.grad is None else t.grad.item() for t in theirs], rel=1e-9, abs=1e-9)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(numbers, numbers)
def test_gradients_equal_central_differences(a: float, b: float) -> None:
    def f(x: Any, y: Any) -> Any:
        return (x * y).tanh() / (y * y + 1.0) + (x * 0.3).exp() * y - (x * x + 1.0).log()

    x, y = Value(a), Value(b)
    f(x, y).backward()
    h = 1e-5
    assert x.grad == pytest.approx((f(Value(a + h), Value(b)).data - f(Value(a - h), Value(b)).data) / (2 * h), rel=1e-5, abs=1e-6)
    assert y.grad == pytest.approx((f(Value(a), Value(b + h)).data - f(Value(a), Value(b - h)).data) / (2 * h), rel=1e-5, abs=1e-6)


def test_a_chain_far_beyond_the_recursion_limit() -> None:
    x = Value(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1
    y.backward()
    assert (y.data, x.grad) == (100_001.0, 1.0)


def test_backward_of_a_leaf_and_twice() -> None:
    x = Value(2.0)
    x.backward()
    assert x.grad == 1.0
    y = (x * x) * x
    y.backward()
    y.backward()
    assert x.grad == 1.0 + 2 * 12.0


@pytest.mark.parametrize(
    "wrong", [lambda: Value(0.0).log(), lambda: 1 / Value(0.0), lambda: Value(-1.0) ** 0.5, lambda: Value(1e4).exp(), lambda: Value(1.0) / 0]
)
def test_what_is_no_number_is_an_error_where_it_is_born(wrong: Callable[[], Value]) -> None:
    with pytest.raises((ValueError, ZeroDivisionError, OverflowError)):
        wrong()


def test_value_fits_on_a_page_and_needs_math_alone() -> None:
    """At most sixty lines of code, docstrings and blank lines aside."""
    source = inspect.getsource(value)
    tree = ast.parse(source)
    kind = next(n for n in tree.body if isinstance(n, ast.ClassDef))
    said: set[int] = set()
    for node in ast.walk(kind):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            said |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = source.splitlines()
    code = [i for i in range(kind.lineno, (kind.end_lineno or 0) + 1) if lines[i - 1].strip() and i not in said]
    assert len(code) <= 60
    assert {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names} == {"math"}
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
