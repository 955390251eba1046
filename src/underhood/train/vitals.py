"""Four vital signs per layer while training: gradient norm, activation extremes, update ratio |Δw|/|w|, and the loss they belong to.

A healthy update ratio is near 0.001 (Karpathy's rule of thumb): 0.1 is thrashing, 1e-6 is asleep. An activation whose extremes grow from step to step is on
its way to infinity. Measured every ``every`` steps only: between them the hooks do nothing, and no copy of the weights is kept.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from underhood.train.loop import Callback, Figures, Trainer


@dataclasses.dataclass(frozen=True)
class LayerVitals:
    """One layer at one step."""

    gradient_norm: float
    update_ratio: float  # |Δw| / |w|
    largest: float  # of the output's absolute values; NaN when the layer was not run
    rms: float  # √mean of the output's squares


@dataclasses.dataclass(frozen=True)
class Vitals:
    """All layers at one step."""

    step: int
    loss: float
    layers: Mapping[str, LayerVitals]


class VitalSigns(Callback):
    """A callback that keeps ``history``; use as a context so that its hooks go when it does: ``with VitalSigns(model) as signs: Trainer(…, [signs]).run()``."""

    def __init__(self, model: nn.Module, every: int = 10) -> None:
        self.every = every
        self.history: list[Vitals] = []
        self.layers = {name: m for name, m in model.named_modules() if name and list(m.parameters(recurse=False))}
        self._outputs: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._norms: dict[str, float] = {}
        self._on = every == 1
        self._handles = [m.register_forward_hook(self._note(name)) for name, m in self.layers.items()]

    def __enter__(self) -> "VitalSigns":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _note(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._on and module.training and isinstance(output, Tensor):
                out = output.detach()
                self._outputs[name] = torch.stack([out.abs().amax().float(), out.float().square().mean().sqrt()])

        return hook

    def before_update(self, trainer: Trainer) -> None:
        """Remember weights and gradients of a step that is looked at."""
        if not self._on:
            return
        self._before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
        self._norms = {name: _norm([p.grad for p in own if p.grad is not None]) for name, own in self._own(trainer).items()}

    def after_step(self, trainer: Trainer, figures: Figures) -> None:
        """Note the step that was looked at, and whether the next one is."""
        if self._on:
            self.history.append(Vitals(figures.step, figures.loss, {name: self._layer(trainer, name) for name in self.layers}))
            self._outputs, self._before, self._norms = {}, {}, {}
        self._on = (figures.step + 1) % self.every == 0

    def _own(self, trainer: Trainer) -> dict[str, list[Tensor]]:
        """Each layer's own parameters; a tied weight belongs to the layer whose name it has."""
        return {layer: [p for name, p in trainer.parameters.items() if name.rpartition(".")[0] == layer] for layer in self.layers}

    def _layer(self, trainer: Trainer, layer: str) -> LayerVitals:
        names = [name for name in self._before if name.rpartition(".")[0] == layer]
        before = [self._before[name] for name in names]
        change = _norm([trainer.parameters[name].detach() - self._before[name] for name in names])
        largest, rms = self._outputs[layer].tolist() if layer in self._outputs else (float("nan"), float("nan"))
        return LayerVitals(self._norms.get(layer, 0.0), change / max(_norm(before), 1e-12), largest, rms)


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))) if tensors else 0.0
