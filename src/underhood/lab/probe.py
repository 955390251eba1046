"""Probes: questions put to a model beside its loss. Loss is never the only witness: a leak makes it *better*.

Each takes a model and ids, changes nothing, draws from no random generator of torch's, and returns plain numbers.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from underhood.nn.attention import MultiHeadAttention, entropy
from underhood.nn.gpt import GPT

LEAK = 1e-6  # logits of the past that move by more than this, when only the future changed, have seen it


@contextlib.contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, put back afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def future_leak(logits_of: Callable[[Tensor], Tensor], ids: Int[Tensor, "B T"], vocab_size: int) -> float:
    """How far the logits of positions 0 … t move when only the token at t + 1 changes: the largest absolute difference over a few t. 0 for a causal model."""
    T, worst = ids.shape[1], 0.0
    with torch.no_grad():
        before = logits_of(ids)
        for t in sorted({0, T // 2, T - 2}):
            other = ids.clone()
            other[:, t + 1] = (other[:, t + 1] + 1) % vocab_size
            moved = (logits_of(other)[:, : t + 1] - before[:, : t + 1]).abs().max()
            worst = max(worst, float(moved))
    return worst


def is_causal(model: GPT, ids: Int[Tensor, "B T"]) -> bool:
    """Whether no logit of the past moves when the future changes."""
    with at_rest(model):
        return future_leak(model, ids, model.config.vocab_size) <= LEAK


def row_sum_error(weights: Float[Tensor, "... T S"]) -> float:
    """How far the attention weights of a row are from summing to 1, at worst."""
    return float((weights.sum(-1) - 1).abs().max())


def attention_weights(model: nn.Module, ids: Int[Tensor, "B T"]) -> dict[str, Float[Tensor, "B H T S"]]:
    """The weights of every attention layer on ``ids``, by the layer's name (layers on a kernel that keeps none are left out)."""
    seen: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, MultiHeadAttention)}

    def remember(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda module, args, kwargs: seen.update({name: (args, kwargs)})

    hooks = [m.register_forward_pre_hook(remember(name), with_kwargs=True) for name, m in layers.items()]
    try:
        with at_rest(model):
            model(ids)
            found = {name: layers[name].look(*args, **kwargs)[1] for name, (args, kwargs) in seen.items()}
    finally:
        for hook in hooks:
            hook.remove()
    return {name: weights for name, weights in found.items() if weights is not None}


def attention_entropy(model: nn.Module, ids: Int[Tensor, "B T"]) -> float:
    """Mean entropy of an attention row in nats, over layers, heads and positions: 0 looks at one place, ln S looks everywhere alike.

    Rows that are no distribution (their weights do not sum to 1) have no entropy; then the mean is over the normalised absolute weights.
    """
    rows = [entropy(_distribution(w)).mean() for w in attention_weights(model, ids).values()]
    return float(torch.stack(rows).mean()) if rows else math.nan


def _distribution(weights: Tensor) -> Tensor:
    return weights.abs() / weights.abs().sum(-1, keepdim=True).clamp(min=1e-30)


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """The gradient's norm for each parameter that has one."""
    return {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}


def update_ratios(before: Mapping[str, Tensor], model: nn.Module) -> dict[str, float]:
    """|Δw| / |w| of each parameter since ``before`` (a copy of the weights by name): about 1e-3 a step is healthy for Adam."""
    return {name: float((p.detach() - before[name]).norm() / before[name].norm().clamp(min=1e-12)) for name, p in model.named_parameters()}


def activation_statistics(model: nn.Module, ids: Int[Tensor, "B T"], kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> dict[str, dict[str, float]]:
    """Root mean square and largest absolute value of the output of every module of ``kinds``, by name."""
    found: dict[str, dict[str, float]] = {}

    def measure(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found[name] = {"rms": float(output.square().mean().sqrt()), "max": float(output.abs().max())}

        return hook

    hooks = [m.register_forward_hook(measure(name)) for name, m in model.named_modules() if isinstance(m, kinds)]
    try:
        with at_rest(model):
            model(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def paths_differ(one: Tensor, other: Tensor) -> float:
    """How far two results that should be equal are apart, relative to their size: max |a − b| / max(1, max |b|); infinite when the shapes differ."""
    if one.shape != other.shape:
        return math.inf
    scale = max(1.0, float(other.abs().max()))
    return float((one - other).abs().max()) / scale


def copied_share(text: str, source: str, length: int = 8) -> float:
    """The share of ``text``'s word ``length``-grams that stand verbatim in ``source``: memorising is not learning."""
    words, known = text.split(), source.split()
    grams = {tuple(known[i : i + length]) for i in range(len(known) - length + 1)}
    asked = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
    return sum(g in grams for g in asked) / len(asked) if asked else 0.0
