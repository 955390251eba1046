"""What any correct softmax, log-softmax and cross-entropy satisfy: the end of the core. The oracles are torch and closed forms."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from underhood.lab.check import Check, Part, check, close, refuses, runs
from underhood.projects.tensor.compare import arrays_of, same_as_torch


@check(
    "Softmax",
    hints=(
        "exp of 89 is more than float32 can hold.",
        "Adding the same number to every logit changes no probability: subtract the largest first. Largest and sum keep their axis, or (3, 4) meets (3,).",
        "shifted = logits - logits.data.max(axis=-1, keepdims=True); e = shifted.exp(); e / e.sum(axis=-1, keepdims=True). "
        "The logarithm: shifted - shifted.exp().sum(axis=-1, keepdims=True).log()",
    ),
)
def check_softmax(part: Part, rng: random.Random) -> None:
    """Softmax and log-softmax as in torch, also for logits of a thousand in float32."""
    import torch

    for shape in ((5,), (3, 4), (2, 3, 4), (3, 1)):
        same_as_torch(part, "softmax", part.softmax, lambda x: torch.softmax(x, -1), arrays_of(rng, shape))
        same_as_torch(part, "log_softmax", part.log_softmax, lambda x: torch.log_softmax(x, -1), arrays_of(rng, shape))
    large = np.array([[1000.0, 998.0, -1000.0], [-3e4, 0.0, 3e4]], np.float32)
    with np.errstate(all="ignore"):
        for name, ours, theirs in (("softmax", part.softmax, torch.softmax), ("log_softmax", part.log_softmax, torch.log_softmax)):
            found = runs(partial(_data, ours, part.Tensor(large)), f"{name} of large logits does not run", given=large)
            close(found, theirs(torch.tensor(large), -1), f"{name} of large logits", given=large, rtol=1e-5)


@check(
    "Cross-entropy",
    hints=(
        "The loss is the mean of −log p, where p is the probability that the model gave to what came.",
        "Never take the log of a probability that has underflowed to 0: pick from log_softmax instead.",
        "picked = log_softmax(logits)[np.arange(B), targets]; return -picked.mean()",
    ),
)
def check_cross_entropy(part: Part, rng: random.Random) -> None:
    """Value and gradient as in torch; a target that is 200 below the top costs 200, not infinity."""
    import torch

    targets = np.array([rng.randrange(5) for _ in range(4)])
    arrays = arrays_of(rng, (4, 5))
    ours, theirs = partial(_with_targets, part.cross_entropy, targets), partial(_with_targets, torch.nn.functional.cross_entropy, torch.tensor(targets))
    same_as_torch(part, "cross_entropy", ours, theirs, arrays)
    for dtype, gap in ((np.float32, 200.0), (np.float64, 2000.0)):
        logits = part.Tensor(np.array([[0.0, gap]], dtype), requires_grad=True)
        with np.errstate(all="ignore"):
            loss = runs(partial(part.cross_entropy, logits, np.array([0])), "an unlikely target does not run", given=gap)
            runs(loss.backward, "backward from an unlikely target does not run", given=gap)
        close(loss.data, gap, f"the loss of a target {gap:g} below the top, in {np.dtype(dtype)}", given=gap, rtol=1e-5)
        close(logits.grad, [[-1.0, 1.0]], "its gradient: all probability is in the wrong place", given=gap, rtol=1e-5)


def _with_targets(function: Callable[..., Any], targets: Any, logits: Any) -> Any:
    return function(logits, targets)


@check(
    "Cross-entropy",
    hints=(
        "What does array[-1] mean in Python?",
        "A target of −1 silently means the last character; refuse whatever is not among the V characters.",
        "if B == 0 or targets.shape != (B,) or targets.min() < 0 or targets.max() >= V: raise ShapeError(…)",
    ),
)
def check_refuses_wrong_targets(part: Part, rng: random.Random) -> None:
    """Targets outside the vocabulary, or none at all, are errors."""
    logits = part.Tensor(np.zeros((2, 3)))
    for targets in ([0, -1], [0, 3], [0]):
        given = f"logits of shape (2, 3), targets {targets}"
        refuses(partial(part.cross_entropy, logits, np.array(targets)), (ValueError, IndexError), "targets that do not fit must be refused", given=given)
    empty = partial(part.cross_entropy, part.Tensor(np.zeros((0, 3))), np.zeros(0, int))
    refuses(empty, (ValueError, IndexError), "an empty batch has no mean: it must be refused", given="logits of shape (0, 3), no targets")


def _data(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments).data


CHECKS: tuple[Check, ...] = (check_softmax, check_cross_entropy, check_refuses_wrong_targets)
