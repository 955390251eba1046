"""Accumulated gradients are those of the big batch, with ragged lengths too."""

import pytest
import torch
import torch.nn.functional as F

from underhood.base.errors import DataError
from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.train.accumulate import accumulate_gradients
from underhood.train.loss import IGNORE, cross_entropy

CONFIG = GPTConfig(vocab_size=17, context=12, n_layer=1, n_head=2, width=16, init="fan_in")


def ragged(lengths: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    batches = []
    for length in lengths:
        x, y = (torch.randint(0, 17, (2, 12), generator=generator) for _ in range(2))
        y[:, length:] = IGNORE
        batches.append((x, y))
    return batches


def gradient(batches, *, by_mean_of_means: bool = False) -> torch.Tensor:
    model = build_gpt(CONFIG, 0).double()
    if by_mean_of_means:
        for x, y in batches:
            (F.cross_entropy(model(x).flatten(0, 1), y.flatten()) / len(batches)).backward()
    else:
        accumulate_gradients(lambda x, y: cross_entropy(model(x), y, reduction="sum"), batches)
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_equal_to_the_big_batch() -> None:
    batches = ragged([12, 1, 5])
    whole = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    expected = gradient(whole)
    assert (gradient(batches) - expected).abs().max() < 1e-12
    assert (gradient(batches, by_mean_of_means=True) - expected).abs().max() > 1e-3, "the average of averages is not it"


def test_fp32_within_1e_6() -> None:
    batches = ragged([12, 3, 7, 1])
    model = build_gpt(CONFIG, 0)
    norms = []
    for parts in (batches, [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]):
        model.zero_grad()
        accumulate_gradients(lambda x, y: cross_entropy(model(x), y, reduction="sum"), parts)
        norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (norms[0] - norms[1]).abs().max() < 1e-6


def test_an_empty_batch_adds_nothing_and_only_empty_ones_are_refused() -> None:
    batches, (x, y) = ragged([4, 6]), ragged([0])[0]
    assert torch.allclose(gradient([*batches, (x, y)]), gradient(batches))
    with pytest.raises(DataError, match="every target"):
        gradient([(x, y)])
