"""Learning-rate schedules: what share of the peak learning rate a step gets. Functions of the step alone, so there is nothing to save.

Step 0 is the first update. During ``warmup`` steps the share rises linearly to one; what follows is the shape's name. All end at ``floor``.
"""

import dataclasses
import math

from underhood.base.config import get_part, part
from underhood.base.errors import ConfigError


def constant(step: int, *, warmup: int, steps: int, floor: float = 0.0) -> float:
    """One after the warm-up; ``floor`` is not used."""
    return warm(step, warmup)


def warmup_cosine(step: int, *, warmup: int, steps: int, floor: float = 0.1) -> float:
    """The share for ``step``: linear warm-up, then half a cosine from 1 down to ``floor``, reached at ``steps`` and kept after it (Loshchilov & Hutter 2017).

    How: share (step + 1) / warmup while step < warmup, so that the first update is not zero; then floor + (1 − floor)·(1 + cos πx)/2 with x from 0 to 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    x = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * x)) / 2


def warmup_linear(step: int, *, warmup: int, steps: int, floor: float = 0.0) -> float:
    """Warm-up, then a straight line from 1 to ``floor`` at ``steps``."""
    x = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
    return warm(step, warmup) if step < warmup else 1 - (1 - floor) * x


def warmup_stable_decay(step: int, *, warmup: int, steps: int, floor: float = 0.0) -> float:
    """WSD (Hu et al. 2024): warm-up, a plateau, and a straight line to ``floor`` over the last fifth: the plateau can be continued from any checkpoint."""
    decay = max(1, round(steps / 5))
    return min(warm(step, warmup), max(floor, 1 - (1 - floor) * max(0, step - (steps - decay)) / decay))


def warm(step: int, warmup: int) -> float:
    """The linear rise to one: 1/warmup at step 0."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The shape of the learning rate over a run."""

    shape: str = part("underhood.train.schedule", "warmup_cosine")  # the plain choice since GPT-3
    warmup: int = 100  # Adam's second moment is a guess at first: about 1/(1−β₂) steps until it is not
    floor: float = 0.1  # of the peak: GPT-3's and Chinchilla's end

    def __post_init__(self) -> None:
        if self.warmup < 0 or not 0 <= self.floor <= 1:
            raise ConfigError(f"warmup {self.warmup}, floor {self.floor}", where="schedule", expected="warmup ≥ 0 steps and floor between 0 and 1")

    def share(self, step: int, steps: int) -> float:
        """The share of the peak learning rate that ``step`` of ``steps`` gets."""
        found: float = get_part(self, "shape")(step, warmup=self.warmup, steps=steps, floor=self.floor)
        return found
