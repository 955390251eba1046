"""The loss on text that is not trained on: in evaluation mode, without gradients, every token weighed alike."""

from collections.abc import Iterable

import torch
from torch import nn

from underhood.train.accumulate import Batch
from underhood.train.loss import count_targets, cross_entropy


def validation_loss(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Mean loss per token (nats) over all targets of ``batches``; the model is left in the mode that it had.

    Without evaluation mode dropout would go on removing numbers, and the loss would be too high and another one each time.

    How: remember ``model.training``; ``eval()``; sum the losses and the tokens of all batches under ``no_grad``; put the mode back; divide.
    """
    training = model.training
    model.eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for x, y in batches:
            total += float(cross_entropy(model(x), y, reduction="sum"))
            tokens += count_targets(y)
    model.train(training)
    return total / tokens
