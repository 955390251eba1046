"""The promise of SECURITY.md: `pull` alone uses the network. The other commands run under a hook that notes and refuses every connection and look-up,
in the processes that they start too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = """
import os, sys

def note(text):
    with open(os.environ["UNDERHOOD_TEST_NOTES"], "a", encoding="utf-8") as file:
        print(text, file=file)

def refuse(event, args):
    local = event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(args[-1], (str, bytes))  # a socket that is a file
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request") and not local:
        note(f"{event} {args[1:] if event.startswith('socket.') and event != 'socket.getaddrinfo' else args}")
        raise PermissionError(f"no network here: {event}")

sys.addaudithook(refuse)
note("guarded")
"""
DRIVE = """
import json, sys
from underhood.cli.main import main
sys.exit(max(main(words) for words in json.loads(sys.argv[1])))
"""
TEXT = "The cat sat on the mat. The dog lay by the door and looked at the cat. " * 200
TINY = ["--depth", "1", "--steps", "3", "--set", "batch_size=2", "--set", "model.context=16", "--set", "vocab_size=270"]


def guarded(folder: Path, *commands: list[str]) -> tuple["subprocess.CompletedProcess[str]", list[str]]:
    """The commands one after another in a guarded process, and what was noted: a line a process, and one for each use of the network."""
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    notes = folder / "notes"
    path = os.pathsep.join([str(folder / "guard"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {k: v for k, v in os.environ.items() if k != "UNDERHOOD_DATA"}
    environment |= {"PYTHONPATH": path, "UNDERHOOD_TEST_NOTES": str(notes), "HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "cache")}
    words = [sys.executable, "-c", DRIVE, json.dumps(commands)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done, notes.read_text(encoding="utf-8").splitlines()


def test_training_sampling_and_scoring_use_no_network(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    done, notes = guarded(
        tmp_path,
        ["tokenizer", "train", "text.txt", "--vocab", "270", "--out", "tokenizer.json"],
        ["tokenizer", "encode", "The cat", "--tokenizer", "tokenizer.json"],
        ["train", "--data", "text.txt", "--out", "model", *TINY],
        ["sample", "model", "--prompt", "The cat", "--tokens", "4"],
        ["eval", "model"],
    )
    assert done.returncode == 0, done.stderr
    assert notes == ["guarded"]


def test_the_lab_and_its_workers_use_no_network(tmp_path: Path) -> None:
    broken = ["break", "scalar.no_bias", "--seeds", "1", "--workers", "1", "--out", "run"]
    done, notes = guarded(tmp_path, ["map"], ["list", "scalar"], broken, ["report", "run"])
    assert done.returncode == 0, done.stderr
    assert len(notes) > 1, "the workers are processes of their own"
    assert set(notes) == {"guarded"}


@pytest.mark.parametrize("name", ["shakespeare", "gpt2"])
def test_the_guard_sees_a_pull(tmp_path: Path, name: str) -> None:
    """Negative control of the tests above: what does use the network is seen, and ends with an error."""
    done, notes = guarded(tmp_path, ["pull", name])
    assert done.returncode != 0
    assert len(notes) > 1
    assert "Traceback" not in done.stderr
