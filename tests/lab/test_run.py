"""Arms: isolated, paired, resumable, and ended by rule."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from underhood.base.errors import NotReached, UnderhoodError, UnknownName, UserError
from underhood.lab import baseline as baselines
from underhood.lab import run
from underhood.lab.baseline import Baseline
from underhood.lab.patch import Edit, Set
from underhood.lab.run import Arm, ArmStore, Job, job_hash, run_jobs, thin

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def job(tiny: Baseline, *patches: Any, label: str = "broken", seeds: tuple[int, ...] = (0,)) -> Job:
    return Job(label=label, baseline=tiny, patches=patches, seeds=seeds)


def trouble(tiny: Baseline, kind: str, tmp_path: Path, **more: Any) -> Arm:
    return run_jobs([job(tiny, Set("trouble", kind))], ArmStore(tmp_path / "arms.jsonl"), workers=1, **more)[0]


def test_healthy_and_broken_arms_share_their_seeds(tiny: Baseline, tmp_path: Path) -> None:
    jobs = [job(tiny, label="healthy", seeds=(3, 1)), job(tiny, Edit("arms_of_tests:lifted", "x + lift", "x + 0.5"), seeds=(3, 1))]
    arms = run_jobs(jobs, ArmStore(tmp_path / "arms.jsonl"), workers=2)
    assert [(a.label, a.seed) for a in arms] == [("healthy", 3), ("healthy", 1), ("broken", 3), ("broken", 1)]
    assert [b.figures["loss"] - h.figures["loss"] for h, b in zip(arms[:2], arms[2:], strict=True)] == pytest.approx([0.5, 0.5])
    assert all(a.how == "done" and a.figures["sane"] is True and a.texts["text"] == f"seed {a.seed}" for a in arms)
    assert len(arms[0].curve) == run.CURVE_POINTS
    assert arms[0].curve[-1]["step"] == 99
    assert arms[0].figures["pid"] != os.getpid()
    assert "underhood.base.rng" in arms[0].context


def test_the_same_seed_gives_the_same_bits(tiny: Baseline, tmp_path: Path) -> None:
    first, second = (run_jobs([job(tiny, label="healthy")], ArmStore(tmp_path / f"{i}.jsonl"), workers=1)[0] for i in range(2))
    assert first.figures["loss"] == second.figures["loss"]
    assert first.curve == second.curve
    assert first.figures["pid"] != second.figures["pid"]


@pytest.mark.parametrize(
    ("kind", "how", "message"),
    [("crash", "ValueError", "on purpose"), ("nan", "NonFinite", "head"), ("memory", "OutOfMemory", "allocate"), ("die", "Died", "")],
)
def test_an_arm_that_fails_is_a_result(tiny: Baseline, tmp_path: Path, kind: str, how: str, message: str) -> None:
    arm = trouble(tiny, kind, tmp_path)
    assert arm.how == how
    assert message in arm.message
    assert arm.curve[-1]["step"] == 99
    assert arm.figure("loss", tiny) == 9.0
    assert arm.figure("sane", tiny) is False


def test_a_figure_that_is_nan_is_the_worst(tiny: Baseline, tmp_path: Path) -> None:
    arm = trouble(tiny, "nan figure", tmp_path)
    assert arm.how == "done"
    assert "loss" not in arm.figures
    assert arm.figure("loss", tiny) == 9.0


def test_an_arm_that_hangs_is_stopped(tiny: Baseline, tmp_path: Path) -> None:
    began = time.monotonic()
    arm = trouble(tiny, "hang", tmp_path, timeout_s=1.5)
    assert arm.how == "Timeout"
    assert arm.curve
    assert time.monotonic() - began < 20


def test_an_arm_that_grows_is_stopped(tiny: Baseline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MEMORY_LIMIT_MB", 600)
    assert trouble(tiny, "grow", tmp_path).how == "OutOfMemory"


def test_one_bad_arm_does_not_end_the_others_of_its_worker(tiny: Baseline, tmp_path: Path) -> None:
    jobs = [job(tiny, Set("trouble", "die"), seeds=(0, 1, 2)), job(tiny, label="healthy", seeds=(0, 1, 2))]
    arms = run_jobs(jobs, ArmStore(tmp_path / "arms.jsonl"), workers=1)
    assert [a.how for a in arms] == ["Died"] * 3 + ["done"] * 3


def test_every_end_is_told_after_the_arm_is_kept(tiny: Baseline, tmp_path: Path) -> None:
    path = tmp_path / "arms.jsonl"
    told: list[tuple[int, str, bool]] = []

    def listen(label: str, event: dict[str, Any]) -> None:
        if event["event"] == "end":
            kept = [json.loads(line)["seed"] for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
            told.append((event["seed"], event["how"], event["seed"] in kept))

    jobs = [job(tiny, Set("trouble", "die"), seeds=(0, 1)), job(tiny, label="healthy", seeds=(5,))]
    run_jobs(jobs, ArmStore(path), workers=1, listen=listen)
    assert told == [(0, "Died", True), (1, "Died", True), (5, "done", True)]


def test_a_patch_that_never_ran_is_an_error(tiny: Baseline, tmp_path: Path) -> None:
    with pytest.raises(NotReached, match="never_called"):
        run_jobs([job(tiny, Edit("arms_of_tests:never_called", "x + 1", "x + 2"))], ArmStore(tmp_path / "a.jsonl"), workers=1)


def test_a_patch_that_does_not_apply_in_the_worker_is_an_error(tiny: Baseline, tmp_path: Path) -> None:
    with pytest.raises(UnderhoodError, match="is not there"):
        run_jobs([job(tiny, Edit("arms_of_tests:lifted", "x * lift", "x"))], ArmStore(tmp_path / "a.jsonl"), workers=1)


def test_a_healthy_arm_that_fails_is_an_error(tiny: Baseline, tmp_path: Path) -> None:
    sick = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, trouble="crash"))
    with pytest.raises(UnderhoodError, match="seed 0 ended with ValueError: broken on purpose"):
        run_jobs([job(sick, label="healthy")], ArmStore(tmp_path / "a.jsonl"), workers=1)


# ── what is stored ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_finished_arms_are_used_again_and_others_are_not(tiny: Baseline, tmp_path: Path) -> None:
    path = tmp_path / "arms.jsonl"
    once = run_jobs([job(tiny, label="healthy", seeds=(0,))], ArmStore(path), workers=1)
    events: list[str] = []
    more = run_jobs(
        [job(tiny, label="healthy", seeds=(0, 1))], ArmStore(path), workers=1, listen=lambda label, event: events.append(f"{event['event']} {event['seed']}")
    )
    assert more[0] == once[0]
    assert "start 0" not in events
    assert "end 1" in events
    other = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, lift=0.25))
    assert ArmStore(path).get(job(other, label="healthy"), 0) is None


def test_an_arm_whose_code_changed_is_not_used_again(tiny: Baseline, tmp_path: Path) -> None:
    path = tmp_path / "arms.jsonl"
    arm = run_jobs([job(tiny, label="healthy")], ArmStore(path), workers=1)[0]
    store = ArmStore(path)
    assert store.get(job(tiny, label="healthy"), 0) == arm
    store.add(dataclasses.replace(arm, context={**arm.context, "underhood.base.rng": "another"}))
    assert store.get(job(tiny, label="healthy"), 0) is None


def test_code_that_changes_while_it_runs_is_an_error_and_no_arm_goes_missing(tiny: Baseline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(label: str, event: dict[str, Any]) -> None:
        if event["event"] == "end":
            monkeypatch.setattr(run.identity, "module_hash", lambda name: "edited meanwhile")

    with pytest.raises(UserError, match="changed while"):
        run_jobs([job(tiny, label="healthy")], ArmStore(tmp_path / "arms.jsonl"), workers=1, listen=edit)


def test_a_line_that_was_cut_off_costs_only_its_own_arm(tiny: Baseline, tmp_path: Path) -> None:
    path = tmp_path / "arms.jsonl"
    arm = Arm(label="healthy", baseline=tiny.name, seed=0, how="done", declaration="d")
    store = ArmStore(path)
    store.add(arm)
    path.write_text(path.read_text(encoding="utf-8") + '{"label": "healthy", "base', encoding="utf-8")
    ArmStore(path).add(dataclasses.replace(arm, seed=1))
    assert {seed for _, _, seed in ArmStore(path).arms} == {0, 1}


@POSIX
def test_a_terminal_s_ctrl_c_does_not_reach_the_workers(tiny: Baseline, tmp_path: Path) -> None:
    """They are in a group of their own; else a worker may die of it before we know why, and its arm would be kept as a result."""
    arm = run_jobs([job(tiny, label="healthy")], ArmStore(tmp_path / "arms.jsonl"), workers=1)[0]
    assert arm.figures["group"] != os.getpgrp()


@POSIX
def test_ctrl_c_keeps_what_is_done_and_the_same_call_goes_on(tiny: Baseline, tmp_path: Path) -> None:
    """The whole process group gets SIGINT, as from a terminal: no arm that was cut off may look like a result."""
    script = tmp_path / "go.py"
    script.write_text(
        "import dataclasses, pathlib, sys\n"
        "from underhood.lab import baseline as baselines\n"
        "from underhood.lab.run import ArmStore, Job, run_jobs\n"
        "from underhood.lab.patch import Set\n"
        "tiny = baselines.get('arms_of_tests:TINY')\n"
        "jobs = [Job(label='slow', baseline=tiny, patches=(Set('trouble', 'slow'),), seeds=tuple(range(4)))]\n"
        f"store = ArmStore(pathlib.Path({str(tmp_path / 'arms.jsonl')!r}))\n"
        "run_jobs(jobs, store, workers=1, listen=lambda label, e: print(e['event'], e['seed'], flush=True))\n",
        encoding="utf-8",
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "start 1":
            break
    os.killpg(process.pid, signal.SIGINT)
    process.wait(20)
    process.stdout.close()
    kept = [json.loads(line) for line in (tmp_path / "arms.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(a["seed"], a["how"]) for a in kept][:1] == [(0, "done")]
    assert all(a["how"] == "done" for a in kept)
    assert len(kept) < 4
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert "start 0" not in done.stdout
    assert "end 3" in done.stdout


def test_no_worker_outlives_its_experiment(tiny: Baseline, tmp_path: Path) -> None:
    import psutil

    trouble(tiny, "hang", tmp_path, timeout_s=1.0)
    assert not [c for c in psutil.Process().children(recursive=True) if "underhood.lab.arm" in " ".join(c.cmdline())]


def test_thin_keeps_the_ends() -> None:
    curve = [{"step": float(i)} for i in range(1000)]
    assert thin(curve)[0] == curve[0]
    assert thin(curve)[-1] == curve[-1]
    assert len(thin(curve)) == run.CURVE_POINTS
    assert thin(curve[:3]) == curve[:3]


def test_a_baseline_elsewhere_is_named_by_its_module(tiny: Baseline) -> None:
    assert tiny.name == "arms_of_tests:TINY"
    with pytest.raises(UserError, match="a Baseline"):
        baselines.get("arms_of_tests:run")
    with pytest.raises(UnknownName, match=r"scalar\.six_points"):
        baselines.get("scalar.six_point")


def test_the_job_s_hash_is_of_everything_that_matters(tiny: Baseline) -> None:
    plain = job(tiny)
    others = [
        job(tiny, Set("lift", 0.5)),
        job(dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, lift=1.0))),
        job(dataclasses.replace(tiny, corpus="other")),
    ]
    assert len({job_hash(j) for j in (plain, *others)}) == 4
    assert job_hash(plain) == job_hash(job(tiny, label="another name", seeds=(1, 2)))
