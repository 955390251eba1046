"""The tensor: every operation beside torch, forward and backward, over random shapes and dtypes; broadcasting by its rules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.base.errors import ShapeError, UserError
from underhood.tensor.tensor import Tensor, broadcast_shape, unbroadcast

Array = np.ndarray[Any, Any]
TOLERANCE = {np.float32: 2e-4, np.float64: 1e-9}  # float32 sums of some 60 terms; float64 as the project's contract has it
DTYPES = st.sampled_from([np.float32, np.float64])
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
repeatable = settings(derandomize=True, max_examples=60, deadline=None)


def arrays(seed: int, dtype: Any, *shapes: tuple[int, ...], low: float = -2, high: float = 2) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(low, high, shape).astype(dtype) for shape in shapes]


def same(ours: Callable[..., Any], theirs: Callable[..., Any], values: list[Array]) -> None:
    """Value, dtype and gradients equal torch's, when each element of the result counts differently."""
    tolerance = TOLERANCE[values[0].dtype.type]
    tensors = [Tensor(v.copy(), requires_grad=True) for v in values]
    references = [torch.tensor(v, requires_grad=True) for v in values]
    found, expected = ours(*tensors), theirs(*references)
    np.testing.assert_allclose(found.data, expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    assert found.data.dtype == expected.detach().numpy().dtype
    weights = np.cos(np.arange(found.data.size)).reshape(found.shape).astype(values[0].dtype)
    (found * weights).sum().backward()
    (expected * torch.tensor(weights)).sum().backward()
    for tensor, reference in zip(tensors, references, strict=True):
        assert tensor.grad is not None
        assert tensor.grad.dtype == tensor.data.dtype
        np.testing.assert_allclose(tensor.grad, reference.grad.numpy(), rtol=tolerance, atol=tolerance)  # type: ignore[union-attr]


@st.composite
def fitting(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast: one shape, with axes dropped at the left or squeezed to 1 on either side."""
    shape = draw(SHAPES)

    def part() -> tuple[int, ...]:
        squeezed = tuple(1 if draw(st.booleans()) else n for n in shape)
        return squeezed[draw(st.integers(0, len(shape))) :]

    return part(), part()


@repeatable
@given(SHAPES, SHAPES)
def test_the_broadcast_shape_is_torchs_or_an_error(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    try:
        expected = tuple(torch.broadcast_shapes(a, b))  # type: ignore[no-untyped-call]
    except RuntimeError:
        with pytest.raises(ShapeError, match="axis"):
            broadcast_shape(a, b)
    else:
        assert broadcast_shape(a, b) == expected


@repeatable
@given(fitting(), DTYPES, SEEDS, st.sampled_from("+-*/"))
def test_arithmetic_broadcasts_as_torch_does(shapes: tuple[tuple[int, ...], tuple[int, ...]], dtype: Any, seed: int, sign: str) -> None:
    operate: Callable[[Any, Any], Any] = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b}[sign]
    same(operate, operate, [*arrays(seed, dtype, shapes[0]), *arrays(seed + 1, dtype, shapes[1], low=0.5)])


UNARY: dict[str, Callable[[Any], Any]] = {
    "exp": lambda x: x.exp(),
    "log": lambda x: (x + 2.5).log(),
    "tanh": lambda x: x.tanh(),
    "relu": lambda x: x.relu(),
    "negative": lambda x: -x,
    "square": lambda x: x**2,
    "root": lambda x: (x + 2.5) ** 0.5,
    "zeroth power": lambda x: x**0,
    "number on the left": lambda x: 2 - 3 / (x + 2.5) + 1 * x,
    "number on the right": lambda x: (x - 2) / 4 * 3 + 1,
}


@repeatable
@given(st.sampled_from(sorted(UNARY)), SHAPES, DTYPES, SEEDS)
def test_functions_equal_torch(name: str, shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    same(UNARY[name], UNARY[name], arrays(seed, dtype, shape))


@repeatable
@given(fitting(), st.integers(0, 4), st.integers(0, 4), st.integers(1, 4), DTYPES, SEEDS)
def test_matrix_products_equal_torch(leading: Any, n: int, k: int, m: int, dtype: Any, seed: int) -> None:
    a, b = leading
    same(lambda x, y: x @ y, lambda x, y: x @ y, arrays(seed, dtype, (*a, n, k), (*b, k, m)))


@repeatable
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), st.booleans(), DTYPES, SEEDS, st.data())
def test_sums_and_means_equal_torch(shape: tuple[int, ...], keep: bool, dtype: Any, seed: int, data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.integers(-len(shape), len(shape) - 1), min_size=1, unique_by=lambda a: a % len(shape)).map(tuple))
    for name in ("sum", "mean"):
        same(lambda x, f=name: getattr(x, f)(axes, keep), lambda x, f=name: getattr(x, f)(axes, keepdim=keep), arrays(seed, dtype, shape))
        same(lambda x, f=name: getattr(x, f)(), lambda x, f=name: getattr(x, f)(), arrays(seed, dtype, shape))


@repeatable
@given(st.permutations([2, 3, 4]), DTYPES, SEEDS, st.integers(0, 2), st.integers(-3, 2))
def test_reshape_and_transpose_equal_torch(shape: list[int], dtype: Any, seed: int, a: int, b: int) -> None:
    same(lambda x: x.reshape(6, -1), lambda x: x.reshape(6, -1), arrays(seed, dtype, tuple(shape)))
    same(lambda x: x.transpose(a, b), lambda x: x.transpose(a, b), arrays(seed, dtype, tuple(shape)))


@pytest.mark.parametrize(
    "index", [0, slice(1, None), (slice(None), 2), np.array([2, 0, 2, 2]), np.array([[1, 1], [0, 2]]), (np.array([0, 0]), np.array([3, 3]))], ids=str
)
def test_indexing_equals_torch(index: Any) -> None:
    def torchs(i: Any) -> Any:
        return tuple(map(torchs, i)) if isinstance(i, tuple) else torch.tensor(i) if isinstance(i, np.ndarray) else i

    same(lambda x: x[index], lambda x: x[torchs(index)], arrays(1, np.float64, (3, 4)))


def test_unbroadcast_by_hand() -> None:
    """A bias of two numbers, added to three rows: each receives the sum of its column."""
    bias = Tensor(np.array([10.0, 20.0]), requires_grad=True)
    x = Tensor(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    ((x + bias) * x).sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [9.0, 12.0]
    assert unbroadcast(np.ones((2, 3, 4)), (3, 1)).tolist() == [[8.0]] * 3


def test_gradients_add_where_ways_meet_and_over_several_backwards() -> None:
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    y = (x * x * x + x).sum()
    y.backward()
    y.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [8.0, 26.0]


def test_a_gradient_is_an_array_of_its_own() -> None:
    """Scaling one gradient in place (as clipping does) must not touch another."""
    a, b = (Tensor(np.ones(2), requires_grad=True) for _ in range(2))
    (a + b).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    a.grad *= 3
    assert b.grad.tolist() == [1.0, 1.0]


def test_a_long_chain_needs_no_recursion() -> None:
    x = Tensor(np.array(1.0), requires_grad=True)
    y = x
    for _ in range(50_000):
        y = y + 1.0
    y.backward()
    assert x.grad == 1.0


def test_no_graph_is_kept_where_no_gradient_is_wanted() -> None:
    a = Tensor(np.ones(3))
    assert (a * 2 + a).inputs == ()
    b = Tensor(np.ones(3), requires_grad=True)
    (a * b).sum().backward()
    assert a.grad is None


def test_arrays_on_the_left_ask_the_tensor() -> None:
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    y = np.array([3.0, 4.0]) * x
    assert isinstance(y, Tensor)
    assert y.data.tolist() == [3.0, 8.0]


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(UserError, match="int64"):
        Tensor(np.array([1, 2]), requires_grad=True)
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        x.backward()
    with pytest.raises(ShapeError, match="requires_grad"):
        Tensor(np.array(1.0)).backward()
    with pytest.raises(ShapeError, match=r"\(2, 3\) @ \(2, 3\)"):
        x @ x
    with pytest.raises(ShapeError, match="axis -1 is 3 on the left and 2 on the right"):
        x + np.ones(2)
