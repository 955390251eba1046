"""Training in bf16 with fp32 master weights (Micikevicius et al. 2018, §3.1, for fp16; bf16 needs no loss scaling: its range is fp32's).

A bf16 number has 8 bits of precision: a weight of 1 cannot take a step smaller than 1/256, and a usual step is a thousandth of that, so bf16 weights
alone would stop learning. The model computes in bf16; the optimizer works on fp32 masters, which are rounded into the model after each update.
Gradients of several batches are added up in fp32 too. Statistics of norms and the loss are computed in fp32 by the parts themselves.
"""

import torch
from torch import Tensor, nn

from underhood.base.errors import CheckpointError


class MasterWeights:
    """fp32 copies of a bf16 model's parameters: what the optimizer updates, and what a checkpoint keeps."""

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
        self.weights = {name: p.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad}
        model.to(dtype)
        self._inner = {name: p for name, p in model.named_parameters() if name in self.weights}

    @torch.no_grad()
    def collect(self) -> None:
        """Add the model's bf16 gradients to the masters' fp32 ones, and forget them."""
        for name, p in self._inner.items():
            master = self.weights[name]
            if p.grad is not None:
                master.grad = p.grad.float() if master.grad is None else master.grad.add_(p.grad)
                p.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        torch._foreach_copy_(list(self._inner.values()), list(self.weights.values()))

    def state_dict(self) -> dict[str, Tensor]:
        """The masters by parameter name."""
        return dict(self.weights)

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over saved masters. Raises ``CheckpointError`` when a name is missing."""
        if missing := sorted(set(self.weights) - set(tensors)):
            raise CheckpointError("no fp32 master weight in the checkpoint", where=missing[0], remedy="It was trained in fp32: resume with precision fp32.")
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])
        self.publish()
