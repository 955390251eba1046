"""How fast the lab breaks things: arms and breaks per minute, side by side on single threads and one after another on two.

    python bench/lab.py [--project attention] [--baseline attention.one_head] [--breaks 3] [--seeds 1] [--json]

The work is the same both times: the baseline's first breaks and the healthy arm that they are held against, each over the seeds. ``side by side`` is what the
lab does (``underhood.lab.run``): one process a core, each on one thread. ``one after another`` gives each arm every core, as a plain script would.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import machine

from underhood.base.config import from_plain, to_plain
from underhood.lab import baseline as baselines
from underhood.lab import patch as patches
from underhood.lab.experiment import plan
from underhood.lab.run import ArmStore, Job, run_jobs


def jobs_of(project: str, baseline: str, breaks: int, seeds: int) -> list[Job]:
    """The healthy job and those of the first ``breaks`` breaks of ``baseline``."""
    found = [s for s in import_module(f"underhood.projects.{project}.breaks").BREAKS if s.baseline == baseline]
    return plan([(s.name, s) for s in found[:breaks]], range(seeds), claims=False)


def side_by_side(jobs: list[Job]) -> float:
    """Seconds that the lab takes, from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        arms = run_jobs(jobs, ArmStore(Path(folder) / "arms.jsonl"))
        seconds = time.perf_counter() - start
    assert len(arms) == sum(len(job.seeds) for job in jobs)
    return seconds


def one_after_another(jobs: list[Job]) -> tuple[float, float]:
    """Seconds of the same arms, a process a job with every core; and the largest memory of one in MB."""
    start, memory = time.perf_counter(), 0.0
    for job in jobs:
        work = {"baseline": job.baseline.name, "config": to_plain(job.baseline.config), "patches": [patches.to_plain(p) for p in job.patches]}
        memory = max(memory, machine.isolated(__file__, os.cpu_count() or 1, {**work, "seeds": list(job.seeds)})["mb"])
    return time.perf_counter() - start, memory


def run(baseline: str, config: dict[str, Any], patches_: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
    """One job in this process, on as many threads as torch likes."""
    found, patched = baselines.get(baseline), [patches.from_plain(p) for p in patches_]
    with patches.applied(patched):
        for seed in seeds:
            found.run(patches.configure(from_plain(type(found.config), config), patched), seed, lambda step, **figures: None)
    return {"mb": machine.peak_memory_mb()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default="attention")
    parser.add_argument("--baseline", default="attention.one_head")
    parser.add_argument("--breaks", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        work = json.loads(options.one)
        print(json.dumps(run(work["baseline"], work["config"], work["patches"], work["seeds"])))
        return 0
    note = machine.quiet()
    jobs = jobs_of(options.project, options.baseline, options.breaks, options.seeds)
    arms, broken = sum(len(job.seeds) for job in jobs), len(jobs) - 1
    ours = side_by_side(jobs)
    theirs, memory = one_after_another(jobs)
    rows = {"side by side, one thread each": ours, f"one after another, {os.cpu_count()} threads": theirs}
    if options.json:
        print(json.dumps({"machine": machine.line(), "note": note, "arms": arms, "breaks": broken, "seconds": rows, "mb": memory}))
        return 0
    print(machine.line())
    print(note, end="\n" if note else "")
    print(f"{options.baseline}: {broken} breaks and the healthy arm over {options.seeds} seed(s), {arms} arms; at most {memory:.0f} MB each")
    for name, seconds in rows.items():
        print(
            f"{name:34} {seconds:7.1f} s   {60 * arms / seconds:6.1f} arms a minute   {60 * broken / seconds:6.1f} breaks a minute   {theirs / seconds:5.2f} ×"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
