"""``underhood demo``: train two small GPTs, read them before and after, break one three ways, write the report. Offline, two cores, about four minutes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from underhood.cli.showcase import Reader

RUNS = Path("runs")
BREAKS = ("attention.no_mask", "attention.no_softmax", "gpt.no_residual")
SEEDS = (0, 1, 2)


def command(
    data: Annotated[str | None, typer.Option(help="Your own text instead: a corpus by name, a file or a folder.")] = None,
    minutes: Annotated[float, typer.Option(help="How long the models train.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the two models; the breaks use seeds 0, 1 and 2.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON; the rest goes to stderr.")] = False,
) -> None:
    """Train, sample, break, report: the whole thing in about four minutes, offline, on two cores and 2 GB of memory.

    A tokenizer and a four-block GPT on tales and on the English of Python's own documentation; text before and after, with its scores; then the GPT is
    broken three ways over three paired seeds (a preview: a record takes five), and everything is written into one HTML page.
    """
    import contextlib
    import sys

    from underhood.cli.console import print_json

    with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
        figures = run(data, minutes, seed)
    if json:
        print_json(figures)


def run(data: str | None, minutes: float, seed: int) -> dict[str, Any]:
    """The demo from the first line to the last; its figures."""
    from underhood.cli.showcase import Clock, say, train_side_by_side

    clock = Clock()
    names = [data] if data else ["tales", "pydoc"]
    folder = _new_folder()
    say(f"1 · Train a four-block GPT on {' and on '.join(names)}, {minutes:g} minutes, one core each. Everything goes to {folder}/.", clock)
    readers = train_side_by_side(names, folder, minutes, seed, clock)
    for reader in readers:
        reader.read_after(clock)
    say(f"2 · Break it {len(BREAKS)} ways, {len(SEEDS)} paired seeds each, {len(SEEDS) * (len(BREAKS) + 1)} short runs side by side.", clock)
    results = _break(folder, data, clock)
    _say_breaks(results)
    page = _write(folder, readers, results, data)
    say(f"3 · The report: {page}", clock)
    print_next(readers[0])
    return {"models": [r.to_plain() for r in readers], "breaks": results, "seconds": round(clock.seconds, 1), "report": str(page)}


def _new_folder() -> Path:
    """runs/demo, or runs/demo-2 … where there is one: nothing is overwritten."""
    found = RUNS / "demo"
    number = 2
    while found.exists():
        found, number = RUNS / f"demo-{number}", number + 1
    return found


def _break(folder: Path, data: str | None, clock: Any) -> list[dict[str, Any]]:
    """The three breaks on the demo's own baseline; on a slow machine with fewer steps, never fewer seeds."""
    from underhood.cli.break_progress import Watcher
    from underhood.cli.showcase import demo_breaks, fitting_steps, say, workers
    from underhood.lab.experiment import experiment, plan
    from underhood.lab.record import to_plain

    steps, declared = fitting_steps(data)
    if steps < declared:
        say(f"This machine is slower than the one the demo was sized on: {steps} steps instead of {declared}.", clock)
    settings = {"data": data or "tales", "train.steps": steps, "train.schedule.warmup": max(1, steps // 10)}
    settings = {k: v for k, v in settings.items() if (k, v) not in (("data", "tales"), ("train.steps", declared)) and (steps < declared or k == "data")}
    breaks = demo_breaks(BREAKS, scored=data in (None, "tales"))
    with Watcher(plan(breaks, SEEDS, claims=False, settings=settings), {}, workers()) as watcher:
        found = experiment(breaks, SEEDS, folder, claims=False, settings=settings, listen=watcher.listen)
    return [to_plain(r) for r in found]


def _say_breaks(results: list[dict[str, Any]]) -> None:
    """One line a break with the figures of every seed, and a line of what it writes."""
    from underhood.cli.showcase import break_lines

    for line in break_lines(results):
        print(line)


def _write(folder: Path, readers: "list[Reader]", results: list[dict[str, Any]], data: str | None) -> Path:
    """results.json and report.html."""
    from underhood.base.files import write_atomic, write_json
    from underhood.cli.showcase import sections
    from underhood.lab.report import render

    write_json(folder / "results.json", results)
    intro = "A small GPT before and after a minute of training, then broken in three ways. Three seeds are a preview: they show directions, not sizes."
    html = render(results, title=f"underhood demo: {data or 'tales and pydoc'}", intro=intro, sections=sections(readers))
    return write_atomic(folder / "report.html", html)


def print_next(reader: "Reader") -> None:
    """What to try now."""
    rows = (
        (f"underhood sample {reader.folder} --prompt 'Once upon a time'", "let it write"),
        ("underhood break attention.no_scale --seeds 5", "a break with a verdict"),
        ("underhood list attention", "where attention lives, is broken, is checked"),
        ("underhood train --data YOUR_FOLDER", "a model of your own text"),
    )
    print("\nNext:")
    for line, says in rows:
        print(f"  {line:<62} {says}")
