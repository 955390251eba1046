"""Time to validation loss 1.88 on the characters of Shakespeare: our recipe beside the plain one, on this machine.

    UNDERHOOD_DATA=FOLDER python bench/shakespeare.py [--seeds 5] [--threads 1] [--ablate] [--pace] [--quick]

The yardstick is the plain recipe's 2,000 steps: 4 layers, 4 heads, width 128, 12 windows of 64, AdamW 1e-3 → 1e-4 by a cosine, 100 steps of warm-up, run in
the plain loop of ``bench/training.py`` (torch's modules and optimizer) and, to tell the engine from the recipe, in ours. It is held against
``underhood.train.recipes.speedrun``, an ordinary config. Every run is a process of its own.

Validation is the same for all: the mean over 40 batches of 64 random windows of 64 characters from the last tenth of the text, always the same windows.
It is timed apart: ``seconds`` are those of the training steps, batches included; ``quiet`` is the lower quartile of a step times the steps, which other
work on the machine moves little; ``check`` is what one validation takes. ``--ablate`` takes the recipe's ingredients away one at a time, at the same number
of steps.
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import machine
import numpy as np
import torch
import training
from torch import Tensor, nn

from underhood.base.config import from_plain, override, to_plain
from underhood.data.corpora import load_corpus
from underhood.data.sampler import Batches, RandomSampler, ShuffledSampler
from underhood.nn.fast import fast
from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.text.chars import CharTokenizer
from underhood.train.loop import TrainConfig, Trainer
from underhood.train.optim_config import OptimConfig
from underhood.train.recipes import RunConfig, speedrun
from underhood.train.schedule import ScheduleConfig
from underhood.train.validate import validation_loss

TARGET = 1.88
CONTEXT, CHECK_WINDOWS, CHECK_BATCHES = 64, 64, 40
ADAMW = "underhood.train.optim_fast:AdamW"


def plain_recipe() -> RunConfig:
    """What a good tutorial does."""
    optim = OptimConfig(kind=ADAMW, lr=1e-3, weight_decay=0.1)
    train = TrainConfig(steps=2000, optim=optim, schedule=ScheduleConfig(shape="warmup_cosine", warmup=100, floor=0.1))
    return RunConfig(data="shakespeare", tokenizer="chars", batch_size=12, model=fast(GPTConfig(vocab_size=65, context=CONTEXT)), train=train)


ABLATIONS: dict[str, dict[str, Any]] = {
    "Muon (AdamW at its own best rate)": {"train.optim.kind": ADAMW, "train.optim.lr": 6e-3},
    "four minimax rounds in Muon (Jordan's five)": {"train.optim.kind": "underhood.train.optim_fast:Muon"},
    "rotary positions (learned)": {"model.positions": "Learned"},
    "QK norm": {"model.qk_norm": False},
    "squared ReLU (GELU)": {"model.activation": "underhood.nn.fast:gelu_tanh"},
    "branches start at zero (scaled)": {"model.residual_init": "scaled"},
    "head of its own (tied)": {"model.tie": True},
    "gradients as they are (clipped to norm 1)": {"train.clip": 1.0},
    "straight decay to zero (cosine to a tenth)": {"train.schedule.shape": "warmup_cosine", "train.schedule.floor": 0.1},
}


def text() -> tuple[CharTokenizer, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The tokenizer, and the ids of the first nine tenths and of the last."""
    corpus = load_corpus("shakespeare")
    tokenizer = CharTokenizer.train("".join(corpus.train + corpus.val))
    train, val = (np.array(tokenizer.encode("".join(part)), dtype=np.uint16) for part in (corpus.train, corpus.val))
    return tokenizer, train, val


def check_batches(val: np.ndarray[Any, Any]) -> Iterable[tuple[Tensor, Tensor]]:
    """The validation windows, the same for every run."""
    batches = Batches(val, RandomSampler(len(val), CONTEXT, CHECK_WINDOWS, seed=0), CONTEXT)
    return (batches.next() for _ in range(CHECK_BATCHES))


