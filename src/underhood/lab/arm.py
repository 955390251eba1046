"""One worker of an experiment: a fresh, single-threaded process that runs several seeds of one patch.

It reads a job (JSON) on standard input and writes one JSON event a line; ``underhood.lab.run`` starts it and listens.
A crash, a NaN or a hang here ends one arm, never the experiment.
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from underhood.base.config import from_plain
from underhood.lab import baseline as baselines
from underhood.lab import identity
from underhood.lab import patch as kinds
from underhood.lab.patch import Reached, applied, configure


def main() -> None:
    """Run the job that stands on standard input."""
    job, out = json.load(sys.stdin), sys.stdout
    sys.stdout = sys.stderr  # whatever a run prints must not mix with the events
    patches = [kinds.from_plain(p) for p in job["patches"]]
    baseline = baselines.get(job["baseline"])
    config = configure(from_plain(type(baseline.config), job["config"]), patches)
    with applied(patches) as reached:
        for seed in job["seeds"]:
            reached.ran.clear()
            run_arm(baseline, config, seed, reached, out)


def run_arm(baseline: baselines.Baseline, config: Any, seed: int, reached: Reached, out: TextIO) -> None:
    """Run one seed and send its events: ``start``, ``step`` …, ``end``."""
    one_thread()

    def send(event: str, **values: Any) -> None:
        print(json.dumps({"event": event, "seed": seed, **values}), file=out, flush=True)

    def watch(step: int, **figures: float) -> None:
        send("step", step=step, figures=_finite(figures))

    send("start")
    began = time.perf_counter()
    figures: Mapping[str, Any] = {}
    how, message = "done", ""
    try:
        figures = baseline.run(config, seed, watch)
    except MemoryError as error:
        how, message = "OutOfMemory", str(error)
    except Exception as error:
        how, message = "OutOfMemory" if _is_out_of_memory(error) else type(error).__name__, str(error)
    texts = {k: v for k, v in figures.items() if isinstance(v, str)}
    numbers = _finite({k: v for k, v in figures.items() if not isinstance(v, str)})
    missing = sorted(set(reached.targets) - reached.ran)
    seconds = round(time.perf_counter() - began, 2)
    send(
        "end",
        how=how,
        message=message[:2000],
        figures=numbers,
        texts=texts,
        seconds=seconds,
        peak_mb=_peak_mb(),
        unreached=missing,
        context=identity.loaded_context(),
    )


def _finite(figures: Mapping[str, Any]) -> dict[str, float | bool]:
    return {k: (v if isinstance(v, bool) else float(v)) for k, v in figures.items() if isinstance(v, bool) or math.isfinite(v)}


def _is_out_of_memory(error: Exception) -> bool:
    """torch says it with a ``RuntimeError`` of its allocator's, NumPy with a ``MemoryError`` of its own."""
    return "allocate memory" in str(error) or "not enough memory" in str(error)


def one_thread() -> None:
    """Sums in one order: one thread and deterministic algorithms, when torch is loaded at all."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)


def _peak_mb() -> float:
    import psutil

    memory = psutil.Process().memory_info()
    peak = getattr(memory, "peak_wset", memory.rss)
    if sys.platform != "win32":
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = used * (1 if sys.platform == "darwin" else 1024)
    return round(float(peak) / 2**20, 1)


if __name__ == "__main__":
    main()
