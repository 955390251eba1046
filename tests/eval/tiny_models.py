"""Models so small that what they predict can be said in a formula."""

import torch
from torch import Tensor, nn


class Uniform(nn.Module):
    """Every token is as likely as every other."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, ids: Tensor) -> Tensor:
        return torch.zeros(*ids.shape, self.vocab_size)


class Table(nn.Module):
    """The next token depends on the last one alone: log-probabilities in a table (V, V)."""

    def __init__(self, log_p: Tensor) -> None:
        super().__init__()
        self.log_p = log_p

    def forward(self, ids: Tensor) -> Tensor:
        return self.log_p[ids]


class Counter(nn.Module):
    """Knows how long its past is: token ``min(position, V − 1)`` has all the probability but a little."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, ids: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1]).clamp(max=self.vocab_size - 1)
        return (10.0 * nn.functional.one_hot(at, self.vocab_size)).expand(len(ids), -1, -1)
