"""What speculation gains on this machine: tokens a pass beside the formula, and time where the draft costs a fifth of the model or less.

Times are the processor's own for this process: on one thread that is the clock, without what else the machine does.
"""

import dataclasses
import time
from typing import Any

import torch

from underhood.infer.sample import SampleConfig, generate
from underhood.infer.speculate import Draft, ModelDraft, NGramDraft, Tally, expected_speedup, expected_tokens, speculate
from underhood.lab.baselines.gpt import Curve, windows
from underhood.lab.baselines.speculative import CHARACTERS, CONTEXT, SHORT, SMALLER, TalesConfig, letters, trained
from underhood.nn.gpt import GPT, build_gpt
from underhood.nn.llama import llama

SECONDS = 40  # about, on one thread: a model of twelve blocks is trained
LARGE = llama(vocab_size=CHARACTERS, context=CONTEXT, n_layer=12, n_head=4, width=64, init="fan_in")  # deep, since a small pass costs its layers, not its width
GUESSES = (1, 2, 4, 6, 8)
WRITTEN, PROMPT, PROMPTS = 64, 24, 6


def measure(steps: int = 120) -> dict[str, Any]:
    """Twelve blocks and a draft of one, both trained on characters of tales; temperature 1, six texts of 64 letters a line."""
    config = TalesConfig(train=dataclasses.replace(SHORT, steps=steps))
    target, draft = (trained(c, config, letters().train, 0, Curve()) for c in (LARGE, SMALLER))
    starts = [row[:PROMPT].tolist() for row in windows(letters().val, CONTEXT, PROMPTS)[0][0]]
    one, other = pass_ms(target), pass_ms(draft)
    plain = seconds_plain(target, starts)
    by_k = {f"k={k}": with_guesses(target, ModelDraft(draft, SampleConfig()), starts, k, other / one, plain) for k in GUESSES}
    return {
        "model_pass_ms": round(one, 3),
        "draft_pass_ms": round(other, 3),
        "draft_cost": round(other / one, 3),
        "five_positions_ms": round(pass_ms(target, 5), 3),
        "plain_ms_per_token": round(1e3 * plain / (WRITTEN * PROMPTS), 3),
        **by_k,
        "repetitive": repetitive(),
    }


def pass_ms(model: GPT, positions: int = 1) -> float:
    """One pass over so many positions, nothing cached."""
    ids = torch.zeros(1, positions, dtype=torch.long)
    times = list[float]()
    with torch.no_grad():
        for _ in range(60):
            start = time.process_time()
            model.logits(model.hidden(ids))
            times.append(time.process_time() - start)
    return 1e3 * min(times)


def seconds_plain(model: GPT, starts: list[list[int]]) -> float:
    """Plain generation of all texts."""
    sample, start = SampleConfig(max_tokens=WRITTEN), time.process_time()
    for ids in starts:
        list(generate(model, ids, sample, torch.Generator().manual_seed(0)))
    return time.process_time() - start


def with_guesses(model: GPT, draft: Draft, starts: list[list[int]], k: int, cost: float, plain: float) -> dict[str, float]:
    """Measured beside both formulas."""
    sample, tally, start = SampleConfig(max_tokens=WRITTEN), Tally(), time.process_time()
    for ids in starts:
        list(speculate(model, draft, ids, sample, torch.Generator().manual_seed(0), k=k, tally=tally))
    seconds, alpha = time.process_time() - start, tally.acceptance
    return {
        "alpha": round(alpha, 3),
        "tokens_per_pass": round(tally.tokens_per_pass, 3),
        "formula_tokens_per_pass": round(expected_tokens(alpha, k), 3),
        "speedup": round(plain / seconds, 3),
        "formula_speedup": round(expected_speedup(alpha, k, cost), 3),
    }


def repetitive() -> dict[str, float]:
    """A model of random weights soon repeats itself when it takes the likeliest token: the best that an n-gram draft can hope for."""
    model, tally, greedy = build_gpt(SMALLER, 0).eval(), Tally(), SampleConfig(temperature=0, max_tokens=WRITTEN)
    for i in range(PROMPTS):
        list(speculate(model, NGramDraft(CHARACTERS), [i, i + 1], greedy, torch.Generator(), k=4, tally=tally))
    return {
        "ngram_alpha": round(tally.acceptance, 3),
        "ngram_tokens_per_pass": round(tally.tokens_per_pass, 3),
        "formula_tokens_per_pass": round(expected_tokens(tally.acceptance, 4), 3),
    }
