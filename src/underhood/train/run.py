"""A run folder: everything that one training run needs and leaves behind.

``config.json`` (a ``RunConfig``), ``tokenizer.json``, ``train/`` and ``val/`` (shards of token ids, memory-mapped), ``metrics.jsonl`` (a line a step),
``step-000123/`` (checkpoints). The text is read and tokenized once; resuming needs the folder alone.
"""

import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from underhood.base.config import from_plain, get_part, to_plain
from underhood.base.errors import ConfigError, DataError, UserError, VocabularyTooLarge
from underhood.base.files import TEMPORARY, named_os_errors, read_json, write_json
from underhood.data.corpora import Corpus
from underhood.data.sampler import Batches, SequentialSampler
from underhood.data.shards import Shards, write_shards
from underhood.data.tokens import end_id
from underhood.nn.gpt import build_gpt
from underhood.text.bpe import BPE
from underhood.text.bpe_fast import FastBPE
from underhood.text.chars import CharTokenizer
from underhood.text.special import END_OF_TEXT
from underhood.text.tokenizer import Tokenizer, load_tokenizer
from underhood.train.checkpoint import checkpoints
from underhood.train.loop import Callback, Figures, Trainer
from underhood.train.recipes import RunConfig
from underhood.train.validate import validation_loss

