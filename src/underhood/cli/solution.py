"""``underhood solution``: the healthy layer, for who has asked twice."""

import sys
from typing import Annotated

import typer


def command(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Slug, number or a word of the title.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Print the whole answer to my/PROJECT.py. It asks twice: reading it is not the same as writing it."""
    from underhood.cli.console import note, paragraph
    from underhood.projects.registry import find_project
    from underhood.workbench import starter

    found = find_project(project)
    if not yes:
        for question in (f"Show the answer to «{found.title}»?", f"There are three hints first: underhood hint {found.slug}. Show it all the same?"):
            note(paragraph(question + " [y/N]"))
            if not sys.stdin.isatty() or input().strip().lower() not in ("y", "yes"):
                note("Nothing shown.")
                raise typer.Exit(1)
    print(starter.solution(found), end="")
