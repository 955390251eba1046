"""Reading four times further than trained: perplexity by position, facts found by length and depth, and what the rotation itself costs."""

import functools
from typing import Any

import torch
from torch import Tensor

from underhood.eval.needle import in_pieces, retrieval
from underhood.lab.baselines.long_context import LEDGER, SHORT, TIMES, LongConfig, longer, position_losses, trained_keeper, trained_reader
from underhood.lab.timing import best_of
from underhood.nn.gpt import GPT
from underhood.nn.rope import LateTurn, RopeConfig, ScaledRotary, Turn

SECONDS = 14  # about, on one thread
KINDS = {"plain": "default", "linear": "linear", "ntk": "ntk", "yarn": "yarn"}
DEPTHS = (0.1, 0.5, 0.9)
TOKENS, HEADS, WIDTH = 4096, 4, 64  # of the timed rotation: a text of 4,096 tokens, four heads of 64


def measure() -> dict[str, Any]:
    """Two models of seed 0, trained on 32 tokens and read at 128, once for each kind of extension; then times, with units in their names."""
    reader, keeper = trained_reader(LongConfig(), 0, lambda step, **figures: None)[0], trained_keeper(LongConfig(), 0)
    found: dict[str, Any] = {"trained_tokens": SHORT, "read_tokens": TIMES * SHORT}
    for name, kind in KINDS.items():
        config = LongConfig(extend=RopeConfig(kind=kind, factor=TIMES, original_context=SHORT))  # type: ignore[arg-type]
        found[f"{name}_perplexity"] = perplexities(longer(reader, config), config)
        found[f"{name}_found"] = found_by_place(longer(keeper, config))
    return found | {"rotation": rotation_costs()}


def perplexities(model: GPT, config: LongConfig) -> dict[str, float]:
    """exp of the mean loss in stretches of 16 positions: "from_33" is that of positions 33 to 48."""
    stretch = 16
    losses = torch.tensor(in_pieces(position_losses(model, config), TIMES * SHORT // stretch))
    return {f"from_{1 + stretch * i}": round(float(p), 2) for i, p in enumerate(losses.exp())}


def found_by_place(model: GPT, count: int = 64) -> dict[str, float]:
    """The share of facts found, one hidden among filler and one of four, by the text's length and the fact's depth in percent."""
    lengths = (SHORT, 2 * SHORT, TIMES * SHORT)
    result: dict[str, float] = {}
    for name, needles in (("one", 1), ("of_four", LEDGER.things)):
        grid = retrieval(model, LEDGER.needles, LEDGER.fill, lengths=lengths, depths=DEPTHS, needles=needles, count=count)
        result |= {f"{name}_T{length}_depth{round(100 * depth)}": round(share, 3) for (length, depth), share in grid.items()}
    return result


def rotation_costs() -> dict[str, float]:
    """Microseconds for one new token after 4,095 cached ones: its sines, its query and key; under dynamic scaling all keys anew; and copying the keys."""
    x, q = torch.zeros(1, 1, HEADS * WIDTH), torch.zeros(1, HEADS, 1, WIDTH)
    keys = torch.zeros(1, HEADS, TOKENS, WIDTH)
    found = {}
    for kind in ("yarn", "dynamic"):
        values: dict[str, Any] = {"kind": kind, "factor": TIMES, "original_context": TOKENS // TIMES}
        positions = ScaledRotary(TOKENS, HEADS * WIDTH, WIDTH, RopeConfig(**values))
        angles = functools.partial(positions.rotation, x, TOKENS - 1)
        found[f"{kind}_angles_us"] = micros(best_of(angles))
        found[f"{kind}_turns_us"] = micros(best_of(functools.partial(turn_all, angles(), q, keys)))
    return found | {"copy_keys_us": micros(best_of(keys.clone)), "keys_mib": keys.numel() * 4 / 2**20}


def turn_all(turn: Turn | LateTurn, q: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """A new query, and its key or, where turning is late, all ``keys``."""
    return turn(q), turn.keys(keys) if isinstance(turn, LateTurn) else turn(q)


def micros(seconds: float) -> float:
    """Rounded microseconds."""
    return round(1e6 * seconds, 1)
