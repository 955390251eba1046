"""The compiled products: against float64, bit for bit in any company, and with NaN and infinity let through."""

import importlib.util
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from underhood.nn import activation as plain

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed: pip install numba")
Array = np.ndarray[Any, Any]
NONE = np.empty(0, np.float32)
SHAPES = [(1, 768, 100), (5, 77, 35), (9, 16, 3), (4, 1, 1), (2, 33, 7), (3, 48, 130), (16, 64, 64), (8, 15, 65)]  # rows, inputs, outputs
PRECISIONS = ["float32", "bfloat16"]


@pytest.fixture(scope="module")
def matvec() -> Any:
    return importlib.import_module("underhood.kernels.matvec")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored(weight: Tensor, precision: str) -> tuple[Array, Tensor]:
    """A weight as the kernels read it, and exactly the same numbers in float64."""
    if precision == "float32":
        return weight.numpy(), weight.double()
    half = weight.bfloat16()
    return half.view(torch.uint16).numpy(), half.double()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_a_product_is_that_of_float64(matvec: Any, rows: int, inputs: int, outputs: int, precision: str) -> None:
    weight, exact = stored(numbers(outputs, inputs), precision)
    x, bias = numbers(rows, inputs, seed=1), numbers(outputs, seed=2)
    out = np.full((rows, outputs), np.nan, np.float32)
    matvec.project(x.numpy(), weight, bias.numpy(), out, 0, matvec.IDENTITY, matvec.SET, 1)
    terms = x.double().abs() @ exact.abs().T
    assert (np.abs(out - (x.double() @ exact.T + bias).numpy()) <= (1e-6 * terms + 1e-6).numpy()).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_has_the_same_bits_in_any_company_and_on_any_number_of_threads(matvec: Any, precision: str) -> None:
    weight, _ = stored(numbers(150, 333), precision)
    x, bias = numbers(16, 333, seed=1).numpy(), numbers(150, seed=2).numpy()

    def product(rows: Array, parts: int) -> Array:
        out = np.empty((len(rows), 150), np.float32)
        matvec.project(rows, weight, bias, out, 0, matvec.GELU_TANH, matvec.SET, parts)
        return out

    whole = product(x, 1)
    for count in range(1, 17):
        for parts in (1, 2, 3):
            np.testing.assert_array_equal(product(x[:count], parts), whole[:count])
    np.testing.assert_array_equal(product(x[::-1].copy(), 2), whole[::-1])


def test_the_result_replaces_adds_or_multiplies(matvec: Any) -> None:
    weight, x, before = numbers(5, 7).numpy(), numbers(2, 7, seed=1).numpy(), numbers(2, 5, seed=2).numpy()
    product = np.empty((2, 5), np.float32)
    matvec.project(x, weight, NONE, product, 0, matvec.IDENTITY, matvec.SET, 1)
    for mode, expected in ((matvec.ADD, before + product), (matvec.MULTIPLY, before * product)):
        out = before.copy()
        matvec.project(x, weight, NONE, out, 0, matvec.IDENTITY, mode, 1)
        np.testing.assert_array_equal(out, expected)


def test_a_product_fills_its_own_columns(matvec: Any) -> None:
    weight, x, alone = numbers(70, 40).numpy(), numbers(3, 40, seed=1).numpy(), np.empty((3, 70), np.float32)
    out = np.full((3, 100), 5, np.float32)
    matvec.project(x, weight, NONE, alone, 0, matvec.SILU, matvec.SET, 1)
    matvec.project(x, weight, NONE, out, 20, matvec.SILU, matvec.SET, 2)
    np.testing.assert_array_equal(out[:, 20:90], alone)
    assert (out[:, :20] == 5).all()
    assert (out[:, 90:] == 5).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["IDENTITY", "GELU", "GELU_TANH", "SILU", "RELU", "RELU_SQUARED"])
def test_what_is_not_finite_comes_through(matvec: Any, bad: float, mode: str, precision: str) -> None:
    x = numbers(5, 33)
    x[3, 32] = bad  # in the part of a vector
    weight, _ = stored(torch.ones(6, 33), precision)
    out = np.empty((5, 6), np.float32)
    matvec.project(x.numpy(), weight, NONE, out, 0, getattr(matvec, mode), matvec.SET, 1)
    expected = x.sum(-1) if mode == "IDENTITY" else getattr(plain, mode.lower())(x.sum(-1))
    if not (bad == -math.inf and mode in ("GELU", "GELU_TANH", "SILU")):  # their limit there is 0; torch's plain form gives -inf · 0
        np.testing.assert_array_equal(np.isfinite(out), np.isfinite(expected.numpy())[:, None].repeat(6, 1))
    assert np.isfinite(np.delete(out, 3, axis=0)).all()


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "relu", "relu_squared"])
def test_an_activation_is_the_plain_one(matvec: Any, name: str) -> None:
    x = torch.linspace(-12, 12, 10_001)
    found = x.clone().numpy()
    matvec.activate(found, getattr(matvec, name.upper()))
    torch.testing.assert_close(torch.from_numpy(found).double(), getattr(plain, name)(x.double()), rtol=2e-6, atol=1e-6)


def test_exp_is_within_two_units_in_the_last_place(matvec: Any) -> None:
    x = np.linspace(-87, 88, 20_001).astype(np.float32)
    found = np.array([matvec.exp(v) for v in x], np.float64)
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() < 2 * 2**-23
    assert matvec.exp(np.float32(0)) == 1
    assert math.isnan(matvec.exp(np.float32("nan")))
    assert 0 <= matvec.exp(np.float32("-inf")) < 2e-38


def test_exp_rounds_whoever_calls_it_first(matvec: Any) -> None:
    """numba gives what is called the caller's fastmath, unless it states its own; with ``reassoc`` the rounding in ``exp`` would be cancelled."""
    from numba import njit

    from underhood.kernels import simd

    fresh = simd.inner()(matvec.exp.py_func)

    @njit(fastmath=simd.SUMS)
    def first_caller(x: Array, out: Array) -> None:
        for i in range(len(x)):
            out[i] = fresh(x[i])

    x = np.linspace(-87, 88, 20_001).astype(np.float32)
    found = np.empty_like(x)
    first_caller(x, found)
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() < 2 * 2**-23


def test_every_kernel_states_its_fastmath(matvec: Any) -> None:
    from numba.core.dispatcher import Dispatcher

    from underhood.kernels import paged

    kernels = [part for module in (matvec, paged) for part in vars(module).values() if isinstance(part, Dispatcher)]
    assert len(kernels) > 10
    assert [k.py_func.__name__ for k in kernels if "fastmath" not in k.targetoptions] == []


@pytest.mark.parametrize("centred", [True, False])
def test_a_norm_is_the_plain_one(matvec: Any, centred: bool) -> None:
    from underhood.nn.norm import layer_norm, rms_norm

    x, gain, shift = numbers(4, 37) * 3 + 5, numbers(37, seed=1), numbers(37, seed=2)
    out = np.empty((4, 37), np.float32)
    matvec.normalise(x.numpy(), out, gain.numpy(), shift.numpy(), centred, 1e-5)
    true = (layer_norm if centred else rms_norm)(x.double(), 1e-5) * gain + shift
    torch.testing.assert_close(torch.from_numpy(out).double(), true, rtol=1e-5, atol=1e-5)
    matvec.normalise(x.numpy(), out, NONE, NONE, centred, 1e-5)
    torch.testing.assert_close(torch.from_numpy(out).double(), (layer_norm if centred else rms_norm)(x.double(), 1e-5), rtol=1e-5, atol=1e-5)