CONFIG, TOKENIZER, METRICS = "config.json", "tokenizer.json", "metrics.jsonl"
READABLE = "bpe-readable"
CHECK_TOKENS = 1 << 14  # of validation text looked at each time
TRIAL_STEPS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """An open run folder."""

    folder: Path
    config: RunConfig
    tokenizer: Tokenizer
    train: Shards
    val: Shards

    def trainer(self, callbacks: Sequence[Callback] = (), *, folder: Path | None = None) -> Trainer:
        """A trainer at step 0, whose checkpoints go to ``folder`` (None: nowhere)."""
        config, context = self.config, self.config.model.context
        sampler = get_part(config, "sampler")(len(self.train), context, config.batch_size, config.seed)
        model = build_gpt(config.model, config.seed)
        facts = {"tokenizer": self.train.meta.tokenizer_sha256, "batch_size": config.batch_size, "seed": config.seed}
        return Trainer(model, config.train, Batches(self.train, sampler, context), self.validate, callbacks, folder=folder, facts=facts)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss in nats per token and bits per byte, on the first ``CHECK_TOKENS`` held-out tokens (windows side by side)."""
        context = self.config.model.context
        windows = max(1, min(CHECK_TOKENS, len(self.val) - 1) // context)
        per_batch = min(windows, self.config.batch_size)
        batches = Batches(self.val, SequentialSampler(len(self.val), context, per_batch), context)
        loss = validation_loss(model, (batches.next() for _ in range(max(1, windows // per_batch))))
        return {"loss": loss, "bits_per_byte": loss / math.log(2) * len(self.val) / self.val.meta.n_bytes}

    def text_of(self, ids: Iterable[int]) -> str:
        """Ids as text, end marks as blank lines."""
        return self.tokenizer.decode(ids).replace(END_OF_TEXT, "\n\n")


def prepare(config: RunConfig, corpus: Corpus, folder: Path, note: Callable[[str], None] = lambda text: None, *, fit: bool = False) -> Run:
    """Make a new run folder: train the tokenizer (or read it), tokenize, write the config. With ``fit`` a vocabulary that the text cannot fill is made smaller.

    Raises ``ConfigError`` when the folder holds a run already, ``DataError`` when the text is too short for the context or cannot fill the vocabulary.
    """
    if (folder / CONFIG).exists():
        raise ConfigError("holds a run already", where=str(folder), remedy="Continue it with --resume, or choose another folder with --out.")
    with named_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in [*folder.glob(f"{TEMPORARY}*"), folder / "train", folder / "val"]:
            shutil.rmtree(left, ignore_errors=True)  # of a preparation that was interrupted
    tokenizer = make_tokenizer(config, corpus, note, fit=fit)
    tokenizer.save(folder / TOKENIZER)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size, model=dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    for name, documents in (("train", corpus.train), ("val", corpus.val)):
        note(f"encoding {name}: {sum(map(len, documents)):,} characters")
        _encode(documents, tokenizer, folder / name, corpus.source)
    shards = {name: Shards(folder / name) for name in ("train", "val")}
    for name, found in shards.items():
        if len(found) <= config.model.context:
            remedy = f"Give a longer text, or a context of at most {len(found) - 1}: --set model.context={len(found) - 1}"
            raise DataError(
                f"{len(found)} tokens in the {name} part", where=corpus.source, expected=f"more than the context of {config.model.context}", remedy=remedy
            )
    write_json(folder / CONFIG, to_plain(config))
    return Run(folder=folder, config=config, tokenizer=tokenizer, **shards)


def open_run(folder: Path) -> Run:
    """A run folder that ``prepare`` made. Raises ``ConfigError`` when it is none, ``DataError`` when its data is damaged."""
    if not (folder / CONFIG).exists():
        raise ConfigError(f"no {CONFIG} here", where=str(folder), remedy="Start a run with: underhood train --data PATH")
    config = from_plain(RunConfig, read_json(folder / CONFIG), where=str(folder / CONFIG))
    digest = file_digest(folder / TOKENIZER)
    shards = {name: Shards(folder / name, digest) for name in ("train", "val")}
    tokenizer = load_tokenizer(folder / TOKENIZER, readable=config.tokenizer == READABLE)
    return Run(folder=folder, config=config, tokenizer=tokenizer, **shards)


def make_tokenizer(config: RunConfig, corpus: Corpus, note: Callable[[str], None] = lambda text: None, *, fit: bool = False) -> Tokenizer:
    """The tokenizer that ``config.tokenizer`` names, trained on the training part where it is not a file."""
    if config.tokenizer == "chars":
        return CharTokenizer.train("".join(corpus.train) + "".join(corpus.val) + "\n")
    if config.tokenizer not in ("bpe", READABLE):
        return load_tokenizer(config.tokenizer)
    kind = BPE if config.tokenizer == READABLE else FastBPE
    note(f"training a tokenizer of {config.vocab_size} tokens")
    try:
        return kind.train(corpus.train, config.vocab_size, config.pattern, special=(END_OF_TEXT,))
    except VocabularyTooLarge as error:
        if not fit:
            raise
        note(f"the text fills a vocabulary of {error.largest}, no more")
        return kind.train(corpus.train, error.largest, config.pattern, special=(END_OF_TEXT,))


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with named_os_errors(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()


def _encode(documents: Sequence[str], tokenizer: Tokenizer, folder: Path, source: str) -> None:
    """Each document, then an end mark; a mark in front of the first."""
    end = end_id(tokenizer)
    mark = [] if end is None else [end]

    def ids() -> Iterator[list[int]]:
        yield mark
        for text in documents:
            yield tokenizer.encode(text) + mark

    n_bytes = sum(len(text.encode()) + len(mark) for text in documents)
    write_shards(folder, ids(), vocab_size=tokenizer.vocab_size, tokenizer_sha256=file_digest(folder.parent / TOKENIZER), source=source, n_bytes=n_bytes)


# ── time and memory ───────────────────────────────────────────────────────────────────────────────────────────────────


def seconds_per_step(run: Run) -> float:
    """Measured on a throwaway copy: the fastest of a few steps. Raises ``ConfigError`` when the memory does not hold a batch."""
    trainer = run.trainer()
    try:
        times = [trainer.step().seconds for _ in range(TRIAL_STEPS)]
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _too_large(run) from error
    except RuntimeError as error:
        if "memory" in str(error).lower():
            raise _too_large(run) from error
        raise
    return min(times)


def _too_large(run: Run) -> UserError:
    config = run.config
    where = f"batch_size {config.batch_size}, context {config.model.context}, {config.model.n_params:,} parameters"
    return ConfigError("one step does not fit into memory", where=where, remedy="Try --set batch_size=4, or a smaller --depth.")


def with_steps(run: Run, steps: int) -> Run:
    """The same run for ``steps`` steps, warm-up and validation to match; written to the folder's config."""
    old = run.config.train
    schedule = dataclasses.replace(old.schedule, warmup=max(1, min(old.schedule.warmup, steps // 10)))
    every = old.validate_every or max(1, steps // 20)
    train = dataclasses.replace(old, steps=steps, schedule=schedule, validate_every=every, save_every=old.save_every or max(1, steps // 10))
    config = dataclasses.replace(run.config, train=train)
    write_json(run.folder / CONFIG, to_plain(config))
    return dataclasses.replace(run, config=config)


# ── what is written down ──────────────────────────────────────────────────────────────────────────────────────────────


class Metrics(Callback):
    """Appends a line to ``metrics.jsonl`` for each step and each validation; on resume, lines from after the checkpoint are dropped."""

    def __init__(self, folder: Path, *, from_step: int = 0) -> None:
        self.path, self.began = folder / METRICS, time.perf_counter()
        kept = [line for line in read_metrics(folder) if line["step"] <= from_step]
        with named_os_errors(self.path):
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.before = kept[-1]["elapsed_s"] if kept else 0.0

    def write(self, step: int, **values: Any) -> None:
        """One line."""
        line = {"step": step, "elapsed_s": round(self.before + time.perf_counter() - self.began, 2), **values}
        with named_os_errors(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def after_step(self, trainer: Trainer, figures: Figures) -> None:
        """Loss, gradient norm, learning rate, tokens per second."""
        rate = round(figures.tokens / figures.seconds)
        self.write(figures.step, loss=figures.loss, gradient_norm=figures.gradient_norm, lr=figures.lr, tokens_per_s=rate)

    def after_validation(self, trainer: Trainer, step: int, figures: Mapping[str, float]) -> None:
        """Loss and bits per byte on held-out text."""
        self.write(step, val_loss=figures["loss"], val_bits_per_byte=figures["bits_per_byte"])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines so far; a last line that was cut off is left out."""
    path = folder / METRICS
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def has_checkpoint(folder: Path) -> bool:
    """Whether there is anything to resume."""
    return bool(checkpoints(folder))
