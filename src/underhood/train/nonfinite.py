"""Where a NaN was born: repeat the batch with hooks, and name the first module that made one out of finite numbers.

A training step checks two numbers, its loss and its gradient norm, *before* the update. Only when one of them is not finite is the batch repeated,
with the random state it had, so watching costs nothing while all is well. The weights are left as they were.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def first_nonfinite(model: nn.Module, repeat: Callable[[], object]) -> str:
    """The name of the first module, in order of computation, with finite inputs and a non-finite output while ``repeat()`` runs forward and backward.

    ``"the weights of NAME"`` when a parameter is not finite already; ``"NAME (backward)"`` when the forward pass was clean; ``"the loss"`` when all
    modules are. A module stands for the plain code in its own ``forward`` too.
    """
    for name, p in model.named_parameters():
        if not finite(p):
            return f"the weights of {name}"
    found: list[str] = []
    with _watched(model, found), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")  # at an embedding: its input is integers, which is fine here
        repeat()
    return found[0] if found else "the loss"


def finite(thing: Any) -> bool:
    """Whether every floating number of the tensors in ``thing`` (nested tuples, lists, dicts) is finite."""
    if isinstance(thing, Tensor):
        return not thing.is_floating_point() or bool(torch.isfinite(thing).all())
    if isinstance(thing, dict):
        thing = list(thing.values())
    return all(finite(t) for t in thing) if isinstance(thing, (tuple, list)) else True


@contextmanager
def _watched(model: nn.Module, found: list[str]) -> Iterator[None]:
    """Hooks on every module, children before parents, that note the first offender in ``found``."""

    def after_forward(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, kwargs: Any, output: Any) -> None:
            if not found and finite((inputs, kwargs)) and not finite(output):
                found.append(name)

        return note

    def after_backward(name: str) -> Callable[..., None]:
        def note(module: nn.Module, grad_inputs: Any, grad_outputs: Any) -> None:
            born = not finite(grad_inputs) or not finite([p.grad for p in module.parameters(recurse=False) if p.grad is not None])
            if not found and finite(grad_outputs) and born:
                found.append(f"{name} (backward)")

        return note

    handles = []
    for name, module in model.named_modules():
        label = name or type(module).__name__
        handles.append(module.register_forward_hook(after_forward(label), with_kwargs=True))
        if not list(module.children()):
            handles.append(module.register_full_backward_hook(after_backward(label)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
