"""``underhood run``: build, verify, break and measure one project."""

import datetime
import importlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from underhood.lab.sabotage import Sabotage
    from underhood.projects.registry import Project

PREVIEW_SEEDS = 3
MEASURES = "measures"  # the folder of the records that holds what `measure` gave, a file a project
QUICK_SECONDS = 3.0  # an arm of this length counts as quick


def command(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Slug, number or a word of the title.")],
    tiny: Annotated[bool, typer.Option("--tiny", help="One break, three seeds: under a minute.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Every break, five seeds.")] = False,
    measure_only: Annotated[bool, typer.Option("--measure-only", help="Only measure what the layer costs.")] = False,
    record: Annotated[bool, typer.Option("--record", help="With --measure-only: write the figures into the records.")] = False,
    records: Annotated[Path, typer.Option(metavar="DIR", help="Where the records are.")] = Path("records"),
    workers: Annotated[int, typer.Option(min=0, help="Arms side by side (default: one a core).", show_default=False)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; progress goes to stderr.")] = False,
) -> None:
    """Build one project's layer, check it, break it, measure it.

    Without an option every break runs with three seeds, which shows directions.
    """
    from underhood.base.errors import UserError
    from underhood.cli.console import print_json
    from underhood.projects.registry import find_project

    if tiny + full + measure_only > 1:
        raise UserError("more than one of --tiny, --full and --measure-only", expected="one of them")
    if record and not measure_only:
        raise UserError("--record without --measure-only", expected="both", remedy="Breaks are recorded by: underhood break PROJECT --record")
    found = find_project(project)
    told = _Teller(silent=as_json)
    if measure_only:
        figures = _measure(found, told, records if record else None)
        if as_json:
            print_json({"project": found.slug, "figures": figures})
        return
    breaks = [_quick_break(found)] if tiny else list(found.experiments())
    _announce(found, breaks, full, workers, told)
    built = _build(found, told)
    checks = _verify(found, told)
    results = _break(found, breaks, full, workers, told)
    figures = _measure(found, told)
    if as_json:
        print_json({"project": found.slug, "built": built, "checks": checks, "results": results, "figures": figures})
    if any(c["failed"] for c in checks):
        raise typer.Exit(1)
    _mark_done(found, told)


class _Teller:
    """Prints for a person; under ``--json`` on stderr, so that stdout holds JSON alone."""

    def __init__(self, *, silent: bool) -> None:
        self.silent = silent

    def __call__(self, text: str) -> None:
        from underhood.cli.console import note, paragraph

        if self.silent:
            note(text)
        else:
            indent = text[: len(text) - len(text.lstrip())]
            print(paragraph(text.strip(), indent=indent), flush=True)


def _announce(project: "Project", breaks: "list[Sabotage]", full: bool, workers: int, told: _Teller) -> None:
    """What is going to happen and how long it takes: the breaks are nearly all of it."""
    from underhood.cli.break_ import RUNS, watcher_of

    watcher = watcher_of([(f"{project.slug}.{s.name}", s) for s in breaks], range(_seeds(full)), store=RUNS, workers=workers, claims=full)
    told(f"{project.number}  {project.title}: build, verify, break, measure")
    told(f"{len(breaks)} break{'s' if len(breaks) != 1 else ''}, {_seeds(full)} seeds. {watcher.estimate()}")


def _quick_break(project: "Project") -> "Sabotage":
    """The first break of a part whose baseline is quick, else the quickest of all."""
    from underhood.lab import baseline as baselines

    parts = [s for s in project.breaks() if s.kind == "part"]
    seconds = {s.name: baselines.get(s.baseline).seconds for s in parts}
    return next((s for s in parts if seconds[s.name] <= QUICK_SECONDS), min(parts, key=lambda s: seconds[s.name]))


def _build(project: "Project", told: _Teller) -> list[str]:
    began = time.perf_counter()
    for seam in project.seams:
        importlib.import_module(seam.partition(":")[0])
    project.part_now()
    told(f"Build: {len(project.seams)} seams loaded in {time.perf_counter() - began:.1f} s")
    for seam in project.seams:
        told(f"  {seam}")
    return list(project.seams)


def _verify(project: "Project", told: _Teller) -> list[dict[str, Any]]:
    """Every check on the healthy part."""
    from underhood.lab.kills import run_check

    told("Verify: what any correct implementation does")
    part, found = project.part_now(), []
    for check in project.checks():
        failed = run_check(check, part)
        found.append({"name": check.name, "step": check.step, "failed": failed})
        told(f"  {'✗' if failed else '✓'} {check.step}: {check.name.replace('_', ' ')}{f': {failed}' if failed else ''}")
    return found


def _seeds(full: bool) -> int:
    from underhood.lab.compare import ENOUGH_SEEDS

    return ENOUGH_SEEDS if full else PREVIEW_SEEDS


def _break(project: "Project", breaks: "list[Sabotage]", full: bool, workers: int, told: _Teller) -> list[dict[str, Any]]:
    from underhood.cli.break_ import RUNS, measure, run_id, save
    from underhood.lab.record import to_plain
    from underhood.lab.table import print_results

    named = [(f"{project.slug}.{s.name}", s) for s in breaks]
    told(f"Break: {breaks[0].says}" if len(breaks) == 1 else f"Break: {len(breaks)} ways")
    found = measure(named, range(_seeds(full)), store=RUNS, workers=workers, claims=full, again=f"underhood run {project.slug}")
    results = [to_plain(r) for r in found]
    page = save(RUNS / f"run-{run_id(project.slug, named)}", results, title=project.title, command=f"underhood run {project.slug}")
    _add_sections(project, results, page)
    if not told.silent:
        print_results(results)
    told(f"Report: {page}")
    return results


def _add_sections(project: "Project", results: list[dict[str, Any]], page: Path) -> None:
    """The page again, with what the project shows beside its breaks."""
    from underhood.base.files import write_atomic
    from underhood.lab.report import render

    sections = project.sections()
    if sections:
        write_atomic(page, render(results, title=f"{project.title}, broken and measured", sections=sections))


def _measure(project: "Project", told: _Teller, records: Path | None = None) -> dict[str, Any]:
    """What the layer costs; with ``records`` it is written there too."""
    from underhood.lab.wording import duration

    seconds = project.measure_seconds()
    if seconds is None:
        told("Measure: this project declares no figures of its own")
        return {}
    told(f"Measure: about {duration(seconds)}")
    began = time.perf_counter()
    figures = project.measure()
    for name, value in figures.items():
        told(f"  {name.replace('_', ' ')}: {_figure(value)}")
    if records is not None:
        told(f"Record: {_record(project.slug, figures, time.perf_counter() - began, records)}")
    return figures


def _record(slug: str, figures: dict[str, Any], seconds: float, records: Path) -> Path:
    """The figures with what they were taken on."""
    import torch

    from underhood.base.files import write_json
    from underhood.lab import identity

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    taken_on = {"machine": {**identity.machine(), "threads": str(torch.get_num_threads())}, "versions": identity.versions()}
    (records / MEASURES).mkdir(parents=True, exist_ok=True)
    return write_json(records / MEASURES / f"{slug}.json", {"project": slug, "date": today, "seconds": round(seconds, 1), **taken_on, "measure": figures})


def _figure(value: Any) -> str:
    """A figure in words, whatever its shape: a number, a number with its unit, several by name."""
    if isinstance(value, dict):
        return ", ".join(f"{k.replace('_', ' ')} {_figure(v)}" for k, v in value.items() if v is not None)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _mark_done(project: "Project", told: _Teller) -> None:
    from underhood.workbench import course

    folder: Path | None = course.find_course()
    if folder is not None and course.mark_done(folder, project.slug, datetime.datetime.now(datetime.UTC).date()):
        told(f"Noted in {folder / course.PROGRESS}.")
