"""``underhood reset``: begin a project anew; what was written is kept under a dated name."""

import datetime
from typing import Annotated

import typer


def command(project: Annotated[str, typer.Argument(metavar="PROJECT", help="Slug, number or a word of the title.")]) -> None:
    """Put the blank file back. The old one is kept beside it, dated."""
    from underhood.base.files import named_os_errors, write_atomic
    from underhood.cli.console import paragraph
    from underhood.projects.registry import find_project
    from underhood.workbench import course, starter

    found = find_project(project)
    path = course.need_mine(found.slug)
    stamp = datetime.datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    kept = path.with_name(f"{found.slug}-{stamp}.py")
    with named_os_errors(kept):
        path.rename(kept)
    write_atomic(path, starter.starter(found))
    course.update(course.need_course(), lambda state: state["checks"].pop(found.slug, None))
    print(paragraph(f"{path} is blank again. What you had is {kept.name}."))
