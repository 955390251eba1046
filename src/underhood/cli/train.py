"""``underhood train``: a GPT on a corpus by name, a file or a folder; says what it will do and how long, shows progress, can be stopped and resumed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from underhood.train.recipes import RunConfig
    from underhood.train.run import Run

MINUTES = 5.0
MOST_EPOCHS = 20  # times through the text when nobody says how long: after that a small text is learned by heart


def command(
    data: Annotated[str, typer.Option(help="tales, pydoc, stdlib, shakespeare, a file, or a folder of text.")] = "tales",
    out: Annotated[Path | None, typer.Option(help="The run folder (default: runs/NAME of the data).")] = None,
    depth: Annotated[int, typer.Option(help="Blocks; width, heads and learning rate follow from it.")] = 4,
    minutes: Annotated[float | None, typer.Option(help=f"Train for about so long (default {MINUTES:g}); the steps are counted out on the first few.")] = None,
    steps: Annotated[int | None, typer.Option(help="Train for so many steps instead: the same run, whatever the machine.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, as in model.n_layer=6; may be given many times.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another run.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the latest whole checkpoint of the run folder.")] = False,
    mine: Annotated[bool, typer.Option("--mine", help="Train with every part in my/ whose checks hold, on the plain path.")] = False,
    with_: Annotated[list[str] | None, typer.Option("--with", metavar="PROJECT=FILE", help="Train with this part of yours; may be repeated.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Train our parts on the plain path that --mine uses: what to compare yours with.")] = False,
    prompt: Annotated[str, typer.Option(help="What the samples on the way begin with (default: the text's own beginnings).")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON; progress goes to stderr.")] = False,
) -> None:
    """Train a GPT on text.

    Ctrl-C finishes the step, saves, and says how to go on; twice, it stops at once and the checkpoint before it stands.
    Memory stays bounded: the text is read once, then tokens are mapped from the disk.
    """
    from underhood.base.errors import UserError
    from underhood.cli.console import note, print_json
    from underhood.cli.parts import bound, chosen_parts
    from underhood.train import run as runs

    if minutes is not None and steps is not None:
        raise UserError("both --minutes and --steps", expected="one of them")
    for name, value in (("--minutes", minutes), ("--steps", steps)):
        if value is not None and value <= 0:
            raise UserError(f"{name} {value:g}", expected=f"more than 0 {name[2:]}")
    parts = chosen_parts(mine, with_ or [])
    folder = out or Path("runs") / (Path(data).name.partition(":")[0] or "text")
    with bound(parts):
        if resume:
            run = runs.open_run(folder)
            note(f"resuming {folder}")
        else:
            run = _prepare(data, folder, depth, seed, config, set_ or [], by_hand=plain or bool(parts))
        run = _planned(run, minutes, steps, resume=resume)
        if parts:
            _say_parts(run, [] if resume else _reference(run, data, depth, config, set_ or []))
        result = _train(run, resume=resume, prompt=prompt)
    if json:
        print_json(result)
    else:
        _say_result(run, result)


def _prepare(data: str, folder: Path, depth: int, seed: int, config: Path | None, settings: list[str], *, by_hand: bool = False) -> "Run":
    """A new run folder, sized from the text; order of settings: recipe, TOML, --set."""
    import dataclasses

    from underhood.base.config import override, read_toml
    from underhood.cli.console import note
    from underhood.data.corpora import load_corpus
    from underhood.train import run as runs
    from underhood.train.by_hand import by_hand as plain_path
    from underhood.train.by_hand import in_words
    from underhood.train.recipes import small

    corpus = load_corpus(data)
    characters = sum(map(len, corpus.train)) + sum(map(len, corpus.val))
    note(f"{corpus.name}: {characters:,} characters" + (f"; {corpus.report}" if corpus.report else ""))
    chosen: RunConfig = dataclasses.replace(small(depth, data=data, characters=characters), seed=seed)
    first = plain_path(chosen, depth) if by_hand else chosen
    asked = override(read_toml(first, config) if config else first, settings)
    if by_hand:
        note(f"the plain path: {in_words(asked)}; a training without --mine, --with or --plain has {in_words(chosen)}")
    return runs.prepare(asked, corpus, folder, note, fit=asked.vocab_size == small(depth, characters=characters).vocab_size)


def _reference(run: "Run", data: str, depth: int, config: Path | None, settings: list[str]) -> list[str]:
    """The words of the command that trains our parts as this run trains the learner's."""
    words = ["underhood", "train", "--plain", "--data", data, "--depth", str(depth), "--seed", str(run.config.seed), "--steps", str(run.config.train.steps)]
    words += ["--config", str(config)] if config else []
    return [*words, *(word for setting in settings for word in ("--set", setting)), "--out", f"{run.folder}-plain"]


