"""``underhood notebook``: a chapter as an executed notebook, or a notebook to write one's own part in."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Slug, number or a word of the title.")],
    work: Annotated[bool, typer.Option("--work", help="A notebook whose cells write my/PROJECT.py, one a step, and check it.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write it (default: PROJECT.ipynb, with --work PROJECT.work.ipynb).")] = None,
) -> None:
    """Make a notebook from the chapter, its code executed, or one to work in. A file that is there is never touched.

    Needs the extra: pip install -e '.[notebook]'.
    """
    from underhood.base.errors import UserError
    from underhood.cli.console import note
    from underhood.projects.registry import find_project
    from underhood.workbench import notebook
    from underhood.workbench.chapter import load_chapter
    from underhood.workbench.course import mine, need_course

    found = find_project(project)
    if work:
        course = need_course()
        path, own = out or course / f"{found.slug}.work.ipynb", mine(course, found.slug)
    else:
        path = out or Path(f"{found.slug}.ipynb")
    if path.exists():
        raise UserError("is there already", where=str(path), remedy="Move it away, or name another with --out.")
    if work:
        book = notebook.working(found, own.read_text(encoding="utf-8") if own.is_file() else "")
    else:
        chapter = load_chapter(found.slug)
        note("Running the chapter's code …")
        book = notebook.executed(chapter)
    print(notebook.write(book, path))
