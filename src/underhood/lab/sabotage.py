"""A break, declared once: a patch of the healthy stack, what it should do in numbers, and the run that can show it.

From this one value come the lesson (its diff), the mutant (the checks must fail on it), the fingerprint, the disease and the record.
"""

import dataclasses
from typing import Literal

from underhood.base.errors import ConfigError
from underhood.lab.patch import Bind, Edit, Patch, Set


@dataclasses.dataclass(frozen=True)
class Rises:
    """``metric`` goes up by at least ``by`` (mean of paired differences, broken minus healthy)."""

    metric: str
    _: dataclasses.KW_ONLY
    by: float


@dataclasses.dataclass(frozen=True)
class Falls:
    """``metric`` goes down by at least ``by``."""

    metric: str
    _: dataclasses.KW_ONLY
    by: float


@dataclasses.dataclass(frozen=True)
class Stays:
    """``metric`` moves by no more than ``within`` either way: what makes a break silent."""

    metric: str
    _: dataclasses.KW_ONLY
    within: float


@dataclasses.dataclass(frozen=True)
class Violates:
    """An exact property (a metric that is True or False): it holds in the healthy arm and not in the broken one, for every seed."""

    metric: str


@dataclasses.dataclass(frozen=True)
class Keeps:
    """An exact property that holds in both arms for every seed: what a silent break leaves intact."""

    metric: str


@dataclasses.dataclass(frozen=True)
class Crashes:
    """Every broken arm ends with ``error`` (a class name, or ``"NonFinite"``) and no healthy one does."""

    error: str


Prediction = Rises | Falls | Stays | Violates | Keeps | Crashes


@dataclasses.dataclass(frozen=True)
class Above:
    """The threshold by which a probe tells a break by setting from healthy: broken above, healthy not, on every recorded seed."""

    metric: str
    threshold: float


@dataclasses.dataclass(frozen=True)
class Below:
    """As ``Above``, the other way round."""

    metric: str
    threshold: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """What somebody said in public about a break. Judged only under its source's conditions.

    ``expect`` with ``baseline`` are those conditions; without them ``untested`` says why it is *not tested here*.
    """

    says: str
    source: str
    baseline: str | None = None
    expect: tuple[Prediction, ...] = ()
    untested: str = ""

    def __post_init__(self) -> None:
        if bool(self.expect) == bool(self.untested) or bool(self.expect) != bool(self.baseline):
            raise ConfigError("a claim has either a baseline with predictions or the reason why it is not tested", where=self.says)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sabotage:
    """One break of one project.

    ``part``: an implementation that violates its contract; at least one check fails on it (the kill matrix).
    ``setup``: a correct part used badly; ``probe`` tells it from healthy on every recorded seed.
    """

    name: str  # snake_case; the break is called "project.name" everywhere
    says: str  # one sentence in plain words: what is done to the healthy code
    kind: Literal["part", "setup"]
    patch: Patch | tuple[Patch, ...]
    baseline: str  # "file.name" under underhood.lab.baselines
    expect: tuple[Prediction, ...]  # made before the recorded run
    look: str  # what one would see: in the text, the curve, the error
    silent: bool = False  # nothing crashes, shapes agree, and the training loss looks healthy or better
    probe: Above | Below | None = None
    claim: Claim | None = None
    cites: tuple[str, ...] = ()  # public incidents: issue, fix, post-mortem

    def __post_init__(self) -> None:
        if not self.expect:
            raise ConfigError("a break needs at least one prediction", where=self.name)
        if self.kind == "setup" and self.probe is None:
            raise ConfigError("a break by setup needs the probe that sees it", where=self.name)
        if not self.name.isidentifier():
            raise ConfigError("the name is not snake_case", where=self.name)

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The patches, always as a tuple."""
        return self.patch if isinstance(self.patch, tuple) else (self.patch,)


__all__ = ["Above", "Below", "Bind", "Claim", "Crashes", "Edit", "Falls", "Keeps", "Prediction", "Rises", "Sabotage", "Set", "Stays", "Violates"]
