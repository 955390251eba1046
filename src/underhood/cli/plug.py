"""``underhood plug``: a learner's part in the real stack, beside the reference."""

import dataclasses
import datetime
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from underhood.projects.registry import Project
    from underhood.workbench.plug import Plugged, Row

SAMPLE = 400  # characters


def command(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Slug, number or a word of the title.")],
    seed: Annotated[int, typer.Option(min=0, help="The seed of both runs.")] = 0,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Another file than my/PROJECT.py.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bind your part into the real stack, train with it beside the reference, same seed, and compare loss, text, speed and memory.

    Its checks must hold first. Both runs are kept under runs/plug-PROJECT.
    """
    from underhood.cli.break_progress import START_SECONDS
    from underhood.cli.console import note, paragraph, print_json
    from underhood.lab.wording import duration
    from underhood.projects.registry import find_project
    from underhood.workbench import course
    from underhood.workbench import plug as plugging

    found = find_project(project)
    path = (file or course.need_mine(found.slug)).resolve()
    baseline = plugging.arena(found)
    note(paragraph(f"The run: {baseline.says.rstrip('.')}. First the checks, then {plugging.ROUNDS} times the reference and yours in turn."))
    note(paragraph(f"About {duration(2 * plugging.ROUNDS * (baseline.seconds + START_SECONDS))} after the checks."))
    result = plugging.plug(found, path, Path("runs") / f"plug-{found.slug}", seed=seed)
    rows = plugging.figures(result)
    before = _history(found, result)
    if as_json:
        plain = {"figures": [dataclasses.asdict(r) for r in rows], "seconds": [list(t) for t in result.times], "texts": result.mine.texts}
        print_json({"project": found.slug, "used": list(result.used), "unused": list(result.unused), "how": result.mine.how, **plain})
    else:
        _say(found, result, rows, before)
    if result.mine.how != "done":
        raise typer.Exit(1)


def _history(project: "Project", result: "Plugged") -> float | None:
    """Keep this run's time beside the earlier ones; returns the first ratio, to compare with."""
    from underhood.workbench import course

    folder = course.find_course()
    if folder is None or result.mine.how != "done":
        return None
    today = datetime.datetime.now().astimezone().date().isoformat()
    now = {"day": today, "times": round(statistics.median(result.ratios), 3), "mb": result.mine.peak_mb}
    before: list[Any] = []

    def change(state: dict[str, Any]) -> None:
        kept = state.setdefault("plugs", {}).setdefault(project.slug, [])
        before.extend(kept[:1])
        kept.append(now)

    course.update(folder, change)
    return before[0]["times"] if before else None


def _say(project: "Project", result: "Plugged", rows: "list[Row]", before: float | None) -> None:
    from underhood.cli.console import columns, paragraph

    if result.mine.how != "done":
        print(paragraph(f"With your part the run ended early: {_ended(result)}"))
        print(paragraph("The checks do not reach this: look at what the run gives your part that they do not."))
        return
    print(
        paragraph(f"Yours that ran: {', '.join(result.used) or 'none'}." + (f" This run does not call: {', '.join(result.unused)}." if result.unused else ""))
    )
    shown = [(_figure(r.reference), _figure(r.mine), {None: "", True: "agrees", False: "differs"}[r.agrees], r.says) for r in rows]
    print(columns([("reference", "yours", "", ""), *shown]))
    for line in _verdict(result, rows):
        print(paragraph(line))
    for name, text in list(result.mine.texts.items())[:1]:
        print(f"\n{name}, written with your part:\n\n{text[:SAMPLE].strip()}\n")
    print(paragraph(_speed(result, before)))
    print(paragraph("The task now: make it faster or smaller with every check still green, and plug it again."))
    print(paragraph(f"Then break it: underhood break {project.slug} --predict"))


def _verdict(result: "Plugged", rows: "list[Row]") -> list[str]:
    """Whether the runs agree, and whether they begin alike."""
    from underhood.workbench.plug import starts

    judged = [r for r in rows if r.agrees is not None]
    apart = [r for r in judged if not r.agrees]
    if apart:
        told = "; ".join(f"{r.says}: {_figure(r.reference)} and {_figure(r.mine)}{_limit(r)}" for r in apart)
        lines = [f"Your part does not give what the reference gives: {len(apart)} of {len(judged)} figures differ. {told}."]
    else:
        lines = [f"Your part gives what the reference gives: all {len(judged)} figures agree within what this run can tell apart."]
    if (first := starts(result)) is not None:
        words = "your part starts from other random numbers, or scales them otherwise. Both runs are fair, but they are two draws and not one"
        lines.append(f"The starts differ: the first loss is {_figure(first[0])} and {_figure(first[1])}, so {words}.")
    return lines


def _limit(row: "Row") -> str:
    return "" if isinstance(row.reference, bool) else f" (of interest from {_figure(row.smallest)} on)"


def _speed(result: "Plugged", before: float | None) -> str:
    """The ratio of the times with its spread; where that holds 1, there is nothing to tell."""
    least, middle, most = result.ratios[0], statistics.median(result.ratios), result.ratios[-1]
    then = f"; the first time it was {before:.2f}" if before is not None else ""
    noise = " So no difference can be told from noise." if least <= 1 <= most else ""
    return f"Your part takes {middle:.2f} times the reference's time ({least:.2f} to {most:.2f} in {len(result.ratios)} rounds){then}.{noise}"


def _ended(result: "Plugged") -> str:
    from underhood.lab.run import MEMORY_LIMIT_MB
    from underhood.lab.wording import duration
    from underhood.workbench.plug import patience

    known = {
        "Timeout": f"it was stopped after {duration(patience(result.baseline))}; the reference took {duration(result.reference.seconds)}.",
        "OutOfMemory": f"it needed more than {MEMORY_LIMIT_MB:,} MB; the reference needed {result.reference.peak_mb:,.0f}.",
    }
    return known.get(result.mine.how, f"{result.mine.how}: {result.mine.message}")


def _figure(value: Any) -> str:
    from underhood.lab.wording import number

    return str(value) if isinstance(value, bool) else number(float(value))
