"""Rotary positions beyond the length that a model was trained on.

A rotation by position · f turns each pair of numbers with its own frequency f. Positions that training never reached give angles it never saw. Four ways out:

- ``interpolated``: every frequency is divided by the factor of extension, so that the new positions fall between the old
  (Chen et al. 2023, arXiv 2306.15595, eq. 4);
- ``ntk``: the base grows instead, which divides the slowest frequency by the factor and leaves the fastest alone (bloc97 2023, "NTK-aware"; Peng et al.
  2023, arXiv 2309.00071v2, §3.1); ``dynamic`` does so by the length at hand (§3.3);
- ``llama3``: long waves are interpolated, short ones kept, those between mixed (Llama 3.1's published configuration);
- ``yarn``: the same with a line over the pairs, and scores made sharper by a temperature (Peng et al. 2023, §3.2–3.4).
"""

import dataclasses
import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from underhood.base.errors import ConfigError
from underhood.nn.positions import Positions, frequencies, rotate

Frequencies = Float[Tensor, "half"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """How fast each pair of numbers turns. Names are those of the published configurations."""

    kind: Literal["default", "linear", "ntk", "dynamic", "llama3", "yarn"] = "default"
    base: float = 10_000.0
    factor: float = 1.0  # of extension: the new context divided by the trained one
    original_context: int | None = None  # the trained one; needed by dynamic, llama3 and yarn
    low_freq_factor: float = 1.0  # llama3: waves longer than original_context / this are interpolated
    high_freq_factor: float = 4.0  # llama3: waves shorter than original_context / this are kept
    beta_fast: float = 32.0  # yarn: pairs that turn more often than this within original_context are kept
    beta_slow: float = 1.0  # yarn: pairs that turn less often than this are interpolated
    attention_factor: float | None = None  # yarn: multiplies sines and cosines; none: 0.1 ln(factor) + 1
    truncate: bool = True  # yarn: the bounds are whole pairs

    def __post_init__(self) -> None:
        for field in ("base", "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor"):
            if getattr(self, field) is not None and not 0 < getattr(self, field) < math.inf:
                raise ConfigError(f"found {getattr(self, field)}", where=f"rope.{field}", expected="more than 0, and finite")
        if self.factor < 1:
            raise ConfigError(f"found {self.factor}", where="rope.factor", expected="at least 1")
        if self.kind in ("dynamic", "llama3", "yarn") and not (self.original_context and self.original_context > 0):
            raise ConfigError(f"found {self.original_context}", where="rope.original_context", expected=f"the trained context, for {self.kind}")
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ConfigError(f"found {self.high_freq_factor}", where="rope.high_freq_factor", expected=f"more than low_freq_factor, {self.low_freq_factor}")


def interpolated(f: Frequencies, factor: float) -> Frequencies:
    """Every frequency divided by ``factor``: position p·factor turns as p did (Chen et al. 2023, eq. 4). ``f`` is left as it is."""
    return f / factor


def ntk_base(base: float, factor: float, width: int) -> float:
    """The base with which the slowest of ``width`` / 2 frequencies is divided by ``factor`` and the fastest stays 1 (Peng et al. 2023, eq. 16).

    How: the slowest is base^(-(width - 2) / width). One pair alone (width 2) turns by 1 whatever the base, so its base stays.
    """
    return base * factor ** (width / (width - 2)) if width > 2 else base


def dynamic_factor(factor: float, length: int, original: int) -> float:
    """The factor for ``ntk_base`` at ``length`` tokens: 1 up to the ``original`` context, then growing with it, as transformers has it.

    How: factor · length / original - (factor - 1), and never below 1.
    """
    return max(1.0, factor * length / original - (factor - 1))


def kept_by_wavelength(f: Frequencies, rope: RopeConfig) -> Frequencies:
    """Llama 3: how much of each frequency is kept: 1 for short waves, 0 for long ones, a line between in original_context / wavelength.

    How: count the waves, original_context · f / 2π; the line runs from 0 at ``low_freq_factor`` of them to 1 at ``high_freq_factor``.
    """
    assert rope.original_context is not None
    waves = rope.original_context * f / (2 * math.pi)  # how many of them fit in the trained context
    return ((waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)


def kept_by_turns(width: int, rope: RopeConfig) -> Frequencies:
    """YaRN: how much of each frequency is kept: 1 up to the pair that turns ``beta_fast`` times in the trained context, 0 from ``beta_slow``, a line between.

    How: pair i of base b turns L·b^(-2i/D) / 2π times in L positions; solve for i at both bounds (Peng et al. 2023, §3.2; the line over i is that of the
    authors' code). With ``truncate`` the first bound is rounded down and the second up; both lie within 0 … width - 1; where they are equal, 0.001 is the
    length of the line.
    """
    assert rope.original_context is not None
    low, high = (width * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.base)) for turns in (rope.beta_fast, rope.beta_slow))
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    ramp = (torch.arange(width // 2, dtype=torch.float64) - low) / (high - low if high != low else 0.001)
    return 1 - ramp.clamp(0, 1)


def yarn_factor(factor: float) -> float:
    """√(1/t) = 0.1 ln(factor) + 1: what queries and keys are each multiplied with, so that scores grow *sharper* (Peng et al. 2023, eq. 22)."""
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def scaled_frequencies(width: int, rope: RopeConfig, length: int) -> Frequencies:
    """The ``width`` / 2 frequencies in radians per position (float64) for a text of ``length`` tokens; only ``dynamic`` asks for the length.

    How: ``ntk`` and ``dynamic`` take another base, ``linear`` divides all, ``llama3`` and ``yarn`` mix: kept · f + (1 - kept) · f / factor.
    """
    if rope.kind == "ntk":
        return frequencies(width, ntk_base(rope.base, rope.factor, width))
    if rope.kind == "dynamic":
        assert rope.original_context is not None
        return frequencies(width, ntk_base(rope.base, dynamic_factor(rope.factor, length, rope.original_context), width))
    f = frequencies(width, rope.base)
    slow = interpolated(f, rope.factor)
    if rope.kind == "linear":
        return slow
    if rope.kind in ("llama3", "yarn"):
        keep = kept_by_wavelength(f, rope) if rope.kind == "llama3" else kept_by_turns(width, rope)
        return keep * f + (1 - keep) * slow
    return f


class Turn:
    """The rotation of queries or keys (… T D) by the sines and cosines of their positions (T D/2)."""

    def __init__(self, cos: Float[Tensor, "... T half"], sin: Float[Tensor, "... T half"]) -> None:
        self.cos, self.sin = cos, sin

    def __call__(self, x: Float[Tensor, "... T D"]) -> Float[Tensor, "... T D"]:
        """``x`` turned."""
        return rotate(x, self.cos, self.sin)


class LateTurn:
    """A rotation that changes with the length: keys are cached unturned, and all of them are turned anew at every step (``keys``).

    Called, it turns what is new, as a ``Turn`` does; ``keys`` is the ``Turn`` for all keys from the text's beginning.
    """

    def __init__(self, cos: Float[Tensor, "... T half"], sin: Float[Tensor, "... T half"], keys: Turn) -> None:
        self.cos, self.sin, self.keys = cos, sin, keys

    def __call__(self, x: Float[Tensor, "... T D"]) -> Float[Tensor, "... T D"]:
        """``x``, which is new, turned."""
        return rotate(x, self.cos, self.sin)


class ScaledRotary(Positions):
    """Rotary positions with another base, or beyond the trained length. Nothing is stored: the angles come from the config, in float64.

    Raises ``ConfigError`` for an odd head width. Without ``dynamic`` the turn of a position never changes, and keys are cached turned.
    """

    def __init__(self, context: int, width: int, head_width: int, rope: RopeConfig) -> None:
        super().__init__(context, width, head_width)
        if head_width % 2:
            raise ConfigError(f"a head of {head_width} numbers has no pairs to rotate", where="positions", expected="an even head width")
        self.head_width, self.rope = head_width, rope

    def rotation(self, x: Float[Tensor, "B T C"], start: int = 0) -> Turn | LateTurn:
        """The rotation for positions start … start+T-1; a ``LateTurn`` where the length changes it."""
        end = start + x.shape[1]
        turn = self.turn(torch.arange(start, end), end, x)
        if self.rope.kind != "dynamic":
            return turn
        return LateTurn(turn.cos, turn.sin, self.turn(torch.arange(end), end, x))

    def turn(self, at: Int[Tensor, "... T"], length: int, like: Tensor) -> Turn:
        """The rotation for the positions ``at`` in a text of ``length`` tokens, in the dtype and on the device of ``like``.

        How: position · frequency in float64; sines and cosines times ``attention_factor``; only then rounded.
        """
        angles = at.cpu().double().unsqueeze(-1) * scaled_frequencies(self.head_width, self.rope, length)
        sharper = self.attention_factor
        return Turn((angles.cos() * sharper).to(like), (angles.sin() * sharper).to(like))

    @property
    def attention_factor(self) -> float:
        """What sines and cosines are multiplied with: 1, or YaRN's."""
        if self.rope.kind != "yarn":
            return 1.0
        return yarn_factor(self.rope.factor) if self.rope.attention_factor is None else self.rope.attention_factor