def ours(recipe: RunConfig, batches: Batches, seed: int) -> tuple[nn.Module, Callable[[int], None]]:
    """The recipe in our trainer: the model, and what makes step i."""
    model = build_gpt(recipe.model, seed)
    trainer = Trainer(model, recipe.train, batches)
    return model, lambda i: trainer.step() and None


def plain_loop(recipe: RunConfig, batches: Batches, seed: int) -> tuple[nn.Module, Callable[[int], None]]:
    """The plain recipe in the plain loop."""
    torch.manual_seed(seed)
    model, train = training.PlainGPT(recipe.model), recipe.train
    optimizer = training.torch_adamw(model)

    def step(i: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = train.optim.lr * train.schedule.share(i, train.steps)
        loss = model.loss(*batches.next())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return model, step


def run(recipe: Mapping[str, Any], engine: str, seed: int, threads: int) -> dict[str, Any]:
    """One run: its loss at the end, the seconds of its steps, those of one validation, its memory."""
    torch.set_num_threads(threads)
    config = from_plain(RunConfig, recipe)
    tokenizer, train, val = text()
    assert tokenizer.vocab_size == config.model.vocab_size
    sampler = ShuffledSampler(len(train), config.model.context, config.batch_size, seed)
    model, step = {"underhood": ours, "plain loop": plain_loop}[engine](config, Batches(train, sampler, config.model.context), seed)
    ends = [time.perf_counter()]
    for i in range(config.train.steps):
        step(i)
        ends.append(time.perf_counter())
    start = time.perf_counter()
    loss = validation_loss(model, check_batches(val))
    check = time.perf_counter() - start
    quiet = float(np.quantile(np.diff(ends), 0.25)) * config.train.steps
    times = {"seconds": ends[-1] - ends[0], "quiet": quiet, "check": check}
    return {"loss": loss, **times, "mb": machine.peak_memory_mb(), "peak": machine.matmul(torch.float32, 3)}


def arm(name: str, recipe: RunConfig, engine: str, seeds: Iterable[int], threads: int) -> list[dict[str, Any]]:
    """The recipe over the seeds, printed as one row and returned."""
    rows = [machine.isolated(__file__, threads, {"recipe": to_plain(recipe), "engine": engine, "seed": s, "threads": threads}) for s in seeds]
    losses, seconds = [r["loss"] for r in rows], [r["seconds"] for r in rows]
    steps = recipe.train.steps
    quiet = statistics.median(r["quiet"] for r in rows)
    numbers = f"{steps:6} {statistics.median(seconds):9.2f} {quiet:6.2f} {quiet / steps * 1e3:8.1f} {rows[0]['check']:6.2f}"
    spread = f"{min(losses):.3f} … {max(losses):.3f}" if len(losses) > 1 else ""
    reached = sum(loss <= TARGET for loss in losses)
    print(f"{name:50} {numbers} {statistics.mean(losses):7.4f} {spread:15} {reached}/{len(losses)} {rows[0]['mb']:6.0f} {rows[0]['peak']:6.0f}", flush=True)
    return rows


def compare(seeds: int, threads: int) -> None:
    """The plain recipe in both engines, and ours."""
    plain, best = plain_recipe(), speedrun()
    yardstick = arm("plain recipe, plain loop", plain, "plain loop", [0], threads)[0]
    mine = arm("speedrun, underhood", best, "underhood", range(seeds), threads)
    engine = arm("plain recipe, underhood", plain, "underhood", [0], threads)[0]
    for time_ in ("seconds", "quiet"):
        middle = statistics.median(row[time_] for row in mine)
        shares = f"the engine {yardstick[time_] / engine[time_]:.2f} ×, the recipe {engine[time_] / middle:.2f} ×"
        print(f"{time_}: speedrun takes 1/{yardstick[time_] / middle:.1f} of the plain recipe's time: {shares}")


def ablate(seeds: int, threads: int) -> None:
    """Each ingredient's share. What its loss costs is turned into time by how fast the whole recipe's loss falls with more steps."""
    best = speedrun()
    longer = override(best, {"train.steps": best.train.steps * 3 // 2})
    whole = arm("the whole recipe", best, "underhood", range(seeds), threads)
    more = arm("the whole recipe, half as long again", longer, "underhood", range(seeds), threads)
    slope = (mean(whole, "loss") - mean(more, "loss")) / math.log(1.5)  # nats per e-fold of steps
    for name, changes in ABLATIONS.items():
        changed = override(best, changes)
        rows = arm(f"without {name}", dataclasses.replace(changed, model=fast(changed.model)), "underhood", range(seeds), threads)
        steps = math.exp((mean(rows, "loss") - mean(whole, "loss")) / slope)
        pace = mean(rows, "quiet") / mean(whole, "quiet")
        print(f"{'':50} steps × {steps:.2f}, seconds a step × {pace:.2f}: time × {steps * pace:.2f}")


def pace(threads: int, seconds: float = 60) -> dict[str, float]:
    """Seconds that each whole run takes, from steps of all of them in turn in this one process, so that other work disturbs them alike."""
    torch.set_num_threads(threads)
    _, train, _ = text()
    plain, best = plain_recipe(), speedrun()
    runs = {"plain recipe, plain loop": (plain, plain_loop), "plain recipe, underhood": (plain, ours), "speedrun, underhood": (best, ours)}
    steps: dict[str, Callable[[int], None]] = {}
    for name, (recipe, engine) in runs.items():
        sampler = ShuffledSampler(len(train), CONTEXT, recipe.batch_size, 0)
        steps[name] = engine(recipe, Batches(train, sampler, CONTEXT), 0)[1]
    times: dict[str, list[float]] = {name: [] for name in runs}
    end, i = time.perf_counter() + seconds, 0
    while time.perf_counter() < end and i < best.train.steps:
        for name, step in steps.items():
            for j in range(i, i + 5):
                start = time.perf_counter()
                step(j)
                times[name].append(time.perf_counter() - start)
        i += 5
    return {name: float(np.quantile(found, 0.25)) * runs[name][0].train.steps for name, found in times.items()}


def show_pace(threads: int) -> None:
    """The table of ``pace``."""
    rows = machine.isolated(__file__, threads, {"threads": threads})
    for name, seconds in rows.items():
        print(f"{name:50} {seconds:8.2f} s   1/{rows['plain recipe, plain loop'] / seconds:.2f}")


def mean(rows: list[dict[str, Any]], field: str) -> float:
    """The mean of a field."""
    return statistics.mean(row[field] for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ablate", action="store_true", help="take the ingredients away one at a time")
    parser.add_argument("--pace", action="store_true", help="only how long the runs take, their steps in turn, for a machine that is not quiet")
    parser.add_argument("--quick", action="store_true", help="our recipe with one seed only")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        job = json.loads(options.one)
        print(json.dumps(run(**job) if "recipe" in job else pace(**job)))
        return 0
    print(machine.line(), f"{options.threads} threads", sep="; ")
    print(machine.quiet())
    if options.pace:
        show_pace(options.threads)
        return 0
    columns = f"{'steps':>6} {'seconds':>9} {'quiet':>6} {'ms/step':>8} {'check':>6} {'loss':>7} {'over seeds':15} {f'≤{TARGET}':4} {'MB':>6} {'GFLOP/s':>6}"
    print(f"{'':50} {columns}")
    if options.quick:
        arm("speedrun, underhood", speedrun(), "underhood", [0], options.threads)
    elif options.ablate:
        ablate(options.seeds, options.threads)
    else:
        compare(options.seeds, options.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
