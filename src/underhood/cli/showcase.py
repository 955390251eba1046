"""The pieces of the demo: two trainings side by side, text before and after, three breaks in words, sections of the page."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from underhood.base.errors import UnderhoodError, UserError
from underhood.base.rng import stream_seed
from underhood.cli.console import width
from underhood.data.corpora import Corpus, load_corpus
from underhood.data.tales_score import score
from underhood.infer.sample import SampleConfig, generate_batch
from underhood.interop.models import open_model
from underhood.lab import report
from underhood.lab.baselines import demo
from underhood.lab.run import ONE_THREAD
from underhood.lab.sabotage import Falls, Keeps, Prediction, Rises, Sabotage, Violates
from underhood.nn.gpt import GPT, build_gpt
from underhood.projects.registry import find_break
from underhood.text.tokenizer import Tokenizer
from underhood.train.run import CONFIG, Run, open_run, read_metrics

ARMS_SECONDS = 100.0  # what the breaks may take
POLL_SECONDS = 0.5
SHOWN = ("parsed", "agreement", "recall", "counting")
LINE_EVERY_SECONDS = 15


class Clock:
    """Seconds since the demo began."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self.began


def say(text: str, clock: Clock) -> None:
    """A line with the time at its head."""
    print(f"[{clock.seconds:3.0f} s] {text}", flush=True)


def workers() -> int:
    """Arms that run side by side."""
    return os.cpu_count() or 1


# ── training ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def train_side_by_side(names: Sequence[str], folder: Path, minutes: float, seed: int, clock: Clock) -> "list[Reader]":
    """`underhood train` for each name in a process of its own; prints what the untrained models write, then progress. Raises what a training raised."""
    readers = [Reader(name, folder / (Path(name).stem or "text"), seed) for name in names]
    threads = max(1, workers() // len(readers))
    with _children([r.command(minutes) for r in readers], threads, folder) as children:
        waiting, said = list(readers), clock.seconds
        while any(child.poll() is None for child in children):
            time.sleep(POLL_SECONDS)
            for reader in [r for r in waiting if (r.folder / CONFIG).exists()]:
                reader.read_before(clock)
                waiting.remove(reader)
            if clock.seconds - said > LINE_EVERY_SECONDS:
                say("; ".join(filter(None, (r.progress() for r in readers))) or "reading the text", clock)
                said = clock.seconds
        for reader, child in zip(readers, children, strict=True):
            reader.finish(child)
    return readers


@contextmanager
def _children(commands: Sequence[list[str]], threads: int, folder: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """The processes; whatever ends this, they end too, after saving what they have."""
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, **dict.fromkeys(ONE_THREAD, str(threads))}
    children = []
    try:
        for i, command in enumerate(commands):
            with open(folder / f"train-{i}.log", "w", encoding="utf-8") as log:
                children.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env))
        yield children
    finally:
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()


