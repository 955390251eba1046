"""``underhood list``: the projects, one project's layer, checks and breaks, and the kill matrix (which check sees which break)."""

import itertools
import string
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from underhood.cli import console
from underhood.projects.registry import Project, find_project, syllabus

if TYPE_CHECKING:
    from underhood.lab.kills import KillMatrix
    from underhood.lab.sabotage import Sabotage

STAGES = ("layer", "checks", "breaks", "records", "starter", "chapter")
PLACE = {"layer": "lives in", "checks": "is checked in", "breaks": "is broken in"}
YES, NO = "●", "·"
LETTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits


def command(
    project: Annotated[str, typer.Argument(metavar="[PROJECT]", help="Slug, number or a word of the title.", show_default=False)] = "",
    *,
    kills: Annotated[bool, typer.Option("--kills", help="Run every check under every break of code and print which check sees which.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The projects; with a name, one project's layer, checks and breaks."""
    chosen = [find_project(project)] if project else list(syllabus())
    if kills:
        _print_kills([p for p in chosen if {"checks", "breaks"} <= set(p.stages)], as_json)
    elif as_json:
        console.print_json(_describe(chosen[0]) if project else [_outline(p) for p in chosen])
    else:
        print(_page(chosen[0]) if project else _table(chosen))


# ── all projects ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _table(projects: Iterable[Project]) -> str:
    lines = []
    for part, members in itertools.groupby(projects, key=lambda p: p.part):
        rows = [(f"{p.number:>2}", p.slug, "".join(YES if stage in p.stages else NO for stage in STAGES), p.title) for p in members]
        lines += [part, console.columns(rows, indent=console.GAP), ""]
    lines.append(console.paragraph(f"{YES} is there, in this order: {', '.join(STAGES)}. More of one: underhood list PROJECT"))
    return "\n".join(lines)


def _outline(project: Project) -> dict[str, Any]:
    plain = {name: getattr(project, name) for name in ("number", "slug", "title", "part", "hours", "lines")}
    return {**plain, **{name: list(getattr(project, name)) for name in ("needs", "stages", "owns", "extension")}}


# ── one project ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _describe(project: Project) -> dict[str, Any]:
    return {
        **_outline(project),
        "files": {"layer": _layer_files(project), **{stage: _file(f"underhood.projects.{project.slug}.{stage}") for stage in _declared(project)}},
        "checks": [{"name": c.name, "step": c.step} for c in project.checks()] if "checks" in project.stages else [],
        "breaks": [_break(s) for s in project.breaks()] if "breaks" in project.stages else [],
        "variants": [_break(s) for s in project.variants()],
    }


def _break(sabotage: "Sabotage") -> dict[str, Any]:
    return {"name": sabotage.name, "kind": sabotage.kind, "silent": sabotage.silent, "baseline": sabotage.baseline, "says": sabotage.says}


def _page(project: Project) -> str:
    about = _describe(project)
    files = {"layer": ", ".join(about["files"]["layer"]), **{stage: about["files"][stage] for stage in _declared(project)}}
    where = [(PLACE[stage], file) for stage, file in files.items()]
    lines = [f"{project.number}  {project.title}", console.paragraph(f"{project.part}; {project.hours:g} hours, about {project.lines} lines of your own"), ""]
    lines += [
        console.columns(where, indent=console.GAP),
        "",
        "What a learner writes",
        console.columns([(s,) for s in project.owns], indent=console.GAP),
    ]
    if project.extension:
        lines += ["", "The extension, for who goes on", console.columns([(s,) for s in project.extension], indent=console.GAP)]
    if about["checks"]:
        lines += ["", "Checks", console.columns([(c["name"], c["step"]) for c in about["checks"]], indent=console.GAP)]
    for title, rows in (("Breaks", about["breaks"]), ("Variants, measured and not breaks", about["variants"])):
        if rows:
            lines += ["", title, console.columns([(f"{project.slug}.{b['name']}", _manner(b) + b["says"]) for b in rows], indent=console.GAP)]
    if about["breaks"]:
        lines += ["", console.paragraph(f"Try one: underhood break {project.slug}.{about['breaks'][0]['name']}")]
    return "\n".join(lines)


def _manner(row: dict[str, Any]) -> str:
    words = [word for word, said in (("setup", row["kind"] == "setup"), ("silent", row["silent"])) if said]
    return f"({', '.join(words)}) " if words else ""


def _declared(project: Project) -> list[str]:
    return [stage for stage in ("checks", "breaks") if stage in project.stages]


def _layer_files(project: Project) -> list[str]:
    return sorted({_file(seam.partition(":")[0]) for seam in project.seams})


def _file(module: str) -> str:
    """The file of ``module`` relative to the current folder where it lies below it, else as it is found in the repository."""
    spec = find_spec(module)
    path = Path(spec.origin) if spec and spec.origin else Path("src", *module.split(".")).with_suffix(".py")
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# ── the kill matrix ───────────────────────────────────────────────────────────────────────────────────────────────────


def _print_kills(projects: list[Project], as_json: bool) -> None:
    from underhood.lab.kills import kill_matrix

    found = []
    for project in projects:
        console.note(f"{project.slug}: {len(project.checks())} checks under {sum(s.kind == 'part' for s in project.breaks())} breaks …")
        found.append((project, kill_matrix(project.slug, project.checks(), project.breaks(), project.part_now)))
    if as_json:
        console.print_json([_matrix_plain(project, matrix) for project, matrix in found])
    else:
        print("\n\n".join(_matrix_text(project, matrix) for project, matrix in found))
    if any(matrix.empty_rows or matrix.empty_columns for _, matrix in found):
        raise typer.Exit(1)


def _matrix_plain(project: Project, matrix: "KillMatrix") -> dict[str, Any]:
    return {
        "project": project.slug,
        "checks": list(matrix.checks),
        "kills": matrix.kills,
        "setup": [{"name": s.name, "probe": _probe(s)} for s in project.breaks() if s.kind == "setup"],
        "unseen_breaks": matrix.empty_rows,
        "idle_checks": matrix.empty_columns,
    }


def _matrix_text(project: Project, matrix: "KillMatrix") -> str:
    rows = [(name, "".join(YES if check in row else NO for check in matrix.checks)) for name, row in matrix.kills.items()]
    legend = list(zip(LETTERS, matrix.checks, strict=False))
    head = ("", "".join(letter for letter, _ in legend))
    lines = [f"{project.number}  {project.title}: which check sees which break", console.columns([head, *rows], indent=console.GAP), ""]
    lines.append(console.columns(legend, indent=console.GAP))
    setup = [(s.name, _probe(s)) for s in project.breaks() if s.kind == "setup"]
    if setup:
        lines += ["", "Breaks by setup, and the probe that sees each", console.columns(setup, indent=console.GAP)]
    lines += [console.paragraph(f"No check sees the break {name}.") for name in matrix.empty_rows]
    lines += [console.paragraph(f"The check {name} sees no break.") for name in matrix.empty_columns]
    return "\n".join(lines)


def _probe(sabotage: "Sabotage") -> str:
    assert sabotage.probe is not None  # a break by setup has one; its declaration refuses otherwise
    return f"{sabotage.probe.metric} {type(sabotage.probe).__name__.lower()} {sabotage.probe.threshold:g}"
