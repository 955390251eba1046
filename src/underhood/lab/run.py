"""Experiments: healthy and broken arms over the same seeds, each in a process of its own, resumable after any interruption."""

import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from underhood.base.config import to_plain as config_to_plain
from underhood.base.errors import NotReached, UnderhoodError, UserError
from underhood.base.files import named_os_errors, write_json
from underhood.lab import identity
from underhood.lab import patch as patches
from underhood.lab.baseline import Baseline
from underhood.lab.patch import Patch

MEMORY_LIMIT_MB = 4096  # of one worker; two workers fit a laptop of 16 GB with room to spare
CURVE_POINTS = 60  # kept of each arm's curve

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The arms of one patch on one baseline; ``label`` is the break's name or ``"healthy"``."""

    label: str
    baseline: Baseline
    patches: tuple[Patch, ...] = ()
    seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One run: how it ended (``"done"`` or the name of the error), its figures, its curve so far."""

    label: str
    baseline: str
    seed: int
    how: str
    message: str = ""
    figures: dict[str, float | bool] = dataclasses.field(default_factory=dict)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    curve: list[dict[str, float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    peak_mb: float = 0.0
    unreached: list[str] = dataclasses.field(default_factory=list)
    context: dict[str, str] = dataclasses.field(default_factory=dict)
    declaration: str = ""  # of the job: a stored arm is used again only when this is the same

    def figure(self, name: str, baseline: Baseline) -> float | bool:
        """The figure, or what stands in for it when the arm ended early: the metric's worst value (False for a property)."""
        if name in self.figures:
            return self.figures[name]
        metric = baseline.metrics.get(name)
        if metric is None:
            raise UnderhoodError(f"baseline {baseline.name} declares no metric {name!r}")
        if metric.worst is None:
            return False
        last = next((point[name] for point in reversed(self.curve) if name in point), metric.worst)
        return min(last, metric.worst) if metric.better == "higher" else max(last, metric.worst)


Listener = Callable[[str, dict[str, Any]], None]  # (label, event) for live progress


def job_hash(job: Job) -> str:
    """What an arm's result depends on besides the code that it loads."""
    config = config_to_plain(patches.configure(job.baseline.config, job.patches))
    return identity.digest(
        [[patches.to_plain(p) for p in job.patches], job.baseline.name, config, job.baseline.corpus, identity.versions(), identity.machine()]
    )