class Reader:
    """One model of the demo: what it wrote before and after, and how good that is."""

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self.name, self.folder, self.seed = name, folder, seed
        self.before, self.after, self.seconds = "", "", 0.0
        self.scores_before: dict[str, str] = {}
        self.scores_after: dict[str, str] = {}
        self.result: dict[str, Any] = {}
        self.floor: float | None = None

    def command(self, minutes: float) -> list[str]:
        """The training as anybody would start it."""
        words = ["train", "--data", self.name, "--out", str(self.folder), "--minutes", f"{minutes:g}", "--seed", str(self.seed), "--json"]
        return [sys.executable, "-m", "underhood", *words]

    def read_before(self, clock: Clock) -> None:
        """What the untrained model writes: noise, and the loss of a guess."""
        run = open_run(self.folder)
        model = build_gpt(run.config.model, self.seed).eval()
        self.before = write(run, model, run.tokenizer, self.seed, tokens=40)
        self.scores_before = self._scores(model, run.tokenizer, run.validate(model)["bits_per_byte"], stories=12, tokens=60)
        say(f"{self.name}, before: {one_line(self.before)}", clock)
        print(indented(", ".join(f"{k} {v}" for k, v in self.scores_before.items())), flush=True)

    def read_after(self, clock: Clock) -> None:
        """What the trained one writes."""
        run, (model, tokenizer, _) = open_run(self.folder), open_model(self.folder)
        self.after = write(run, model, tokenizer, self.seed, tokens=150)
        self.scores_after = self._scores(model, tokenizer, self.result["val_bits_per_byte"])
        floor = f" (the best possible is {self.floor:.2f})" if self.floor else ""
        say(f"{self.name}, after {self.result['step']} steps ({self.result['tokens']:,} tokens):", clock)
        print(indented(" ".join(self.after.split())))
        print(indented(", ".join(f"{k} {v}" for k, v in self.scores_after.items()) + floor), flush=True)

    def _scores(self, model: GPT, tokenizer: Tokenizer, bits: float, *, stories: int = 40, tokens: int = 180) -> dict[str, str]:
        """Bits per byte; of a tales model also what its sentences get right, of another how many of its words are words of the text."""
        found, corpus = {"bits per byte": f"{bits:.2f}"}, load_corpus(self.name)
        texts = demo.made_up(model, tokenizer, self.seed, stories=stories, tokens=tokens)
        if corpus.floor is None:
            return found | {"known words": known_words(texts, corpus)}
        self.floor, scores = corpus.floor, score(texts)
        return found | {skill: str(scores[skill]) for skill in SHOWN if skill == "parsed" or scores[skill].total}

    def progress(self) -> str:
        """Where the training is."""
        lines = [m for m in read_metrics(self.folder) if "loss" in m]
        if not lines:
            return ""
        total = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))["train"]["steps"]
        return f"{self.name}: step {lines[-1]['step']}/{total}, loss {lines[-1]['loss']:.2f}"

    def finish(self, child: "subprocess.Popen[str]") -> None:
        """Take over the result, or raise what went wrong in the words of the process."""
        out = child.stdout.read() if child.stdout else ""
        if child.returncode:
            logs = [p.read_text(encoding="utf-8").strip() for p in sorted(self.folder.parent.glob("train-*.log"))]
            lines = [line for text in logs for line in text.splitlines() if line.startswith("underhood: ")]
            message = (lines or [f"training on {self.name} ended with code {child.returncode}"])[-1].removeprefix("underhood: ")
            raise UserError(message) if child.returncode == 2 else UnderhoodError(message)
        self.result = json.loads(out)

    def curve(self, key: str) -> list[tuple[float, float]]:
        """A figure over steps."""
        return [(m["step"], m[key]) for m in read_metrics(self.folder) if key in m]

    def to_plain(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "data": self.name,
            "folder": str(self.folder),
            **self.result,
            "before": self.before,
            "after": self.after,
            "scores_before": self.scores_before,
            "scores_after": self.scores_after,
            "floor_bits_per_byte": self.floor,
        }


def write(run: Run, model: GPT, tokenizer: Tokenizer, seed: int, *, tokens: int) -> str:
    """What the model writes from the start of a document, up to its end."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "sample/demo"))
    config = SampleConfig(max_tokens=tokens, temperature=0.8)
    (written,) = generate_batch(model, [[int(run.val[0])]], config, generator)
    return run.text_of(written).strip().partition("\n\n\n")[0]


def known_words(texts: Sequence[str], corpus: Corpus) -> str:
    """Of the words that the model makes up, how many occur in the text it was trained on."""
    known = {w for text in corpus.train for w in words_of(text)}
    words = [w for text in texts for w in words_of(text)[:-1]]
    right = sum(w in known for w in words)
    return f"{right}/{len(words)}" + (f" = {100 * right / len(words):.1f} %" if words else "")


def words_of(text: str) -> list[str]:
    """Runs of letters, in lower case."""
    return re.findall(r"[^\W\d_]+", text.lower())


def one_line(text: str) -> str:
    """The head of a text, its white space folded, as much as fits a line."""
    return textwrap.shorten(" ".join(text.split()), max(20, width() - 24), placeholder=" …", break_long_words=True) or "(nothing)"


def indented(text: str) -> str:
    """A paragraph under a line of ``say``."""
    return textwrap.fill(text, width(), initial_indent="        ", subsequent_indent="        ")


# ── breaking ──────────────────────────────────────────────────────────────────────────────────────────────────────────

WRITES = {"no_mask": True, "no_softmax": False, "no_residual": False}  # whether the break leaks the future


def demo_breaks(names: Sequence[str], *, scored: bool) -> list[tuple[str, Sabotage]]:
    """The declared breaks on the demo's baseline, with what they should do to what one sees here."""
    return [(name, dataclasses.replace(find_break(name)[1], baseline="demo.text", claim=None, expect=_expected(name, scored))) for name in names]


