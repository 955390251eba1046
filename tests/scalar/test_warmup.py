"""The warm-up: the dot product, the slope and softmax."""

import math
import random

import pytest
import torch

from underhood.scalar.warmup import dot, slope, softmax


def test_a_dot_product_by_hand() -> None:
    assert dot([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == 32.0
    assert dot([3.0, 4.0], [-4.0, 3.0]) == 0.0  # at right angles
    assert dot([], []) == 0


@pytest.mark.parametrize("n", [1, 2, 17])
def test_a_dot_product_is_torchs_and_linear_in_each_side(n: int) -> None:
    rng = random.Random(n)
    a, b, c = ([rng.gauss(0, 1) for _ in range(n)] for _ in range(3))
    assert dot(a, b) == pytest.approx(float(torch.tensor(a, dtype=torch.float64) @ torch.tensor(b, dtype=torch.float64)), abs=1e-12)
    assert dot(a, b) == dot(b, a)
    assert dot([x + 2 * z for x, z in zip(a, c, strict=True)], b) == pytest.approx(dot(a, b) + 2 * dot(c, b), abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [([1.0, 2.0], [1.0]), ([], [1.0])])
def test_lists_of_different_lengths_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="zip"):
        dot(a, b)


def test_a_slope_by_hand() -> None:
    assert slope(lambda x: x * x, 3.0, 0.5) == 6.0  # (12.25 − 6.25) / 1
    assert slope(lambda x: 5.0, 1.0) == 0.0


@pytest.mark.parametrize("x", [-1.3, 0.2, 2.0])
def test_a_slope_is_that_of_autograd(x: float) -> None:
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (torch.sin(at) * torch.exp(at)).backward()  # type: ignore[no-untyped-call]
    assert at.grad is not None
    assert slope(lambda v: math.sin(v) * math.exp(v), x) == pytest.approx(float(at.grad), rel=1e-8)


def test_half_the_width_leaves_a_quarter_of_the_error() -> None:
    wide, narrow = (abs(slope(math.exp, 0.0, h) - 1) for h in (0.2, 0.1))
    assert wide / narrow == pytest.approx(4, rel=0.01)


def test_softmax_by_hand() -> None:
    assert softmax([0.0, 0.0]) == [0.5, 0.5]
    assert softmax([math.log(1), math.log(2), math.log(5)]) == pytest.approx([1 / 8, 2 / 8, 5 / 8])


@pytest.mark.parametrize("offset", [0.0, 1000.0, -1000.0])
def test_softmax_is_torchs_at_any_height(offset: float) -> None:
    rng = random.Random(0)
    logits = [rng.gauss(0, 3) for _ in range(9)]
    found = softmax([z + offset for z in logits])
    assert sum(found) == pytest.approx(1, abs=1e-12)
    assert found == pytest.approx(torch.tensor(logits, dtype=torch.float64).softmax(0).tolist(), rel=1e-9)


def test_softmax_leaves_its_input_alone() -> None:
    logits = [1.0, 2.0]
    softmax(logits)
    assert logits == [1.0, 2.0]