class ArmStore:
    """Finished arms as JSON lines in one file; an arm is found again only while its declaration and all code it loaded are unchanged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arms: dict[tuple[str, str, int], Arm] = {}
        self.torn = False  # whether the file ends in the middle of a line
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            self.torn = not text.endswith("\n") and text != ""
            for line in text.splitlines():
                try:
                    arm = Arm(**json.loads(line))
                except (json.JSONDecodeError, TypeError):
                    continue  # the last line of a run that was killed as it wrote
                self.arms[(arm.declaration, arm.label, arm.seed)] = arm

    def get(self, job: Job, seed: int) -> Arm | None:
        """The stored arm, when it is still good."""
        arm = self.arms.get((job_hash(job), job.label, seed))
        return arm if arm is not None and not identity.changed_modules(arm.context) else None

    def add(self, arm: Arm) -> None:
        """Append durably."""
        self.arms[(arm.declaration, arm.label, arm.seed)] = arm
        with named_os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(("\n" if self.torn else "") + json.dumps(dataclasses.asdict(arm)) + "\n")
                self.torn = False
                file.flush()
                os.fsync(file.fileno())


def run_jobs(jobs: Sequence[Job], store: ArmStore, *, workers: int = 0, listen: Listener | None = None, timeout_s: float | None = None) -> list[Arm]:
    """Run what is not stored yet, ``workers`` processes side by side (0: one a core), and return every arm in the order asked.

    ``timeout_s`` bounds one arm; by default 12 times what its baseline states, plus a minute. Ctrl-C stops the workers and keeps
    what is finished: the same call goes on from there. Raises ``NotReached`` when an edit never ran, or not one of the parts that were bound,
    ``UnderhoodError`` when a healthy arm failed.
    """
    missing = [dataclasses.replace(j, seeds=tuple(s for s in j.seeds if store.get(j, s) is None)) for j in jobs]
    _Pool([j for j in missing if j.seeds], store, workers or os.cpu_count() or 1, listen, timeout_s).run()
    arms = [arm for job in jobs for seed in job.seeds if (arm := store.get(job, seed)) is not None]
    if len(arms) < sum(len(job.seeds) for job in jobs):
        raise UserError("the code changed while the experiment ran, so its arms are not of one kind", remedy="Run it again; arms that still count are kept.")
    optional = {p.target for job in jobs for p in job.patches if isinstance(p, patches.Bind)}
    for arm in arms:
        if (missed := set(arm.unreached)) and (missed - optional or missed == optional):
            raise NotReached("the patched code never ran, so nothing was tested", where=f"{arm.label}: {', '.join(arm.unreached)}")
        if arm.label == "healthy" and arm.how != "done":
            raise UnderhoodError(f"the healthy run of {arm.baseline} with seed {arm.seed} ended with {arm.how}: {arm.message}")
    return arms


class _Pool:
    """Worker processes over a queue of jobs; one thread listens to each."""

    def __init__(self, jobs: Iterable[Job], store: ArmStore, workers: int, listen: Listener | None, timeout_s: float | None) -> None:
        self.todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in _spread(list(jobs), workers):
            self.todo.put(job)
        self.store, self.workers, self.timeout_s = store, workers, timeout_s
        self.listen = listen or (lambda label, event: None)
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.running: set[subprocess.Popen[str]] = set()
        self.failure: BaseException | None = None

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.workers)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)
        finally:
            self.stopping.set()
            for process in list(self.running):
                process.kill()
            for thread in threads:
                thread.join(5)
        if self.failure is not None:
            raise self.failure

    def _work(self) -> None:
        try:
            while not self.stopping.is_set():
                job = self.todo.get_nowait()
                while job.seeds and not self.stopping.is_set():
                    finished = self._listen_to(job)
                    job = dataclasses.replace(job, seeds=tuple(s for s in job.seeds if s not in finished))
        except queue.Empty:
            return
        except BaseException as error:  # handed to the main thread
            self.failure = self.failure or error
            self.stopping.set()

    def _listen_to(self, job: Job) -> set[int]:
        """Run ``job`` in one process until it ends; returns the seeds that now have a result."""
        plain = [patches.to_plain(p) for p in job.patches]
        text = json.dumps({"baseline": job.baseline.name, "config": config_to_plain(job.baseline.config), "patches": plain, "seeds": job.seeds})
        process = subprocess.Popen(
            [sys.executable, "-m", "underhood.lab.arm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD},
            start_new_session=True,  # Ctrl-C is for us alone: a worker that died of it would look like a result
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self.running.add(process)
        guard = _Guard(process, self.timeout_s or 12 * job.baseline.seconds + 60)
        try:
            assert process.stdin is not None
            process.stdin.write(text)
            process.stdin.close()
            finished = self._collect(job, process, guard)
        finally:
            guard.stop()
            process.kill()
            process.wait()
            guard.close()
            self.running.discard(process)
        return finished

    def _collect(self, job: Job, process: "subprocess.Popen[str]", guard: "_Guard") -> set[int]:
        finished: set[int] = set()
        seed, curve = job.seeds[0], list[dict[str, float]]()
        for event in _events(process):
            if event["event"] == "start":
                seed, curve = event["seed"], []
                guard.restart()
            elif event["event"] == "step":
                curve.append({"step": event["step"], **event["figures"]})
            elif event["event"] == "end":
                values = {k: v for k, v in event.items() if k not in ("event", "seed")}
                self._keep(job, seed, curve, **values)
                finished.add(seed)
            self.listen(job.label, event)  # after the arm is kept: who hears of its end may rely on it
        if len(finished) == len(job.seeds) or self.stopping.is_set():
            return finished
        errors = guard.errors()
        if not guard.why and not finished and not curve and process.wait() != 0 and "Error" in errors:
            raise UnderhoodError(f"an arm of {job.baseline.name} ({job.label}) did not start: {errors.strip().splitlines()[-1]}")
        open_seed = seed if seed not in finished else next(s for s in job.seeds if s not in finished)
        how = guard.why or "Died"
        self._keep(job, open_seed, curve, how=how, message=errors[-500:], context=identity.loaded_context())
        self.listen(job.label, {"event": "end", "seed": open_seed, "how": how})
        return finished | {open_seed}

    def _keep(self, job: Job, seed: int, curve: list[dict[str, float]], **values: Any) -> None:
        arm = Arm(label=job.label, baseline=job.baseline.name, seed=seed, curve=thin(curve), declaration=job_hash(job), **values)
        with self.lock:
            self.store.add(arm)


def _spread(jobs: list[Job], workers: int) -> list[Job]:
    """Fewer jobs than workers would leave a core idle: split the seeds of each among them."""
    pieces = max(1, -(-workers // max(1, len(jobs))))
    return [dataclasses.replace(job, seeds=part) for job in jobs for i in range(pieces) if (part := job.seeds[i::pieces])]


def _events(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict) and "event" in event:  # else something wrote to the stream behind Python's back
            yield event


class _Guard:
    """Kills a worker whose arm runs too long or grows too large, and drains what it writes to standard error."""

    def __init__(self, process: "subprocess.Popen[str]", timeout_s: float) -> None:
        self.process, self.timeout_s, self.why = process, timeout_s, ""
        self.began, self.done = time.monotonic(), threading.Event()
        self._errors: list[str] = []
        self.reader = threading.Thread(target=self._drain, daemon=True)
        self.reader.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def restart(self) -> None:
        self.began = time.monotonic()

    def stop(self) -> None:
        self.done.set()

    def close(self) -> None:
        """Let go of the dead worker's pipes; one that somebody else still holds open is left to them."""
        self.reader.join(2)
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self.process.stderr is not None and not self.reader.is_alive():
            self.process.stderr.close()

    def errors(self) -> str:
        self.reader.join(2)
        return "".join(self._errors)

    def _drain(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._errors = [*self._errors[-50:], line[:2000]]

    def _watch(self) -> None:
        while not self.done.wait(0.5):
            try:
                memory_mb = psutil.Process(self.process.pid).memory_info().rss / 2**20
            except psutil.Error:
                return
            if time.monotonic() - self.began > self.timeout_s:
                self.why = "Timeout"
            elif memory_mb > MEMORY_LIMIT_MB:
                self.why = "OutOfMemory"
            if self.why:
                self.process.kill()
                return


def thin(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """At most ``CURVE_POINTS`` points, evenly chosen, the last always among them."""
    if len(curve) <= CURVE_POINTS:
        return curve
    return [curve[round(i * (len(curve) - 1) / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]


def save_config(folder: Path, **values: Any) -> None:
    """What was asked for, beside the results."""
    write_json(folder / "config.json", {**values, "versions": identity.versions(), "machine": identity.machine()})