def _expected(name: str, scored: bool) -> tuple[Prediction, ...]:
    leaks = WRITES[name.partition(".")[2]]
    found: tuple[Prediction, ...] = (Rises("writing_loss", by=0.3), Falls("val_loss", by=0.5) if leaks else Rises("val_loss", by=0.3))
    found += (Falls("parsed", by=0.05),) if scored else ()
    return (*found, Violates("causal") if leaks else Keeps("causal"))


def fitting_steps(data: str | None) -> tuple[int, int]:
    """(steps that fit, steps declared): a few steps are timed on one thread, as the arms will run."""
    declared = demo.TextConfig().train.steps
    budget = ARMS_SECONDS * workers() / 12
    trial = dataclasses.replace(demo.TextConfig(), data=data or "tales", train=dataclasses.replace(demo.TextConfig().train, steps=8))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        per_step = demo.seconds_per_step(trial)
    finally:
        torch.set_num_threads(threads)
    fits = int((budget - demo.OVERHEAD_SECONDS) / per_step)
    return min(declared, max(60, fits)), declared


def break_lines(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table in the terminal: loss on held-out text, loss when writing, sentences that parse; then what each writes."""
    columns = {"val_loss": "held-out loss", "writing_loss": "loss when writing", "parsed": "sentences that parse"}
    shown = {k: says for k, says in columns.items() if k in results[0]["healthy"][0]["figures"]}
    yield f"  {'':<12}" + "".join(f"{says:>24}" for says in shown.values())
    rows = [("healthy", results[0]["healthy"])] + [(r["break"].partition(".")[2], r["broken"]) for r in results]
    for name, arms in rows:
        yield f"  {name:<12}" + "".join(f"{spread([a['figures'].get(k, math.nan) for a in arms]):>24}" for k in shown)
    for name, arms in rows:
        yield f"  {name + ' writes':<19} {one_line(arms[0].get('texts', {}).get('text', ''))}"
    yield f"  {len(results[0]['seeds'])} seeds each, lowest to highest: a preview. `underhood break attention --seeds 5` judges."


def spread(values: Sequence[float]) -> str:
    """Mean and range."""
    finite = [v for v in values if math.isfinite(v)]
    return f"{sum(finite) / len(finite):.2f} ({min(finite):.2f}…{max(finite):.2f})" if finite else "–"


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def sections(readers: Sequence[Reader]) -> list[tuple[str, str]]:
    """Text before and after with its scores, and the losses."""
    found = []
    for reader in readers:
        rows = [[key, reader.scores_before.get(key, "–"), value] for key, value in reader.scores_after.items()]
        body = report.texts({"Before training": reader.before, f"After {reader.result['step']} steps": reader.after})
        body += report.table(["", "before", "after"], rows)
        levels = {"best possible": reader.floor} if reader.floor else {}
        body += report.curves({"held-out": reader.curve("val_bits_per_byte")}, "bits per byte", levels)
        found.append((f"A GPT on {reader.name}", body))
    return found
