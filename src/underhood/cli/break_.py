"""``underhood break``: sabotage a layer over paired seeds, judge the predictions, write the report."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from underhood.cli.break_progress import Watcher
    from underhood.lab.experiment import Result
    from underhood.lab.sabotage import Sabotage

Breaks = list[tuple[str, "Sabotage"]]

RUNS = Path("runs")
MOST_SEEDS = 100
EXTENSION = 10  # new seeds, once, for a prediction that five seeds do not decide


def command(
    target: Annotated[str, typer.Argument(metavar="PROJECT[.BREAK]", help="A project, or one of its breaks.")],
    seeds: Annotated[int, typer.Option(min=1, max=MOST_SEEDS, help="Seeds a side; below 5 it is a preview.")] = 5,
    first: Annotated[int, typer.Option("--from", min=0, help="The first seed.")] = 0,
    baseline: Annotated[str | None, typer.Option(metavar="NAME", help="Another healthy run than the declared one.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the measurement into the records.")] = False,
    records: Annotated[Path, typer.Option(metavar="DIR", help="Where the records are.")] = Path("records"),
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of this run (default: runs/ID).")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Arms side by side (default: one a core).", show_default=False)] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is measured already; with --mine, begin with a new copy.")] = False,
    predict: Annotated[bool, typer.Option("--predict", help="You first: say what it will do, then see what was measured.")] = False,
    mine: Annotated[bool, typer.Option("--mine", help="Sabotage a copy of my/PROJECT.py yourself and run that.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; progress goes to stderr.")] = False,
) -> None:
    """Break a layer on purpose, run it beside the healthy one over the same seeds, and judge what was predicted.

    Finished arms are kept under runs/: Ctrl-C stops, the same command goes on.
    """
    from underhood.lab import record as ledger

    if predict or mine:
        _learn(target, predict, mine, seeds, workers, records, fresh)
        return
    breaks = chosen(target, baseline)
    if record:
        _may_record(breaks, seeds, baseline, records)
    numbers = range(first, first + seeds)
    again = f"underhood break {target} --seeds {seeds}" + (f" --from {first}" if first else "") + (f" --baseline {baseline}" if baseline else "")
    folder = out or RUNS / run_id(target, breaks)
    found = measure(breaks, numbers, store=out or RUNS, workers=workers, fresh=fresh, again=again + (f" --out {out}" if out else ""))
    results = [ledger.to_plain(r) for r in found]
    page = save(folder, results, title=target, command=again)
    paths = [ledger.write_record(r, records) for r in found] if record else []
    _say(results, page, paths, records, target, as_json)


def _learn(target: str, predict: bool, mine: bool, seeds: int, workers: int, records: Path, fresh: bool) -> None:
    from underhood.base.errors import UserError
    from underhood.cli import break_learner

    if predict and mine:
        raise UserError("both --predict and --mine", expected="one of them")
    if predict:
        break_learner.predict(target, seeds, records)
    else:
        break_learner.mine(target, seeds, workers, fresh)


def chosen(target: str, baseline: str | None = None) -> Breaks:
    """The breaks that ``target`` names, with their full names. Raises ``UserError`` where a prediction is about a figure that the baseline does not have."""
    import dataclasses

    from underhood.base.errors import UserError
    from underhood.lab import baseline as baselines
    from underhood.projects.registry import find_break, find_project

    project = find_project(target.partition(".")[0])
    found = [find_break(target)[1]] if "." in target else list(project.experiments())
    if baseline is not None:
        found = [dataclasses.replace(s, baseline=baseline) for s in found]
    for sabotage in found:
        known = baselines.get(sabotage.baseline).metrics
        missing = sorted({p.metric for p in sabotage.expect if hasattr(p, "metric")} - set(known))
        if missing:
            raise UserError(f"{sabotage.baseline} does not report {', '.join(missing)}", where=f"{project.slug}.{sabotage.name}", expected=", ".join(known))
    if not found:
        raise UserError("the project declares no breaks", where=project.slug)
    return [(f"{project.slug}.{s.name}", s) for s in found]


def run_id(target: str, breaks: Breaks) -> str:
    """The same for the same declarations, so that a run which is started again finds its folder."""
    from underhood.lab import baseline as baselines
    from underhood.lab import identity

    return f"{target}-{identity.digest([identity.declaration_hash(s, baselines.get(s.baseline)) for _, s in breaks])[:8]}"


def _may_record(breaks: Breaks, seeds: int, baseline: str | None, records: Path) -> None:
    """Refuse before the measurement what ``write_record`` would refuse after it."""
    from underhood.base.errors import UserError
    from underhood.lab import identity
    from underhood.lab.compare import ENOUGH_SEEDS
    from underhood.lab.record import registered

    if seeds < ENOUGH_SEEDS:
        raise UserError(f"{seeds} seeds are a preview", where="--record", expected=f"--seeds {ENOUGH_SEEDS} or more")
    if baseline is not None:
        raise UserError("a record is of the declared baseline", where="--record", remedy="Leave out --baseline, or change the declaration.")
    known = registered(records)
    new = [name for name, s in breaks if known.get(name, {}).get("prediction") != identity.prediction_hash(s)]
    if new:
        raise UserError(f"not registered: {', '.join(new)}", where="--record", remedy="Run `underhood records register` and commit before measuring.")


def watcher_of(breaks: Breaks, seeds: Sequence[int], *, store: Path, workers: int = 0, fresh: bool = False, claims: bool = True) -> "Watcher":
    """What is left to run, with its estimate; what is shown while it runs."""
    from underhood.cli.break_progress import Watcher
    from underhood.lab.experiment import ARMS, plan
    from underhood.lab.run import ArmStore

    jobs, arms = plan(breaks, seeds, claims=claims), ArmStore(store / ARMS)
    stored = {} if fresh else {(j.label, j.baseline.name): sum(arms.get(j, s) is not None for s in j.seeds) for j in jobs}
    return Watcher(jobs, stored, workers or os.cpu_count() or 1)


def measure(breaks: Breaks, seeds: Sequence[int], *, store: Path, workers: int = 0, fresh: bool = False, claims: bool = True, again: str) -> "list[Result]":
    """Say how long it takes, run with live progress, return the results; Ctrl-C says how to go on (``again``) and exits with 130."""
    from underhood.cli.console import note
    from underhood.lab.experiment import ARMS, experiment

    watcher = watcher_of(breaks, seeds, store=store, workers=workers, fresh=fresh, claims=claims)
    note(watcher.estimate())
    try:
        with watcher:
            return experiment(breaks, seeds, store, claims=claims, workers=workers, listen=watcher.listen, fresh=fresh)
    except KeyboardInterrupt:
        note(f"Stopped. {watcher.done} of {watcher.total} arms are kept in {store / ARMS}. Go on with: {again}")
        raise typer.Exit(130) from None


def save(folder: Path, results: list[dict[str, Any]], *, title: str, command: str) -> Path:
    """``config.json``, ``results.json`` and ``report.html`` in ``folder``; returns the report's path."""
    from underhood.base.files import write_atomic, write_json
    from underhood.lab.report import render
    from underhood.lab.run import save_config

    save_config(folder, command=command, breaks=[r["break"] for r in results], seeds=results[0]["seeds"])
    write_json(folder / "results.json", results)
    return write_atomic(folder / "report.html", render(results, title=f"{title}, broken and measured"))


