"""``underhood read``: a chapter, one of its sections, or the glossary in the terminal."""

from typing import Annotated

import typer


def command(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Slug, number or a word of the title; or: glossary.")],
    section: Annotated[str, typer.Option(metavar="NAME", help="One section or step only; a word of its heading is enough.")] = "",
    answers: Annotated[bool, typer.Option("--answers", help="The answers to its questions and homework instead.")] = False,
) -> None:
    """Show a chapter: in your pager, or as plain text where the output goes into a pipe."""
    from underhood.projects.registry import find_project
    from underhood.workbench import read

    if project == read.GLOSSARY:
        read.show(read.glossary_text())
        return
    slug = find_project(project).slug
    read.show(read.answers_text(slug) if answers else read.chapter_text(slug, section))
