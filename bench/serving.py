"""Many requests at once on the GPT-2-small shape: our engine beside transformers' one by one, static batches and continuous batching.

    python bench/serving.py [--requests 16 64] [--quick] [--json]

All requests are there from the start. Prompts of 8 to 128 random tokens, 16 to 48 new ones, drawn once; greedy, no end token, fp32. Useful tokens/s is
the new tokens that were asked for ÷ the time to the last of them; what a static batch computes beyond a row's length is not useful. Times to the first
token and between tokens are per request, as it would see them. Every way is a process of its own with the same random weights; the engine's tokens are
compared with ours one by one (they may differ where two tokens are as likely within rounding: the share that is equal is printed).
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import machine
import torch
from inference import Transformers, random_model

from underhood.infer.engine import Engine, EngineConfig
from underhood.infer.generation import Generation, Piece
from underhood.infer.sample import SampleConfig
from underhood.infer.writers import NoText

STATIC_ROWS = 8
BLOCK = 16
VOCABULARY = 50257

Asked = list[tuple[list[int], int]]
Times = list[list[float]]  # of each request's tokens, in seconds from the start
Found = tuple[Times, list[list[int]], dict[str, Any]]  # times, tokens, and what else there is to say


def requests(count: int) -> Asked:
    """Prompts and how many tokens each wants."""
    draw = random.Random(7)
    return [([draw.randrange(VOCABULARY) for _ in range(draw.randrange(8, 129))], draw.randrange(16, 49)) for _ in range(count)]


def engine(asked: Asked, *, compiled: bool, policy: str = "continuous", running: int = 64, invariant: bool = False) -> Found:
    """Ours."""
    decoder = None
    model = random_model("fp32")
    if compiled:
        from underhood.kernels.decode import CompiledDecoder

        decoder = CompiledDecoder(model)
    config = EngineConfig(policy=policy, max_running=running, cache_mb=1024, batch_invariant=invariant)
    made = Engine(model, NoText(VOCABULARY), config, compiled=decoder)
    start = time.perf_counter()
    times: Times = [[] for _ in asked]

    def arrived(at: list[float]) -> Callable[[Piece], None]:
        return lambda piece: at.extend([time.perf_counter() - start] * len(piece.tokens))

    choices = [made.submit(Generation(prompt=tuple(p), sample=SampleConfig(temperature=0, max_tokens=n)))[0] for p, n in asked]
    for choice, at in zip(choices, times, strict=True):
        choice.on_piece = arrived(at)
    used, wasted, steps = 0.0, [], 0
    while made.busy:
        made.step()
        facts = made.statistics()
        used, steps = max(used, facts["blocks_used"]), steps + 1
        if facts["blocks_used"]:
            wasted.append(facts["waste"])
    block_mb = 2 * model.config.n_layer * model.config.width * BLOCK * 4 / 2**20
    extra = {"cache_mb": used * block_mb, "waste": statistics.fmean(wasted), "steps": steps, "preempted": made.statistics()["preempted"]}
    return times, [[t.id for piece in c.pieces for t in piece.tokens] for c in choices], extra


def one_by_one(asked: Asked) -> Found:
    """transformers, a request after the other."""
    theirs, times, tokens = Transformers("fp32"), list[list[float]](), list[list[int]]()
    start = time.perf_counter()
    for prompt, wanted in asked:
        row, at = [int(theirs.prefill(torch.tensor([prompt])).argmax())], [time.perf_counter() - start]
        while len(row) < wanted:
            row.append(int(theirs.step(torch.tensor(row[-1:])).argmax()))
            at.append(time.perf_counter() - start)
        times.append(at)
        tokens.append(row)
    return times, tokens, {}


def static(asked: Asked) -> Found:
    """transformers, eight at a time, padded on the left; each batch runs to its longest answer."""
    model, times, tokens = Transformers("fp32").model, list[list[float]](), list[list[int]]()
    start = time.perf_counter()
    for first in range(0, len(asked), STATIC_ROWS):
        group = asked[first : first + STATIC_ROWS]
        width, longest = max(len(p) for p, _ in group), max(n for _, n in group)
        ids = torch.tensor([[0] * (width - len(p)) + p for p, _ in group])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p, _ in group])
        stamps: list[float] = []
        rows = [[] for _ in group]  # type: ignore[var-annotated]
        past, at = None, (mask.cumsum(-1) - 1).clamp(min=0)
        for _ in range(longest):
            out = model(ids, attention_mask=mask, position_ids=at, past_key_values=past, use_cache=True, logits_to_keep=1)
            past, ids = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
            stamps.append(time.perf_counter() - start)
            for row, token in zip(rows, ids[:, 0].tolist(), strict=True):
                row.append(token)
            mask = torch.cat([mask, torch.ones(len(group), 1, dtype=mask.dtype)], dim=1)
            at = mask.sum(-1, keepdim=True) - 1
        times += [stamps[:n] for _, n in group]
        tokens += [row[:n] for row, (_, n) in zip(rows, group, strict=True)]
    return times, tokens, {}


def continuous(asked: Asked) -> Found:
    """transformers' continuous batching; it takes one length for all, so each request's answer is cut to what was asked."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = Transformers("fp32").model
    longest = max(n for _, n in asked)
    settings = GenerationConfig(max_new_tokens=longest, do_sample=False, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig(page_size=BLOCK, num_blocks=2048, max_batch_tokens=512)
    with model.continuous_batching_context_manager(generation_config=settings, continuous_batching_config=batching) as manager:
        start = time.perf_counter()
        names = [manager.add_request(p, max_new_tokens=n, record_timestamps=True) for p, n in asked]
        outputs = {}
        while len(outputs) < len(asked):
            found = manager.get_result(timeout=1)
            if found is not None and found.is_finished():
                outputs[found.request_id] = (time.perf_counter() - start, found)
    tokens = [list(outputs[name][1].generated_tokens) for name in names]
    return [[outputs[name][0]] * len(t) for name, t in zip(names, tokens, strict=True)], tokens, {"first": False}


WAYS: dict[str, Callable[[Asked], Found]] = {
    "underhood, compiled": lambda asked: engine(asked, compiled=True),
    "underhood, batch-invariant": lambda asked: engine(asked, compiled=True, invariant=True),
    "underhood, torch": lambda asked: engine(asked, compiled=False),
    "underhood, compiled, 8 at once": lambda asked: engine(asked, compiled=True, running=8),
    "underhood, compiled, static, 8 at once": lambda asked: engine(asked, compiled=True, policy="static", running=8),
    "transformers, one by one": one_by_one,
    "transformers, static batches of 8": static,
    "transformers, continuous": continuous,
}


@torch.no_grad()
def measure(who: str, threads: int, count: int) -> dict[str, Any]:
    """One row."""
    torch.set_num_threads(threads)
    asked = requests(count)
    WAYS[who](requests(2))  # warm
    times, tokens, extra = WAYS[who](asked)
    useful = sum(n for _, n in asked)
    gaps = [b - a for at in times for a, b in pairwise(at)]
    row = {"who": who, "threads": threads, "requests": count, "rate": useful / max(at[-1] for at in times), "tokens": tokens, **extra}
    if extra.get("first", True):
        row |= {"first_p50": middle([at[0] for at in times], 0.5), "first_p99": middle([at[0] for at in times], 0.99)}
        row |= {"gap_p50": middle(gaps, 0.5), "gap_p99": middle(gaps, 0.99)}
    return row


def middle(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of them lie."""
    return sorted(values)[int(share * (len(values) - 1))]


def show(row: dict[str, Any], first: dict[str, Any], *, as_json: bool) -> None:
    """Print one row."""
    same = statistics.fmean(float(a[: len(b)] == b[: len(a)]) for a, b in zip(row["tokens"], first["tokens"], strict=True))
    row = {k: v for k, v in row.items() if k != "tokens"} | {"equal": same}
    if as_json:
        print(json.dumps(row), flush=True)
        return
    shown = [f"{row['requests']:8} {row['threads']:7}  {row['who']:40} {row['rate']:9.1f}", f"{first['rate'] / row['rate']:8.2f} ×", f"{same:6.0%}"]
    times = [f"{row[k] * 1e3:9.0f}" if k in row else "        -" for k in ("first_p50", "first_p99", "gap_p50", "gap_p99")]
    memory = [f"{row['cache_mb']:9.0f}", f"{row['waste']:6.1%}"] if "cache_mb" in row else []
    print(" ".join([*shown, *times, *memory]), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", nargs="*", type=int, default=[16, 64])
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--who", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--quick", action="store_true", help="16 requests, one thread")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return 0
    if options.quick:
        options.requests, options.threads = [16], [1]
    print(machine.line("transformers", "numba"))
    print(machine.quiet())
    times = " ".join(f"{h:>9}" for h in ("first p50", "p99 ms", "gap p50", "p99 ms", "cache MB"))
    print(f"{'requests':>8} {'threads':>7}  {'':40} {'tokens/s':>9} {'ours is':>10} {'equal':>6} {times} {'waste':>6}")
    for threads in options.threads:
        for count in options.requests:
            found = [machine.isolated(__file__, threads, {"who": w, "threads": threads, "count": count}) for w in options.who]
            for row in found:
                show(row, found[0], as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
