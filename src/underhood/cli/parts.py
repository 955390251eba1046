"""The learner's parts that ``train`` and ``sample`` run with: which they are, which are left out and why, which layers stay ours."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from underhood.projects.registry import Project

ASIDE = ("underhood.scalar.", "underhood.tensor.")  # engines of their own: nothing that trains or samples a GPT calls them


def chosen_parts(mine: bool, named: list[str]) -> dict[str, Path]:
    """The learner's files to bind, by project; says which, and which of ``my/`` are left out. Raises ``UserError`` when ``--mine`` finds none that passes."""
    if not mine and not named:
        return {}
    from underhood.base.errors import UserError
    from underhood.cli.console import note
    from underhood.workbench.plug import named_parts

    asked = named_parts(named)
    parts = (_passing(set(asked)) if mine else {}) | asked
    if not parts:
        raise UserError("no part in my/ that trains or samples a GPT passes its checks yet", where="--mine", remedy="See: underhood progress")
    note("yours: " + ", ".join(f"{slug} ({file.name})" for slug, file in parts.items()))
    return parts


def _passing(known: set[str]) -> dict[str, Path]:
    """Project → file, for the files of ``my/`` whose checks all hold now, those of ``known`` aside; says why each of the others is left out."""
    from underhood.cli.console import note
    from underhood.projects.registry import syllabus
    from underhood.workbench import course

    folder, found = course.need_course(), {}
    for project in syllabus():
        file = course.mine(folder, project.slug)
        if project.slug in known or not file.is_file() or all(seam.startswith(ASIDE) for seam in project.seams):
            continue
        if why := _open(project, file):
            note(f"left out: {file.name} ({why})")
        else:
            found[project.slug] = file
    return found


def _open(project: "Project", file: Path) -> str:
    """What is missing until every check of the file holds; nothing when all do."""
    from underhood.workbench.checking import check_file
    from underhood.workbench.judge import Unusable

    try:
        report = check_file(project, file)
    except Unusable as error:
        return f"it cannot be run{f', line {error.line}' if error.line else ''}: {error}"
    step = report.next_step
    return "" if step is None else f"{report.held} of {report.total} hold; next: step {step.title}"


@contextlib.contextmanager
def bound(parts: dict[str, Path]) -> Iterator[None]:
    """Bind the learner's parts for the length of the scope, and say at its end which of them ran."""
    if not parts:
        yield
        return
    from underhood.cli.console import note
    from underhood.lab.patch import applied
    from underhood.workbench.plug import all_binds

    with applied(all_binds(parts)) as reached:
        yield
    ran = sorted(target.rpartition(":")[2] for target in reached.ran)
    note(f"parts of yours that ran: {', '.join(ran) or 'none'}")


def note_given(model: Any) -> None:
    """Say which layers of ``model`` are ours."""
    from underhood.cli.console import note

    given = sorted({type(module).__name__ for module in model.modules() if type(module).__module__.startswith("underhood.")})
    note(f"not yours: {', '.join(given) or 'no layer'}")
