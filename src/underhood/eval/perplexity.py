"""How well a model predicts a text: nats per token, perplexity, bits per byte.

Two ways to cut the text into windows, and the figure depends on which: ``evaluate`` slides over one long row of ids, ``evaluate_documents``
starts every document afresh (the only way that can reach the floor of ``tales``). Only bits per byte compares models with different tokenizers.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from underhood.base.errors import DataError, NonFinite
from underhood.train.loss import IGNORE, cross_entropy

Model = Callable[[Int[Tensor, "B T"]], Float[Tensor, "B T V"]]
Row = tuple[NDArray[np.int64], NDArray[np.int64]]  # inputs and targets of one window; IGNORE where nothing is asked

BATCH_TOKENS = 2048  # logits of GPT-2's vocabulary for as many take 0.4 GB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """How well a text was predicted."""

    loss: float  # nats per token
    tokens: int  # predicted, each once
    n_bytes: int  # of the text they spell
    windows: str  # how the text was cut

    @property
    def perplexity(self) -> float:
        """exp(loss): as unsure as if it chose evenly among so many tokens."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """What a byte of the text costs; None where the bytes are not known."""
        return self.loss * self.tokens / math.log(2) / self.n_bytes if self.n_bytes else None

    def to_plain(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


def evaluate(model: Model, ids: Any, n_bytes: int, context: int, *, stride: int | None = None, batch_tokens: int = BATCH_TOKENS) -> Prediction:
    """Predict ``ids[1:]``, each once, in windows of ``context`` tokens.

    ``ids``: an array, a list or ``Shards``; the first one is given and not predicted. ``n_bytes``: of the text that ``ids[1:]`` spell; 0 if unknown.
    ``stride``: how far the window moves; ``context`` (the default) puts windows side by side, so that a window's first token has no past;
    less gives every token but the first ones a past of at least ``context − stride``, at ``context / stride`` times the cost.
    Raises ``DataError`` for too few ids, ``NonFinite`` when the model gives no number.
    """
    stride = context if stride is None else stride
    if not 1 <= stride <= context:
        raise DataError(f"stride {stride}", expected=f"1 … {context}, the context")
    if len(ids) < 2:
        raise DataError(f"{len(ids)} tokens", expected="at least 2 to predict one from the other", remedy="Give a longer text.")
    total, tokens = _sum(model, _slide(ids, context, stride), batch_tokens)
    windows = f"side by side, {context} tokens" if stride == context else f"sliding by {stride}, {context} tokens"
    return Prediction(loss=total / tokens, tokens=tokens, n_bytes=n_bytes, windows=windows)


def evaluate_documents(
    model: Model, documents: Iterable[Sequence[int]], n_bytes: int, context: int, end: int, *, batch_tokens: int = BATCH_TOKENS
) -> Prediction:
    """Predict every token of every document and the end mark after it, each document from its beginning, which an end mark opens.

    ``n_bytes``: of all documents, their end marks included (one byte each, as ``tales`` counts). A document longer than ``context``
    goes on in windows side by side.
    """
    rows = [row for document in documents for row in _slide([end, *document, end], context, context)]
    if not rows:
        raise DataError("no documents", expected="at least one")
    rows.sort(key=lambda row: len(row[0]))  # so that a batch wastes little on padding
    total, tokens = _sum(model, rows, batch_tokens)
    return Prediction(loss=total / tokens, tokens=tokens, n_bytes=n_bytes, windows=f"each document from its beginning, {context} tokens")


def _slide(ids: Any, context: int, stride: int) -> Iterator[Row]:
    """Windows over ``ids``; in each but the first, only targets that no window before it had are asked."""
    asked = 0  # targets so far: ids[1 : asked + 1]
    for start in range(0, len(ids) - 1, stride):
        piece = np.asarray(ids[start : start + context + 1], dtype=np.int64)
        targets = piece[1:].copy()
        targets[: asked - start] = IGNORE
        yield piece[:-1], targets
        asked = start + len(targets)
        if asked == len(ids) - 1:
            return


def _sum(model: Model, rows: Iterable[Row], batch_tokens: int) -> tuple[float, int]:
    """The sum of the losses in nats, and how many there were."""
    total, tokens = 0.0, 0
    with inference(model):
        for inputs, targets in _batches(rows, batch_tokens):
            loss = float(cross_entropy(model(inputs), targets, reduction="sum"))
            if not math.isfinite(loss):
                raise NonFinite("the loss")
            total += loss
            tokens += int((targets != IGNORE).sum())
    return total, tokens


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """Without gradients, and with the model in evaluation mode; its mode is put back at the end."""
    training = isinstance(model, nn.Module) and model.training
    try:
        if training:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()


def _batches(rows: Iterable[Row], batch_tokens: int) -> Iterator[tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]]:
    """Rows of about one length together; shorter ones are filled up at their end, where no target is asked."""
    held: list[Row] = []
    for row in rows:
        widest = max([len(row[0]), *(len(inputs) for inputs, _ in held)])
        if held and widest * (len(held) + 1) > batch_tokens:
            yield _stack(held)
            held = []
        held.append(row)
    if held:
        yield _stack(held)


def _stack(rows: list[Row]) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    width = max(len(inputs) for inputs, _ in rows)
    x = torch.zeros(len(rows), width, dtype=torch.long)
    y = torch.full((len(rows), width), IGNORE)
    for i, (inputs, targets) in enumerate(rows):
        x[i, : len(inputs)] = torch.from_numpy(inputs)
        y[i, : len(targets)] = torch.from_numpy(targets)
    return x, y
