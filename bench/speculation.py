"""Speculative decoding on the GPT-2-small shape: the same tokens in fewer passes, and what a pass with guesses costs.

    python bench/speculation.py [--quick] [--json]

One request of 32 random tokens, 192 new ones, greedy, through the engine with compiled kernels. Random weights write no text that a real draft could guess,
so the draft here knows the text and errs: a guess is right with probability α. What speculation gains at a given α does not depend on where the guesses
come from, as long as they cost nothing beside a pass, as a look into the text does. The α of real drafts on trained models stands in the records of project
14. Each row is a process of its own, both ways in turn, three times; the fastest of each counts; the tokens must be the same.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import machine
import torch
from inference import random_model
from serving import VOCABULARY

from underhood.infer.engine import Engine, EngineConfig
from underhood.infer.generation import Generation
from underhood.infer.lookup import Lookup
from underhood.infer.sample import SampleConfig
from underhood.infer.speculate import expected_tokens
from underhood.infer.writers import NoText
from underhood.kernels.decode import CompiledDecoder

PROMPT, NEW, ROUNDS = 32, 192, 3


class Knows(Lookup):
    """Guesses what will be written, each token with probability ``alpha``."""

    def __init__(self, whole: list[int], alpha: float) -> None:
        self.whole, self.alpha, self.draw = whole, alpha, random.Random(0)

    def guesses(self, text: Sequence[int], count: int) -> list[int]:
        return [t if self.draw.random() < self.alpha else (t + 1) % VOCABULARY for t in self.whole[len(text) : len(text) + count]]


def write(engine: Engine, prompt: tuple[int, ...], lookup: Lookup | None) -> tuple[list[int], float, int]:
    """The tokens, the seconds from the first to the last, and the passes that took."""
    choice = engine.submit(Generation(prompt=prompt, sample=SampleConfig(temperature=0, max_tokens=NEW)))[0]
    choice.lookup = lookup or choice.lookup
    engine.step()
    start, passes = time.perf_counter(), 0
    while engine.busy:
        engine.step()
        passes += 1
    return [info.id for piece in choice.pieces for info in piece.tokens], time.perf_counter() - start, passes


@torch.no_grad()
def measure(precision: str, threads: int, k: int, alpha: float) -> dict[str, Any]:
    """One row."""
    torch.set_num_threads(threads)
    model = random_model(precision)
    compiled = CompiledDecoder(model, "bfloat16" if precision == "bf16" else "float32")
    prompt = tuple(torch.randint(VOCABULARY, (PROMPT,), generator=torch.Generator().manual_seed(1)).tolist())
    engines = [Engine(model, NoText(VOCABULARY), EngineConfig(cache_mb=256, guesses=guesses, share_prefixes=False), compiled=compiled) for guesses in (0, k)]
    best = [float("inf")] * 2
    text, passes = write(engines[0], prompt, None)[0], 0
    for _ in range(ROUNDS):
        for way, engine in enumerate(engines):
            found, seconds, passes = write(engine, prompt, Knows([*prompt, *text], alpha) if way else None)
            assert found == text, "guesses changed the text"
            best[way] = min(best[way], seconds)
    row = {"precision": precision, "threads": threads, "k": k, "alpha": alpha, "plain": (NEW - 1) / best[0], "guessed": (NEW - 1) / best[1]}
    return row | {"tokens_per_pass": (NEW - 1) / passes, "expected": expected_tokens(alpha, k), "pass_cost": best[1] / passes / (best[0] / (NEW - 1))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one thread, fp32, four guesses, α = 0.8")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--precision", nargs="*", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--guesses", nargs="*", type=int, default=[3, 7])
    parser.add_argument("--alpha", nargs="*", type=float, default=[0.5, 0.7, 0.8, 0.9])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return 0
    if options.quick:
        options.threads, options.precision, options.guesses, options.alpha = [1], ["fp32"], [3], [0.8]
    print(machine.line("numba"))
    print(machine.quiet())
    print("threads      K    α   tokens a pass (formula)   a pass costs   tokens/s without   with   speed-up")
    for threads in options.threads:
        for precision in options.precision:
            for k in options.guesses:
                for alpha in options.alpha:
                    row = machine.isolated(__file__, threads, {"precision": precision, "threads": threads, "k": k, "alpha": alpha})
                    show(row, as_json=options.json)
    return 0


def show(row: dict[str, Any], *, as_json: bool) -> None:
    """Print one row."""
    if as_json:
        print(json.dumps(row), flush=True)
        return
    named = f"{row['threads']:7} {row['precision']} {row['k']} {row['alpha']:4.1f}"
    passes = f"{row['tokens_per_pass']:15.2f} ({row['expected']:.2f}) {row['pass_cost']:14.2f}"
    print(f"{named} {passes} {row['plain']:18.1f} {row['guessed']:6.1f} {row['guessed'] / row['plain']:8.2f} ×", flush=True)


if __name__ == "__main__":
    sys.exit(main())
