"""Which optimizer with which numbers, as data; and how it is built for a model's parameters."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from underhood.base.config import get_part, part
from underhood.base.errors import ConfigError
from underhood.base.names import load
from underhood.train.groups import Group, decay_groups
from underhood.train.optim import Optimizer, Together


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer; each takes the fields that its ``__init__`` names."""

    kind: str = part("underhood.train.optim", "AdamW")  # "underhood.train.optim_fast:AdamW" for speed
    lr: float = 1e-3  # the peak; about right for a width of 128, and falls as 1/width
    weight_decay: float = 0.1  # of matrices; GPT-3's
    beta1: float = 0.9  # the mean gradient looks back about 10 steps
    beta2: float = 0.95  # its square about 20: with 0.999 a spike is remembered for 1,000 steps (GPT-3's choice)
    eps: float = 1e-8  # far below √v̂ of any weight that learns
    momentum: float = 0.95  # SGD's and Muon's
    other_lr: float = 3e-3  # with Muon: AdamW's learning rate for what is not a matrix of a block

    def __post_init__(self) -> None:
        for field in ("lr", "weight_decay", "eps", "other_lr"):
            if not getattr(self, field) >= 0:
                raise ConfigError(f"found {getattr(self, field)}", where=f"optim.{field}", expected="zero or more")
        for field in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, field) < 1:
                raise ConfigError(f"found {getattr(self, field)}", where=f"optim.{field}", expected="from 0 up to, not including, 1")


def build_optimizer(parameters: Mapping[str, Tensor], config: OptimConfig) -> Optimizer | Together:
    """The optimizer that ``config`` names, over matrices with decay and vectors without. Muon takes the blocks' matrices and leaves the rest to AdamW."""
    kind = get_part(config, "kind")
    if not kind.matrices_only:
        return _build(kind, decay_groups(parameters, lr=config.lr, weight_decay=config.weight_decay), config)
    inner = {name: p for name, p in parameters.items() if p.ndim == 2 and "blocks." in name}
    rest = {name: p for name, p in parameters.items() if name not in inner}
    parts = []
    if inner:
        parts.append(_build(kind, [Group(parameters=inner, lr=config.lr, weight_decay=config.weight_decay)], config))
    if rest:
        adamw = load(f"{kind.__module__}:AdamW")
        parts.append(_build(adamw, decay_groups(rest, lr=config.other_lr, weight_decay=config.weight_decay), config))
    return Together(parts)


def _build(kind: Any, groups: Sequence[Group], config: OptimConfig) -> Optimizer:
    """``kind(groups, …)`` with the config's fields that it takes."""
    takes = inspect.signature(kind).parameters
    built: Optimizer = kind(groups, **{f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name in takes})
    return built
