"""Cross-entropy: how surprised the model was by the token that came, in nats.

``cross_entropy`` is the plain form over whole logits. ``chunked_cross_entropy`` starts from the hidden states and never holds more than a few rows of
logits: for GPT-2's 50,257 tokens and a batch of 8 × 1,024 the logits alone would take 1.6 GB in fp32, and their gradient as much again.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from underhood.base.errors import DataError

IGNORE = -100  # the target that means "no loss here", as in torch

Reduction = Literal["mean", "sum"]


def count_targets(targets: Int[Tensor, "..."]) -> int:
    """How many targets count (are not ``IGNORE``)."""
    return int((targets != IGNORE).sum())


def cross_entropy(logits: Float[Tensor, "... V"], targets: Int[Tensor, "..."], *, reduction: Reduction = "mean") -> Float[Tensor, ""]:
    """−log softmax(logits)[target] in nats, averaged (or summed) over the targets that are not ``IGNORE``; at least fp32 inside.

    The mean over no target at all is a ``DataError`` (torch would give NaN).

    How: −log softmax(x)[t] = logsumexp(x) − x[t]; the target's logit is gathered, ignored rows count zero.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    kept = targets != IGNORE
    picked = logits.gather(-1, targets.where(kept, 0)[..., None])[..., 0]
    losses = torch.where(kept, logits.logsumexp(-1) - picked, 0.0)
    return losses.sum() if reduction == "sum" else losses.sum() / _some(count_targets(targets))


def _some(count: int) -> int:
    if count == 0:
        raise DataError("every target of the batch is ignored, so it has no loss", expected="at least one target", remedy="Look at the loss mask.")
    return count


def chunked_cross_entropy(
    hidden: Float[Tensor, "... C"],
    weight: Float[Tensor, "V C"],
    targets: Int[Tensor, "..."],
    *,
    chunk: int = 1024,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """``cross_entropy(hidden @ weight.T, targets)``, with at most ``chunk`` rows of logits alive at a time, forward and backward."""
    total = _Chunked.apply(hidden.reshape(-1, hidden.shape[-1]), weight, targets.reshape(-1), chunk)  # type: ignore[no-untyped-call]
    result: Tensor = total if reduction == "sum" else total / _some(count_targets(targets))
    return result


class _Chunked(torch.autograd.Function):
    """The gradient of a chunk's logits, softmax − one-hot, is known as soon as they are: both products are taken at once and the logits dropped."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.empty_like(weight, dtype=wide) if wants_weight else None
        total = hidden.new_zeros((), dtype=wide)
        rows_held = min(chunk, len(targets))
        logits, log_p = (torch.empty(rows_held, len(weight), dtype=wide, device=hidden.device) for _ in range(2))
        for start in range(0, len(targets), chunk):
            h, t = hidden[start : start + chunk], targets[start : start + chunk]
            kept = t != IGNORE
            target = t.where(kept, 0)[:, None]
            z, p = logits[: len(t)], log_p[: len(t)]  # the same memory for every chunk
            _product(h, weight.T, out=z)
            torch.log_softmax(z, -1, out=p)
            total -= torch.where(kept, p.gather(1, target)[:, 0], 0.0).sum()
            if not (wants_hidden or wants_weight):
                continue
            torch.exp(p, out=z)
            z.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=wide))  # softmax - one-hot
            z[~kept] = 0.0
            d_logits = z.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(d_logits, weight, out=grad_hidden[start : start + chunk])
            if grad_weight is not None:
                _add_product(grad_weight, d_logits, h, first=start == 0)
        if grad_weight is not None and not len(targets):
            grad_weight.zero_()
        ctx.save_for_backward(*(g for g in (grad_hidden, grad_weight) if g is not None))
        ctx.wants, ctx.weight_dtype = (wants_hidden, wants_weight), weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        saved = list(ctx.saved_tensors)
        grad_hidden = saved.pop(0) if ctx.wants[0] else None
        grad_weight = saved.pop(0) if ctx.wants[1] else None
        scale = upstream[0]
        return (
            None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * scale).to(ctx.weight_dtype),
            None,
            None,
        )


def _product(a: Tensor, b: Tensor, *, out: Tensor) -> None:
    """out = a @ b, through a temporary only where ``out`` is wider than they are."""
    if out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(a @ b)


def _add_product(total: Tensor, d_logits: Tensor, h: Tensor, *, first: bool) -> None:
    """total += d_logitsᵀ @ h, or = on the first call, when ``total`` holds nothing yet; without a temporary where the types agree."""
    if total.dtype == h.dtype:
        total.addmm_(d_logits.T, h, beta=0 if first else 1)
    elif first:
        total.copy_(d_logits.T @ h)
    else:
        total += d_logits.T @ h
