"""``underhood progress``: the projects at a glance."""

from typing import Annotated

import typer


def command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show how far each project is, how good the predictions were, and what the incidents gave. All of it stands in progress.toml."""
    from underhood.cli.console import columns, paragraph, print_json
    from underhood.projects.registry import syllabus
    from underhood.workbench import course

    folder = course.need_course()
    state = course.read_state(folder)
    if as_json:
        print_json({k: {n: str(v) if hasattr(v, "isoformat") else v for n, v in table.items()} for k, table in state.items()})
        return
    rows = []
    for project in syllabus():
        checks = state["checks"].get(project.slug, {})
        held, of = checks.get("held", 0), checks.get("of", len(project.checks()) if "checks" in project.stages else 0)
        finished = state["projects"].get(project.slug)
        begun = course.mine(folder, project.slug).is_file()
        now = f"done {finished}" if finished else f"{held} of {of} checks hold" if begun else ""
        rows.append((str(project.number), _bar(held, of) if begun or finished else "", now, project.title))
    print(columns(rows, indent="  "))
    asked, points = state["predictions"], state["incidents"]
    if asked.get("asked"):
        print(paragraph(f"Predictions: {asked.get('right', 0)} of {asked['asked']} directions right."))
    if points.get("played"):
        print(paragraph(f"Incidents: {points.get('solved', 0)} of {points['played']} named, {points.get('points', 0)} points."))
    print(paragraph(f"Kept in {folder / course.PROGRESS}; your notes in {folder / course.MINE / course.NOTEBOOK}."))


def _bar(held: int, of: int, width: int = 8) -> str:
    full = round(width * held / of) if of else 0
    return "█" * full + "░" * (width - full)
