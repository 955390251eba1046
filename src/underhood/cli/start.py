"""``underhood start``: the blank file of a project."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from underhood.projects.registry import Project


def command(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Slug, number or a word of the title.")],
    from_step: Annotated[int, typer.Option(min=1, metavar="N", help="Start further along: the steps before N are written for you.")] = 1,
) -> None:
    """Make my/PROJECT.py: signatures, shapes and docstrings, no bodies. A file that is there is never touched."""
    from underhood.base.errors import UserError
    from underhood.base.files import write_atomic
    from underhood.cli.console import columns, paragraph
    from underhood.projects.registry import find_project
    from underhood.workbench import course, starter

    found = find_project(project)
    path = course.mine(course.need_course(), found.slug)
    if path.exists():
        raise UserError(
            "is there already", where=str(path), remedy=f"Go on: underhood check {found.slug}. Afresh, with a copy kept: underhood reset {found.slug}"
        )
    write_atomic(path, starter.starter(found, from_step=from_step))
    print(paragraph(f"{path}: {len(found.owns)} parts to write, about {found.lines} lines, {found.hours:g} hours."))
    print(columns(_steps(found), indent="  "))
    print(paragraph(f"Read: underhood read {found.slug}. Write, then: underhood check {found.slug}"))


def _steps(project: "Project") -> list[tuple[str, str]]:
    """Every step with what is written in it."""
    from underhood.workbench import starter, steps

    titles = steps.step_titles(project)
    begun = {name: titles[step - 1] for name, step in steps.steps_of_seams(project).items()} | starter.later_methods(project)
    return [(title, ", ".join(name for name, step in begun.items() if step == title) or "(checks what is there)") for title in titles]
