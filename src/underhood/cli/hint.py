"""``underhood hint``: three steps from a nudge to nearly the answer, for the check that is open."""

from pathlib import Path
from typing import Annotated, Any

import typer


def command(project: Annotated[str, typer.Argument(metavar="PROJECT", help="Slug, number or a word of the title.")]) -> None:
    """Say a little more each time about the first check that does not hold; from the second hint on, which known break it behaves like."""
    from underhood.cli.console import paragraph
    from underhood.projects.registry import find_project
    from underhood.workbench import course
    from underhood.workbench.checking import check_file, digest, note
    from underhood.workbench.judge import Unusable

    found = find_project(project)
    path = course.need_mine(found.slug)
    folder = course.need_course()
    known = course.read_state(folder)["checks"].get(found.slug, {})
    try:
        known = known if known.get("file") == digest(path) else note(check_file(found, path))
    except Unusable as error:
        print(paragraph(error.of(path)))
        raise typer.Exit(1) from None
    if "open" not in known:
        print(paragraph(f"Nothing is open: all {known['of']} checks hold. Next: underhood plug {found.slug}"))
        return
    check = next(c for c in found.checks() if c.name == known["open"])
    given = _count(folder, found.slug, known, len(check.hints))
    print(paragraph(f"{check.name.replace('_', ' ')} (hint {given} of {len(check.hints)})"))
    print(paragraph(check.hints[given - 1], indent="  "))
    matches = known.get("matches", [])
    if matches and given > 1:
        print(paragraph(f"Your part behaves exactly like the break {' or '.join(matches)}: {found.find(matches[0]).says}", indent="  "))
    elif matches:
        print(paragraph("It behaves exactly like a break that we know; the next hint names it.", indent="  "))
    if given == len(check.hints):
        print(paragraph(f"That was the last. The whole answer: underhood solution {found.slug}"))


def _count(folder: Path, slug: str, known: dict[str, Any], most: int) -> int:
    """Note that one more hint is given for the failure that is ``known``; which one it is, from 1."""
    given = known

    def change(state: dict[str, Any]) -> None:
        nonlocal given
        stored = state["checks"].get(slug, {})
        same = all(stored.get(k) == known.get(k) for k in ("open", "failure"))  # else another command has checked another file meanwhile
        given = {**known, "hints": min((stored if same else known).get("hints", 0) + 1, most)}
        state["checks"][slug] = given

    from underhood.workbench import course

    course.update(folder, change)
    return int(given["hints"])
