"""What serving costs and what it gains: waits and throughput on a clock of steps, memory that holds nothing, and the µs that a step's bookkeeping takes."""

import dataclasses
import random
import time
from typing import Any

from underhood.infer.pages import BlockPool, PageTable, waste
from underhood.infer.request import Request, SchedulerConfig
from underhood.infer.scheduler import Scheduler
from underhood.lab.baselines.serving import CrowdConfig, crowd
from underhood.lab.timing import best_of

SECONDS = 5  # about, on one thread
CROWDS = 5
SHOWN = (
    "tokens_per_step",
    "steps",
    "first_p50",
    "first_p99",
    "polite_p99",
    "gap_p99",
    "texts_at_once",
    "cached_share",
    "waste",
    "preempted",
    "computed_per_token",
)
POLICIES: dict[str, dict[str, Any]] = {"continuous": {}, "static": {"policy": "static"}, "rows": {"rows": True}}
LENGTHS = (50, 100, 200, 400, 800)
SIZES = (4, 8, 16, 32, 64, 128)
STEPS, ROUNDS = 320, 5  # a text begins a block in every sixteenth step


def measure() -> dict[str, Any]:
    """Means over crowds of the project's baseline; waste by mean length and block size; µs of bookkeeping for a step in which N texts decode."""
    found: dict[str, Any] = {name: served(**change) for name, change in POLICIES.items()}
    found["continuous_over_static"] = round(found["continuous"]["tokens_per_step"] / found["static"]["tokens_per_step"], 2)
    found["waste_at_blocks_of_16"] = {f"mean_length={n}": round(wasted(n, 16), 4) for n in LENGTHS}
    found["waste_at_mean_length_400"] = {f"size={size}": round(wasted(400, size), 4) for size in SIZES}
    found["step_us"] = {f"N={n}": round(1e6 * step_seconds(n), 1) for n in (1, 8, 64)}
    found["step_us_per_text"] = round(found["step_us"]["N=64"] / 64, 2)
    found["lookup_us_per_block"] = round(1e6 * lookup_seconds() / 64, 2)
    return found


def served(**change: Any) -> dict[str, float]:
    """Figures of crowds under a policy, mean over seeds; waits are in steps."""
    runs = [crowd(dataclasses.replace(CrowdConfig(), **change), seed, lambda step, **figures: None) for seed in range(CROWDS)]
    return {name: round(sum(float(run[name]) for run in runs) / CROWDS, 4) for name in SHOWN}


def wasted(mean: int, size: int) -> float:
    """The share of allocated slots that hold no token: 300 texts, lengths uniform from a quarter of the mean to seven quarters."""
    rng = random.Random(0)
    lengths = [rng.randint(mean // 4, 2 * mean - mean // 4) for _ in range(300)]
    pool = BlockPool(sum(-(-n // size) for n in lengths), size)
    tables = [PageTable(pool) for _ in lengths]
    for table, n in zip(tables, lengths, strict=True):
        table.append_slots(n)
    return waste(tables)


def step_seconds(n: int) -> float:
    """One step of the scheduler, planned and taken in, while ``n`` texts of 200 tokens decode; no model."""
    scheduler = Scheduler(SchedulerConfig(context=100_000, tokens_per_step=512, max_running=n), BlockPool(200 * n, 16))
    for i in range(n):
        scheduler.add(Request([i] * 200, 2_000))
    while any(r.pending > 1 for r in scheduler.batch.running) or len(scheduler.batch.running) < n:
        step(scheduler)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(STEPS):
            step(scheduler)
        times.append((time.perf_counter() - start) / STEPS)
    assert len(scheduler.batch.running) == n, "a text has ended"
    return min(times)


def step(scheduler: Scheduler) -> None:
    """Plan, and take in a token for each text that is to have one."""
    plan = scheduler.step()
    scheduler.advance(plan, {request: [0] for request, span in plan.spans.items() if span.samples})


def lookup_seconds() -> float:
    """Finding 64 known blocks of 16 tokens."""
    pool, tokens = BlockPool(64, 16), list(range(1025))
    table = PageTable(pool)
    table.append_slots(1024)
    table.publish(tokens)
    return best_of(lambda: pool.index.match(tokens, 16))