def _say_parts(run: "Run", reference: list[str]) -> None:
    """Which layers stay ours, and how to train the same model of ours alone."""
    import shlex

    import torch

    from underhood.cli.console import note
    from underhood.cli.parts import note_given
    from underhood.nn import gpt

    with torch.device("meta"):
        note_given(gpt.GPT(run.config.model))
    if reference:
        note(f"to compare, the reference on the same path: {shlex.join(reference)}")


def _planned(run: "Run", minutes: float | None, steps: int | None, *, resume: bool) -> "Run":
    """The run with its number of steps settled; says what it is, how long it takes and what it needs."""
    import psutil

    from underhood.cli.console import note
    from underhood.train import run as runs

    seconds = runs.seconds_per_step(run)
    tokens = run.config.batch_size * run.config.model.context * run.config.train.accumulate
    if steps is None and (minutes is not None or not resume):
        steps = max(20, round((minutes or MINUTES) * 60 / (seconds * 1.1)))  # a tenth for validation, samples and saving
        if minutes is None:
            steps = min(steps, max(20, MOST_EPOCHS * len(run.train) // tokens))
    if steps is not None:
        run = runs.with_steps(run, steps)
    config, total = run.config, run.config.train.steps
    note(f"{config.model.n_params / 1e6:.2f} M parameters, {config.model.n_layer} blocks, vocabulary {config.model.vocab_size}, context {config.model.context}")
    note(f"{total:,} steps of {tokens:,} tokens ({total * tokens / len(run.train):.1f} times through the text): about {_duration(total * seconds * 1.1)}")
    note(f"memory so far {psutil.Process().memory_info().rss / 2**20:,.0f} MB; checkpoints in {run.folder}")
    return run


def _train(run: "Run", *, resume: bool, prompt: str) -> dict[str, Any]:
    """Train to the end or to an interruption."""
    from underhood.base.errors import UserError
    from underhood.cli.console import note
    from underhood.cli.train_progress import TrainingProgress
    from underhood.train import run as runs

    trainer = run.trainer(folder=run.folder)
    if resume and runs.has_checkpoint(run.folder):
        for problem in trainer.resume():
            note(f"passed over: {problem}")
        note(f"from step {trainer.steps_done}")
        if trainer.steps_done >= run.config.train.steps:
            wanted = f"more than {trainer.steps_done} steps"
            raise UserError(f"{run.config.train.steps} steps asked for", where=str(run.folder), expected=wanted, remedy="Say how many in all: --steps N")
    with TrainingProgress(run, prompt, trainer.steps_done) as progress:
        trainer.callbacks = [progress.metrics, progress]
        how = trainer.run()
        figures = run.validate(trainer.model)
        text = progress.sample(trainer)
    progress.metrics.write(trainer.steps_done, sample=text)
    return {
        "folder": str(run.folder),
        "how": how,
        "step": trainer.steps_done,
        "steps": run.config.train.steps,
        "val_loss": figures["loss"],
        "val_bits_per_byte": figures["bits_per_byte"],
        "best": trainer.best,
        "tokens": trainer.tokens_seen,
        "sample": text,
    }


def _say_result(run: "Run", result: dict[str, Any]) -> None:
    print(f"{result['sample']}\n")
    loss = f"held-out loss {result['val_loss']:.3f} nats a token, {result['val_bits_per_byte']:.3f} bits per byte"
    print(f"{loss} after {result['step']} of {result['steps']} steps")
    best_step, best_loss = result["best"] or (result["step"], result["val_loss"])
    if best_loss < 0.95 * result["val_loss"]:
        print(f"it was {best_loss:.3f} at step {best_step}: since then the model has been learning the text by heart. Give more text or fewer steps.")
        print(f"that checkpoint is kept: underhood sample {run.folder / f'step-{best_step:06d}'}")
    if result["how"] == "stopped":
        print(f"stopped and saved. Go on with: underhood train --resume --out {run.folder}")
    else:
        print(f"next: underhood sample {run.folder} --prompt 'Once upon a time'")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
