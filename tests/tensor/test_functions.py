"""Softmax, log-softmax and cross-entropy: beside torch, by hand, and where the naive formulas fail."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.base.errors import ShapeError
from underhood.tensor.functions import cross_entropy, log_softmax, softmax
from underhood.tensor.tensor import Tensor

repeatable = settings(derandomize=True, max_examples=60, deadline=None)


@repeatable
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), st.sampled_from([np.float32, np.float64]), st.floats(0.1, 1e4), st.integers(0, 2**32 - 1)
)
def test_values_and_gradients_equal_torch_at_every_scale(shape: tuple[int, ...], dtype: type, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, weights = (rng.standard_normal(shape) * scale).astype(dtype), rng.standard_normal(shape).astype(dtype)
    for ours, theirs in ((softmax, torch.softmax), (log_softmax, torch.log_softmax)):
        x, t = Tensor(logits, requires_grad=True), torch.tensor(logits, requires_grad=True)
        y, z = ours(x), theirs(t, -1)
        tolerance = 1e-5 if dtype is np.float32 else 1e-12
        np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=tolerance * 10, atol=tolerance)
        (y * weights).sum().backward()
        (z * torch.tensor(weights)).sum().backward()
        np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=tolerance * 10, atol=tolerance * 10)  # type: ignore[arg-type, union-attr]


@repeatable
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.1, 1e3), st.integers(0, 2**32 - 1))
def test_cross_entropy_equals_torch(B: int, V: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, targets = rng.standard_normal((B, V)) * scale, rng.integers(0, V, B)
    x, t = Tensor(logits, requires_grad=True), torch.tensor(logits, requires_grad=True)
    loss, expected = cross_entropy(x, targets), torch.nn.functional.cross_entropy(t, torch.tensor(targets))
    loss.backward()
    expected.backward()  # type: ignore[no-untyped-call]
    assert float(loss.data) == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-9, atol=1e-12)  # type: ignore[arg-type, union-attr]


def test_by_hand() -> None:
    """Logits ln 1, ln 2, ln 5 are the probabilities 1/8, 2/8, 5/8; the loss of the second is ln 4."""
    logits = Tensor(np.log([[1.0, 2.0, 5.0]]), requires_grad=True)
    assert softmax(logits).data[0].tolist() == pytest.approx([0.125, 0.25, 0.625])
    loss = cross_entropy(logits, np.array([1]))
    loss.backward()
    assert float(loss.data) == pytest.approx(math.log(4))
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.125, -0.75, 0.625])


@pytest.mark.parametrize(("dtype", "overflow"), [(np.float32, 88.72), (np.float64, 709.78)])
def test_the_naive_formula_overflows_where_the_shifted_one_does_not(dtype: type, overflow: float) -> None:
    for logit in (overflow, overflow + 0.02):
        x = np.array([logit, 0.0], dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            naive = np.exp(x) / np.exp(x).sum()
        assert bool(np.isfinite(naive).all()) is (logit == overflow)
        assert softmax(Tensor(x)).data.tolist() == [1.0, pytest.approx(0.0, abs=1e-30)]


@pytest.mark.parametrize(("dtype", "gap"), [(np.float32, 104.0), (np.float64, 746.0)])
def test_the_log_of_an_underflowed_probability(dtype: type, gap: float) -> None:
    x = Tensor(np.array([[0.0, gap]], dtype))
    assert softmax(x).data[0, 0] == 0.0
    assert float(cross_entropy(x, np.array([0])).data) == pytest.approx(gap)


@pytest.mark.parametrize("targets", [[0, -1], [3, 0], [0], [0, 1, 2]])
def test_targets_that_do_not_fit_are_refused(targets: list[int]) -> None:
    with pytest.raises(ShapeError, match="targets"):
        cross_entropy(Tensor(np.zeros((2, 3))), np.array(targets))


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ShapeError, match="targets"):
        cross_entropy(Tensor(np.zeros((0, 3))), np.array([], np.int64))
