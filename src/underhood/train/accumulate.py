"""Gradient accumulation: several small batches, one update, exactly as if they had been one big batch.

Batches are ragged: some targets are ignored (padding, a prompt). The mean over the big batch weighs every *token* alike, so each small batch's
summed loss is divided by the tokens of them all. Averaging the averages instead gives tokens of short batches more weight: a fault that
widely used trainers have shipped (torchtune PR 1875).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from underhood.base.errors import DataError
from underhood.train.loss import count_targets

Batch = tuple[Tensor, Tensor]


def accumulate_gradients(loss_sum: Callable[[Tensor, Tensor], Tensor], batches: Sequence[Batch], collect: Callable[[], None] | None = None) -> Tensor:
    """Add to the parameters' gradients those of the mean loss over all targets of all ``batches``; returns that mean, detached, in nats.

    ``loss_sum(x, y)`` gives the *summed* loss over the targets of one batch that are not ignored. ``collect`` is called after each backward
    (bf16 gradients are added up in fp32 there). A set of batches without a single target is a ``DataError``.

    How: count the targets of all batches first; divide each batch's sum by that one number before ``backward``.
    """
    tokens = sum(count_targets(y) for _, y in batches)
    if tokens == 0:
        raise DataError("every target of the batch is ignored, so it has no loss", expected="at least one target")
    losses = []
    for x, y in batches:
        loss = loss_sum(x, y) / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        if collect is not None:
            collect()
    return torch.stack(losses).sum()