def _say(results: list[dict[str, Any]], page: Path, paths: list[Path], records: Path, target: str, as_json: bool) -> None:
    from underhood.cli.console import note, paragraph, print_json
    from underhood.lab.table import print_results

    if as_json:
        print_json(results)
        note(f"Report: {page}")
        return
    print_results(results)
    for line in (*compared(results, records, skip=bool(paths)), *_undecided(results, target)):
        print(paragraph(line))
    print(f"Report: {page}")
    if paths:
        print(f"Records: {', '.join(str(p) for p in paths)}")


def compared(results: list[dict[str, Any]], records: Path, *, skip: bool = False) -> list[str]:
    """Whether the directions are those of the committed records of the same declarations."""
    from underhood.base.files import read_json
    from underhood.lab.record import path_of
    from underhood.lab.wording import directions_agree, predicted

    if skip:
        return []
    agree, total, lines = 0, 0, []
    for result in results:
        path = path_of(records, result["break"])
        stored = read_json(path) if path.is_file() else {}
        if stored.get("declaration") != result["declaration"]:
            continue
        for old, new in zip(stored["judgements"], result["judgements"], strict=True):
            total += 1
            agree += directions_agree(old, new)
            if not directions_agree(old, new):
                lines.append(f"{result['break']}: {predicted(new['prediction'])} points another way than its record ({old['says']}).")
    return [f"{agree} of {total} directions agree with the committed records.", *lines] if total else []


def _undecided(results: list[dict[str, Any]], target: str) -> list[str]:
    open_ones = [r["break"] for r in results if any(j["verdict"] == "inconclusive" for j in r["judgements"])]
    if not open_ones:
        return []
    seeds = results[0]["seeds"]
    if len(seeds) >= EXTENSION:
        return [f"Still inconclusive: {', '.join(open_ones)}. The seeds may be extended once; now sharpen the baseline or withdraw the prediction on record."]
    name = open_ones[0] if len(open_ones) == 1 else target
    return [f"Inconclusive: {', '.join(open_ones)}. Ten new seeds may decide, once: underhood break {name} --seeds {EXTENSION} --from {seeds[-1] + 1}"]
