"""Values of a failed check: short ones whole, long ones cut to the first difference."""

import pytest
import torch

from underhood.workbench.excerpt import WHOLE, cut, plain, shown, size


def test_short_values_are_whole() -> None:
    assert shown([1, 2], (1, 3)) == ("[1, 2]", "(1, 3)")
    assert shown("shape (2, 3)", None) == ("shape (2, 3)", "None")
    assert cut({"q": torch.tensor([[1 / 3]]), "k": [1]}) == "q = [[0.333333]], k = [1]"


@pytest.mark.parametrize("index", [(0, 0), (3, 17), (31, 31)])
def test_of_long_arrays_the_first_difference_is_told(index: tuple[int, int]) -> None:
    expected = torch.arange(1024.0).reshape(32, 32)
    found = expected.clone()
    found[index] = -1.5
    found[31, 31] = -1.5
    count = int((found != expected).sum())
    place = f"[{index[0]}][{index[1]}]"
    assert shown(expected, found) == (
        f"{float(expected[index])} at {place}",
        f"-1.5 at {place}, and so in {count} of 1,024 places (32 × 32)",
    )


def test_nan_equals_nan_and_rounding_is_no_difference() -> None:
    expected = [float("nan"), 1.0, 2.0] * 100
    found = [float("nan"), 1.0 + 1e-9, 2.0] * 99 + [float("nan"), 1.0, 7.0]
    assert shown(expected, found) == ("2.0 at [299]", "7.0 at [299], and so in 1 of 300 places (300 items)")


def test_of_other_sizes_the_sizes_are_told() -> None:
    left, right = shown(torch.zeros(16, 32), torch.zeros(32, 16))
    assert left.startswith("16 × 32, beginning 0.0, 0.0")
    assert right.startswith("32 × 16, beginning 0.0")
    assert shown(list(range(300)), [])[1] == "0 items"


def test_long_texts_are_cut_around_the_first_difference() -> None:
    text = "".join(chr(ord("a") + i % 26) for i in range(600))
    left, right = shown(text, text[:500] + "!" + text[501:])
    assert left.endswith("at character 500")
    assert "!" in right
    assert max(len(left), len(right)) < 120
    assert shown(text, text + "x")[1].endswith("at character 600")


@pytest.mark.parametrize(
    "value", [list(range(10**5)), "x" * 10**6, {i: list(range(1000)) for i in range(3)}, {i: i for i in range(10**4)}, [["long " * 200] * 9]]
)
def test_nothing_is_pages_long(value: object) -> None:
    assert len(cut(value)) < 4 * WHOLE
    assert max(map(len, shown(value, plain(value)))) < 4 * WHOLE
    assert max(map(len, shown(value, 3))) < 4 * WHOLE


def test_a_ragged_list_has_items() -> None:
    assert size([[1], [2, 3]]) == "2 items"
    assert size([[[1, 2]], [[3, 4]]]) == "2 × 1 × 2"
