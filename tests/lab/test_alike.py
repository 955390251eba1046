"""Tensors compared for a person: the factor, the place, the shape."""

import pytest
import torch
from torch import Tensor

from underhood.lab.alike import alike
from underhood.lab.check import CheckFailed

NUMBERS = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])


def moved(place: tuple[int, int], by: float) -> Tensor:
    other = NUMBERS.clone()
    other[place] += by
    return other


def test_what_agrees_passes() -> None:
    alike(NUMBERS.clone(), NUMBERS, "")
    alike(NUMBERS + 1e-8, NUMBERS, "")
    alike(torch.tensor([torch.nan, torch.inf]), torch.tensor([torch.nan, torch.inf]), "")
    alike(moved((0, 1), 0.1), NUMBERS, "", atol=0.2)


@pytest.mark.parametrize(
    ("found", "expected", "says"),
    [
        (NUMBERS * 0.54, NUMBERS, ("6 numbers of at most 6", "0.5400 × expected")),
        (-NUMBERS, NUMBERS, ("6 numbers of at most 6", "-1.0000 × expected")),
        (moved((1, 2), 0.5) + moved((0, 0), 0.1) - NUMBERS, NUMBERS, ("-6 at [1, 2]", "-5.5 at [1, 2], the largest deviation: 2 of 6 numbers differ")),
        (moved((0, 1), torch.nan), NUMBERS, ("-2 at [0, 1]", "nan at [0, 1], the largest deviation: 1 of 6 numbers differ")),
        (torch.zeros(2), torch.tensor([0.0, 3.0]), ("3 at [1]", "0 at [1], the largest deviation: 1 of 2 numbers differ")),
        (torch.tensor(2.0), torch.tensor(1.0), ("1", "2")),
        (NUMBERS.T, NUMBERS, ("a tensor of shape (2, 3)", (3, 2))),
        (None, NUMBERS, ("a tensor of shape (2, 3)", "NoneType")),
    ],
)
def test_a_difference_is_one_line(found: object, expected: Tensor, says: tuple[object, object]) -> None:
    with pytest.raises(CheckFailed, match="these agree") as failed:
        alike(found, expected, "these agree", given="x")
    assert (failed.value.expected, failed.value.found) == says
