"""What happens to a run from outside: kill −9 while saving, signals, a full disk, a folder that cannot be written."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.small import make
from underhood.base.errors import FileSystemError
from underhood.train import checkpoint as files
from underhood.train.signals import graceful_stop

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and limits")
PROGRAM = [sys.executable, "-m", "tests.train.small"]
ROOT = Path(__file__).parents[2]


def start(folder: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*PROGRAM, str(folder), mode], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for found in process.stdout:
        if found.strip() == line:
            return
    raise AssertionError(process.communicate()[1])


def kill_while_saving(folder: Path, times: int, seed: int) -> None:
    """A process that does nothing but save is killed ``times`` times, after a random part of a save; the run must be usable each time."""
    rng = random.Random(seed)
    steps = []
    for _ in range(times):
        process = start(folder, "save_without_end") if not files.checkpoints(folder) else start_again(folder)
        wait_for(process, "ready")
        while not files.checkpoints(folder):
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        found, problems = files.latest_checkpoint(folder)
        assert problems == [], "a killed save must leave no broken checkpoint"
        steps.append(found.facts["step"])
    assert steps[-1] > 0


def start_again(folder: Path) -> subprocess.Popen[str]:
    """Move what is there out of the way, so that each process starts at step 0; its temporaries are what matters."""
    for path in files.checkpoints(folder):
        path.rename(path.with_name(f"old-{time.monotonic_ns()}-{path.name}"))
    return start(folder, "save_without_end")


def test_killed_4_times_while_saving(tmp_path: Path) -> None:
    kill_while_saving(tmp_path, 4, seed=0)
    files.clean_stale(tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".tmp-")]


@pytest.mark.slow
def test_killed_100_times_while_saving(tmp_path: Path) -> None:
    kill_while_saving(tmp_path, 100, seed=1)


def test_a_save_that_is_killed_at_any_step_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies (without any clean-up) at each of the moments of a save in turn."""
    from underhood.base import files as base

    class Killed(BaseException):
        pass

    moments = [(files, "write_tensors"), (files, "sha256"), (files, "write_json"), (base.os, "rename")]
    monkeypatch.setattr(base.shutil, "rmtree", lambda *a, **k: None)  # a killed process removes nothing
    trainer = make(tmp_path)
    trainer.step()
    trainer.save()
    for module, name in moments:
        trainer.step()
        with monkeypatch.context() as patch:

            def die(*args, **kwargs):
                raise Killed

            patch.setattr(module, name, die)
            with pytest.raises(Killed):
                trainer.save()
        found, problems = files.latest_checkpoint(tmp_path)
        assert (found.facts["step"], problems) == (1, [])
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".tmp-")]
    monkeypatch.undo()
    again = make(tmp_path)
    again.resume()
    assert again.steps_done == 1
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".tmp-")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, "slow_steps")
    wait_for(process, "step 3")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    how, step = out.split()[-2:]
    assert how == "stopped"
    found, problems = files.latest_checkpoint(tmp_path)
    assert (found.facts["step"], problems) == (int(step), [])


def test_two_signals_quit_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), graceful_stop() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.asked
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_save_lets_it_finish(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write, interrupted = files.write_tensors, []

    def write_interrupted(path, tensors):
        if not interrupted:
            interrupted.append(number)
            signal.raise_signal(number)
        write(path, tensors)

    monkeypatch.setattr(files, "write_tensors", write_interrupted)
    trainer = make(tmp_path)
    assert trainer.run() == "stopped"
    assert trainer.steps_done == 20, "the first save is at step 20"
    assert files.latest_checkpoint(tmp_path)[0].facts["step"] == 20
    again = make(tmp_path)
    again.resume()
    assert again.run() == "finished"


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, "limited")
    _, err = process.communicate(timeout=60)
    assert "FileSystemError" in err
    assert "step-000001" in err
    assert list(tmp_path.iterdir()) == [], "no half-written folder stays"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Root ignores permissions, so a file stands where the folder should be."""
    (tmp_path / "file").write_text("mine")
    trainer = make(tmp_path / "file" / "run")
    trainer.step()
    with pytest.raises(FileSystemError, match="file"):
        trainer.save()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    trainer = make(tmp_path)
    trainer.step()
    with pytest.raises(FileSystemError, match="permission"):
        trainer.save()
