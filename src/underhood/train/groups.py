"""Parameter groups: which parameters share a learning rate and a weight decay.

Weight decay pulls a weight towards zero. That is right for matrices (it limits how strongly inputs are mixed) and wrong for gains and biases:
a gain's neutral value is one, and pulling it to zero shuts its layer off (Loshchilov & Hutter 2019; the split is GPT-2's and nanoGPT's).
"""

import dataclasses
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from underhood.base.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters by name, their peak learning rate, and the share of each weight that decay removes per unit of learning rate."""

    parameters: Mapping[str, nn.Parameter | Tensor]
    lr: float
    weight_decay: float = 0.0


def named_once(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, each once: a tied weight is listed under its first name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def decay_groups(parameters: Mapping[str, nn.Parameter | Tensor], *, lr: float, weight_decay: float) -> list[Group]:
    """Two groups: matrices (two or more dimensions: linear layers, embeddings) with weight decay; gains, biases and other vectors without.

    How: a parameter is a matrix when it has two dimensions or more; keep the order of the parameters.
    """
    matrices = {name: p for name, p in parameters.items() if p.ndim >= 2}
    vectors = {name: p for name, p in parameters.items() if p.ndim < 2}
    return [Group(parameters=matrices, lr=lr, weight_decay=weight_decay), Group(parameters=vectors, lr=lr, weight_decay=0.0)]


def check_groups(groups: Iterable[Group]) -> None:
    """Raise ``ConfigError`` when a parameter stands in two groups (it would be updated twice) or there is nothing to train."""
    seen: dict[int, str] = {}
    for group in groups:
        for name, p in group.parameters.items():
            if id(p) in seen:
                raise ConfigError(f"the parameter {name!r} is in two groups (also as {seen[id(p)]!r})", expected="every parameter once")
            seen[id(p)] = name
    if not seen:
        raise ConfigError("no parameter to train", expected="at least one that requires a gradient")
