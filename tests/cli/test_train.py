"""``underhood train`` as a person uses it: on a folder of one's own, interrupted, resumed, and with every kind of mistake."""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from underhood.cli.main import main
from underhood.projects.registry import find_project
from underhood.workbench import course
from underhood.workbench.starter import solution, starter

TEXT = "The cat sat on the mat. The dog lay by the door and looked at the cat. " * 120
TINY = ["--depth", "1", "--set", "batch_size=2", "--set", "model.context=16"]


def underhood(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """The command in this process, which has torch loaded already; with Ctrl-C it runs in one of its own."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    return subprocess.CompletedProcess(list(words), code, out.getvalue(), err.getvalue())


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.txt").write_text(f"Story {i}. {TEXT[i * 11 :]}", encoding="utf-8")
    return folder


def test_a_folder_of_text_is_trained_on_sampled_and_resumed(texts: Path, tmp_path: Path) -> None:
    done = underhood("train", "--data", "texts", "--steps", "8", *TINY, "--set", "vocab_size=270", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["how"], result["step"]) == ("finished", 8)
    assert "about" in done.stderr
    more = underhood("train", "--resume", "--out", "runs/texts", "--steps", "12", "--json", cwd=tmp_path)
    assert json.loads(more.stdout)["step"] == 12, more.stderr
    assert "from step 8" in more.stderr
    enough = underhood("train", "--resume", "--out", "runs/texts", "--steps", "12", cwd=tmp_path)
    assert enough.returncode == 2
    assert "more than 12 steps" in enough.stderr
    written = underhood("sample", "runs/texts", "--prompt", "The cat", "--tokens", "8", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert "The cat" in written.stdout


def test_a_text_that_cannot_fill_the_recipes_vocabulary_gets_a_smaller_one(texts: Path, tmp_path: Path) -> None:
    done = underhood("train", "--data", "texts", "--steps", "2", *TINY, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the text fills a vocabulary of" in done.stderr


def test_progress_is_short_and_the_end_is_told_once(texts: Path, tmp_path: Path) -> None:
    done = underhood("train", "--data", "texts", "--steps", "40", *TINY, "--set", "vocab_size=270", cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("step ")]
    assert 9 <= len(lines) <= 12
    assert all(re.fullmatch(r"step \d+/40: loss \S+, held-out \S+ \(\S+ bits per byte\), \S+ tokens/s", line) for line in lines)
    assert sum(line.startswith("    ") for line in done.stderr.splitlines()) <= 3 * 3
    assert "step 40" not in done.stderr
    assert done.stdout.count("after 40 of 40 steps") == 1
    kept = [json.loads(line) for line in (tmp_path / "runs" / "texts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in kept if "sample" in line] == [10, 20, 30, 40]


@pytest.fixture
def course_of_two(tmp_path: Path) -> Path:
    """A course folder with a right attention, a loop whose last step is open, a GPT that is no Python, and a scalar engine that trains no GPT."""
    course.create(tmp_path)
    files = {slug: solution(find_project(slug)) for slug in ("attention", "loop", "scalar")}
    files["loop"] = files["loop"].replace("round(steps / 5)", "round(steps / 2)")
    for slug, text in {**files, "gpt": "def (:\n"}.items():
        (tmp_path / "my" / f"{slug}.py").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_mine_says_what_is_left_out_what_stays_ours_and_how_to_compare(texts: Path, course_of_two: Path) -> None:
    done = underhood("train", "--mine", "--data", "texts", "--steps", "2", *TINY, "--seed", "3", "--json", cwd=course_of_two)
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    total = len(find_project("loop").checks())
    assert f"left out: loop.py ({total - 1} of {total} hold; next: step 6 · A schedule that can be continued)" in told
    assert any(line.startswith("left out: gpt.py (it cannot be run, line 1: ") for line in told)
    assert "yours: attention (attention.py)" in told
    assert "not yours: Block, Dropout, Embedding, FeedForward, GPT, LayerNorm, Learned, Linear" in told
    [plain] = [line for line in told if line.startswith("the plain path: ")]
    assert plain.startswith("the plain path: context 16, AdamW, LayerNorm, Learned positions, RandomSampler; a training without --mine")
    assert plain.endswith("Muon, RMSNorm, Rotary positions, ShuffledSampler")
    [compare] = [line for line in told if line.startswith("to compare, the reference on the same path: underhood train --plain ")]
    reference = underhood(*compare.partition("underhood ")[2].split(), "--json", cwd=course_of_two)
    assert reference.returncode == 0, reference.stderr
    assert json.loads(reference.stdout)["folder"] == "runs/texts-plain"
    assert json.loads(reference.stdout)["val_loss"] == pytest.approx(json.loads(done.stdout)["val_loss"], rel=1e-5)
    written = underhood("sample", "runs/texts", "--mine", "--tokens", "3", cwd=course_of_two)
    assert "not yours: Block, Dropout, Embedding, FeedForward, GPT, LayerNorm, Learned, Linear" in written.stderr
    assert "scalar" not in done.stderr + written.stderr


def test_mine_without_a_part_that_passes_is_refused(texts: Path, course_of_two: Path) -> None:
    (course_of_two / "my" / "attention.py").write_text(starter(find_project("attention")), encoding="utf-8")
    done = underhood("train", "--mine", "--data", "texts", "--steps", "2", *TINY, cwd=course_of_two)
    assert done.returncode == 2
    total = len(find_project("attention").checks())
    assert f"left out: attention.py (0 of {total} hold; next: step 1 · Average the past)" in done.stderr
    assert "underhood progress" in done.stderr


def test_the_same_command_gives_the_same_run(texts: Path, tmp_path: Path) -> None:
    losses = []
    for out in ("a", "b"):
        done = underhood("train", "--data", "texts", "--out", out, "--steps", "4", *TINY, "--set", "vocab_size=270", "--json", cwd=tmp_path)
        losses.append(json.loads(done.stdout)["val_loss"])
    assert losses[0] == losses[1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child")
def test_ctrl_c_saves_and_says_how_to_go_on(texts: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "underhood", "train", "--data", "texts", "--steps", "100000", *TINY, "--set", "vocab_size=270"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    metrics = tmp_path / "runs" / "texts" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert "stopped and saved. Go on with: underhood train --resume --out runs/texts" in out
    assert list((tmp_path / "runs" / "texts").glob("step-*/model.safetensors"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "talse"], "tales"),
        (["--data", "none.txt"], "none.txt"),
        (["--data", "empty.txt"], "empty.txt"),
        (["--data", "binary.txt"], "binary.txt"),
        (["--data", "latin.txt"], "UTF-8"),
        (["--data", "texts", "--set", "model.n_layers=2"], "n_layer"),
        (["--data", "texts", "--set", "model.context=100000"], "context"),
        (["--data", "texts", "--set", "vocab_size=60000"], "vocab"),
        (["--data", "texts", "--steps", "3", "--minutes", "1"], "one of them"),
        (["--data", "texts", "--minutes", "0"], "minutes"),
        (["--resume", "--out", "nothing"], "Start a run with"),
        (["--data", "texts", "--out", "file.txt"], "file.txt"),
    ],
)
def test_mistakes_are_named_and_leave_nothing_half_done(texts: Path, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "latin.txt").write_bytes("caf\xe9 au lait ".encode("latin-1") * 50)
    done = underhood("train", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/*/config.json"))
