"""``underhood plug``: a learner's part in the real stack, beside the reference."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from underhood.projects.registry import Project
    from underhood.workbench.plug import Plugged

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
    from underhood.cli.console import note, print_json
    from underhood.lab.wording import duration
    from underhood.projects.registry import find_project
    from underhood.workbench import course
    from underhood.workbench import plug as plugging

    found = find_project(project)
    path = (file or course.need_mine(found.slug)).resolve()
    baseline = plugging.arena(found)
    note(f"{baseline.says.rstrip('.')}. Twice, after the checks: about {duration(2 * baseline.seconds + 5)}.")
    result = plugging.plug(found, path, Path("runs") / f"plug-{found.slug}", seed=seed)
    rows = plugging.figures(result)
    before = _history(found, result)
    if as_json:
        print_json({"project": found.slug, "used": list(result.used), "how": result.mine.how, "figures": [list(r) for r in rows], "texts": result.mine.texts})
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
    state = course.read_state(folder)
    kept: list[Any] = state.setdefault("plugs", {}).setdefault(project.slug, [])
    before = kept[0]["times"] if kept else None
    today = datetime.datetime.now().astimezone().date().isoformat()
    kept.append({"day": today, "times": round(result.mine.seconds / max(result.reference.seconds, 1e-9), 3), "mb": result.mine.peak_mb})
    course.keep_state(folder, state)
    return before


def _say(project: "Project", result: "Plugged", rows: list[tuple[str, Any, Any]], before: float | None) -> None:
    from underhood.cli.console import columns, paragraph

    if result.mine.how != "done":
        print(paragraph(f"With your part the run ended early: {_ended(result)}"))
        print(paragraph("The checks do not reach this: look at what the run gives your part that they do not."))
        return
    print(paragraph(f"In use: {', '.join(result.used) or 'none of your parts: this run does not reach them'}."))
    print(columns([("reference", "yours", ""), *((_figure(a), _figure(b), says) for says, a, b in rows)]))
    for name, text in list(result.mine.texts.items())[:1]:
        print(f"\n{name}, written with your part:\n\n{text[:SAMPLE].strip()}\n")
    ratio = result.mine.seconds / max(result.reference.seconds, 1e-9)
    then = f"; the first time it was {before:.2f}" if before is not None else ""
    print(paragraph(f"Your part takes {ratio:.2f} times the reference's time{then}."))
    print(paragraph("The task now: make it faster or smaller with every check still green, and plug it again."))
    print(paragraph(f"Then break it: underhood break {project.slug} --predict"))


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
