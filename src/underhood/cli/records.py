"""``underhood records``: register predictions, check whether the committed measurements still stand, refresh those that only moved."""

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from underhood.lab.record import Standing
    from underhood.lab.sabotage import Sabotage

app = typer.Typer(add_completion=False, no_args_is_help=False)

Folder = Annotated[Path, typer.Option("--records", metavar="DIR", help="Where the records are.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RECORDS = Path("records")
COLOURS = {"fresh": "green", "moved": "yellow", "stale": "red", "missing": "red", "unregistered": "red"}
BAD = ("stale", "missing", "unregistered")


@app.callback()
def about() -> None:
    """The committed measurements: register predictions, check, refresh."""


@app.command()
def register(records: Folder = RECORDS, as_json: AsJson = False) -> None:
    """Write down the hash of every prediction, to be committed before it is measured."""
    from underhood.cli.console import paragraph, print_json
    from underhood.lab import record
    from underhood.projects.registry import syllabus

    breaks = [(f"{p.slug}.{s.name}", s) for p in syllabus() if "breaks" in p.stages for s in p.experiments()]
    new = record.register(breaks, records)
    if as_json:
        print_json({"registered": new, "known": len(breaks) - len(new)})
        return
    print(
        paragraph(
            f"{len(new)} new or changed, {len(breaks) - len(new)} as before: {records / record.REGISTER}. " + ("Commit it before you measure." if new else "")
        )
    )
    for name in new:
        print(f"  {name}")


@app.command()
def check(
    records: Folder = RECORDS,
    rerun: Annotated[int, typer.Option(min=0, metavar="N", help="Also run the healthy arm of N baselines again, rotating by date, and compare.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on records whose surroundings changed, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Whether every break has a record that still stands, and whether its prediction was committed first.

    Exit code 1 if one is stale, missing or was predicted too late.
    """
    from underhood.cli.console import note, print_json

    breaks = recorded_breaks()
    standings = [_standing(name, s, records) for name, s in breaks.items()]
    again = [_run_again(name, records) for name in _due(records, breaks, rerun)] if rerun else []
    bad = [s for s in standings if s["state"] in BAD or (strict and s["state"] == "moved")]
    differing = [a for a in again if a["differs"] and a["same_machine"]]
    if as_json:
        print_json({"records": standings, "again": again, "stands": not bad and not differing})
    else:
        _print(standings, again, breaks, records)
    if bad or differing:
        note(f"{len(bad) + len(differing)} of {len(standings) + len(again)} do not stand.")
        raise typer.Exit(1)


@app.command()
def refresh(records: Folder = RECORDS, as_json: AsJson = False) -> None:
    """Run one healthy arm of each baseline behind records whose surroundings changed; those whose figures agree stand again."""
    from underhood.cli.console import note, print_json
    from underhood.lab import record

    breaks = recorded_breaks()
    moved = [name for name, s in breaks.items() if record.standing(name, s, records).state == "moved"]
    found = record.refresh(moved, records, note=note)
    if as_json:
        print_json([vars(s) for s in found])
    else:
        _print([vars(s) for s in found], [], breaks, records)
    if any(s.state == "stale" for s in found):
        raise typer.Exit(1)


def recorded_breaks() -> "dict[str, Sabotage]":
    """Full name → break, for every project that promises records."""
    from underhood.projects.registry import syllabus

    return {f"{p.slug}.{s.name}": s for p in syllabus() if "records" in p.stages for s in p.experiments()}


def _standing(name: str, sabotage: "Sabotage", records: Path) -> dict[str, Any]:
    from underhood.lab import record

    found: Standing = record.standing(name, sabotage, records)
    if found.state != "missing" and record.registered_before(name, records) is False:
        return {"name": name, "state": "unregistered", "why": "its prediction was not in an earlier commit than its record"}
    return vars(found)


def _due(records: Path, breaks: "dict[str, Sabotage]", count: int) -> list[str]:
    """One recorded break for each of ``count`` baselines; another part of the list each day."""
    from underhood.lab.record import path_of

    by_baseline = {s.baseline: name for name, s in reversed(breaks.items()) if path_of(records, name).is_file()}
    names = [by_baseline[b] for b in sorted(by_baseline)]
    start = datetime.datetime.now(datetime.UTC).date().toordinal() * count % len(names) if names else 0
    return [*names[start:], *names[:start]][:count]


def _run_again(name: str, records: Path) -> dict[str, Any]:
    """Run the recorded healthy arm of the first seed again and compare."""
    from underhood.base.files import read_json
    from underhood.cli.console import note
    from underhood.lab import baseline as baselines
    from underhood.lab import identity, record

    stored = read_json(record.path_of(records, name))
    baseline, seed = baselines.get(stored["baseline"]), stored["seeds"][0]
    note(f"{baseline.name}, seed {seed}: one healthy run, about {baseline.seconds:.0f} s")
    arm = record.rerun(baseline, seed)
    same = stored["versions"] == identity.versions() and stored["machine"] == {**identity.machine(), "threads": "1"}
    return {"baseline": baseline.name, "seed": seed, "differs": record.disagreements(stored["healthy"][0]["figures"], arm, baseline), "same_machine": same}


def _print(standings: list[dict[str, Any]], again: list[dict[str, Any]], breaks: "dict[str, Sabotage]", records: Path) -> None:
    from rich.console import Console

    from underhood.lab.table import standings_table

    console = Console(highlight=False, emoji=False)
    worst_first = sorted(standings, key=lambda s: (list(COLOURS).index(s["state"]) * -1, s["name"]))
    shown = [(s["name"], s["state"], s["why"]) for s in worst_first if s["state"] != "fresh" or s["why"]]
    if shown:
        console.print(standings_table(shown, colours=COLOURS))
    for run in again:
        told = "agrees with its record" if not run["differs"] else f"differs: {', '.join(run['differs'])}"
        aside = "" if run["same_machine"] or not run["differs"] else " (another machine or version: digits need not agree)"
        console.print(f"{run['baseline']}, seed {run['seed']}: {told}{aside}", markup=False, soft_wrap=True)
    for line in _remedies(standings, breaks, records):
        console.print(line, markup=False, soft_wrap=True)
    counts = ", ".join(f"{n} {state}" for state in COLOURS if (n := sum(s["state"] == state for s in standings)))
    console.print(f"{len(standings)} records: {counts or 'none'}", markup=False, style="bold")


def _remedies(standings: list[dict[str, Any]], breaks: "dict[str, Sabotage]", records: Path) -> list[str]:
    """The exact command for what does not stand, with its cost."""
    from underhood.lab import baseline as baselines
    from underhood.lab.compare import ENOUGH_SEEDS
    from underhood.lab.wording import duration

    where = "" if records == RECORDS else f" --records {records}"
    lines, cores = [], os.cpu_count() or 1
    todo = [s["name"] for s in standings if s["state"] in ("stale", "missing")]
    for slug in dict.fromkeys(name.partition(".")[0] for name in todo):
        mine, whole = [n for n in todo if n.startswith(f"{slug}.")], [n for n in breaks if n.startswith(f"{slug}.")]
        together = mine == whole and len(mine) > 1
        for name in [slug] if together else mine:
            asked = mine if together else [name]
            arms = {baselines.get(breaks[n].baseline).name: baselines.get(breaks[n].baseline).seconds for n in asked}
            seconds = ENOUGH_SEEDS * (sum(arms.values()) + sum(baselines.get(breaks[n].baseline).seconds for n in asked)) / cores
            lines.append(f"underhood break {name} --record{where}   # about {duration(seconds)}")
    if any(s["state"] == "moved" for s in standings):
        seconds = sum(baselines.get(b).seconds for b in {breaks[s["name"]].baseline for s in standings if s["state"] == "moved"})
        lines.append(f"underhood records refresh{where}   # about {duration(seconds)}")
    return lines
