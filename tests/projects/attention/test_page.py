"""The heat maps of `underhood run attention`: real weights, numbers that agree with them, and the past alone."""

import dataclasses
import math
import re

import torch

from underhood.projects.attention.page import MODEL, SHOWN, in_numbers, mean_entropy, sections


def test_the_page_shows_every_head_with_its_entropy() -> None:
    [section] = sections(dataclasses.replace(MODEL, steps=2, stories=60))
    maps = re.findall(r'<svg class="heat" role="img" aria-label="([^"]+)".*?</svg>', section.html, re.DOTALL)
    captions = re.findall(r"<figcaption>(layer \d, head \d): entropy (\d\.\d\d) nats</figcaption>", section.html)
    assert [name for name, _ in captions] == ["layer 1, head 1", "layer 1, head 2", "layer 2, head 1", "layer 2, head 2"]
    even = sum(math.log(t) for t in range(1, SHOWN + 1)) / SHOWN
    for says, (_, shown) in zip(maps, captions, strict=True):
        assert 0 < float(shown) <= even
        assert f"{shown} of at most {even:.2f} nats" in says


def test_no_square_lies_in_the_future() -> None:
    [section] = sections(dataclasses.replace(MODEL, steps=1, stories=60))
    squares = re.findall(r'<rect x="(\d+)" y="(\d+)" width="10"', section.html)
    assert len(squares) > 4 * SHOWN
    assert all((int(x) - 14) // 10 <= int(y) // 10 for x, y in squares)


def test_the_words_say_what_the_weights_are() -> None:
    """Worked by hand: two places to look at, half and half, then all on the one before."""
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    assert math.isclose(mean_entropy(weights), math.log(2) / 3, rel_tol=1e-6)
    assert in_numbers(weights, 1.0).endswith("50% to itself, 75% to the character before, 50% to the first.")
