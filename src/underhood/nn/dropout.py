"""Dropout (Srivastava et al. 2014): while training, set each number to zero with probability p and scale the rest by 1/(1-p).

Draws come from a generator of the model's own, never from torch's global one, so that nothing else that draws can move them, and a run can be
resumed exactly by storing one generator's state.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from underhood.base.errors import ConfigError
from underhood.base.rng import stream_seed


class Dropout(nn.Module):
    """Identity when evaluating or when ``p`` is 0; ``seed_dropout`` must have given it a generator before it trains."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ConfigError(f"found {p}", where="dropout", expected="a probability, 0 ≤ p < 1")
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Shape and dtype of ``x``; the mean over draws is ``x``."""
        if not self.training or self.p == 0:
            return x
        if self.generator is None:
            raise ConfigError("dropout has no generator", remedy="Call seed_dropout(model, seed) first; build_gpt does.")
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * keep / (1 - self.p)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"p={self.p}"


def seed_dropout(model: nn.Module, seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Give every dropout of ``model`` one new generator, from the stream ``dropout`` of ``seed``, and return it (its state belongs in a checkpoint)."""
    generator = torch.Generator(device).manual_seed(stream_seed(seed, "dropout"))
    for module in model.modules():
        if isinstance(module, Dropout):
            module.generator = generator
    return generator


def dropout_generator(model: nn.Module) -> torch.Generator | None:
    """The generator that the model's dropouts share, or None when it has none."""
    found = (m.generator for m in model.modules() if isinstance(m, Dropout) and m.generator is not None)
    return next(found, None)
