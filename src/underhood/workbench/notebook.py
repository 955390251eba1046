"""Notebooks made from what is there: a chapter with its code executed, or a learner's file cut into steps to work in."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from underhood.base.errors import DataError
from underhood.projects.registry import Project
from underhood.workbench.chapter import FENCE, Block, Chapter
from underhood.workbench.macros import ChapterError
from underhood.workbench.starter import starter

if TYPE_CHECKING:
    from nbformat import NotebookNode

SECONDS = 600  # for one cell
BANNER = re.compile(r"^# ── step (\d+) · (.+?) ─*$", re.MULTILINE)
SECTION = re.compile(r"^(?=## )", re.MULTILINE)


def chapter_cells(chapter: Chapter) -> list[tuple[str, str]]:
    """The chapter as ("markdown" | "code", text); what its code prints is left to the run."""
    text, cells, last = chapter.expanded("notebook"), [], 0
    for found in FENCE.finditer(text):
        block = Block(found[1], found[2], 0)
        if block.language in ("python", "output"):
            cells += _prose(text[last : found.start()])
            last = found.end()
            if block.language == "python":
                cells.append(("code", block.text.rstrip("\n")))
    return [*cells, *_prose(text[last:])]


def _prose(text: str) -> list[tuple[str, str]]:
    return [("markdown", part.strip()) for part in SECTION.split(text) if part.strip()]


def executed(chapter: Chapter) -> "NotebookNode":
    """The chapter as a notebook, run from top to bottom in a kernel of its own and an empty folder.

    Raises ``ChapterError`` with the cell that failed. Needs the extra ``notebook``.
    """
    import ipykernel  # noqa: F401 - asked for here, so that its absence is said in one sentence and not by a kernel that never starts
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    book = notebook(chapter_cells(chapter))
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}})
        manager = client.create_kernel_manager()
        if os.name != "nt":  # Windows has no sockets in the file system; the others need no port
            manager.transport, manager.ip = "ipc", f"{folder}/kernel"
        try:
            client.execute()
        except CellExecutionError as error:
            raise ChapterError(f"a cell failed: {error}", where=f"{chapter.project.slug}/chapter.md") from error
        except NoSuchKernel as error:
            raise DataError("there is no kernel called python3", remedy="Run: python -m ipykernel install --sys-prefix") from error
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # when it ran says nothing about the chapter
    return book


def working(project: Project, text: str = "") -> "NotebookNode":
    """A notebook whose cells write ``my/PROJECT.py``, one a step, each followed by its check.

    ``text`` is the learner's file, if there is one. Raises ``DataError`` when it no longer has its steps' headings.
    """
    head, steps = split_steps(project, text or starter(project))
    file = f"my/{project.slug}.py"
    intro = (
        f"# {project.title}\n\nThe cells write `{file}`, a step each. Run all of them once; then fill in a step, run its cell, and run the check below it: "
        f"a later definition replaces an earlier one. To write the file anew, run from the top.\n\n"
        f"The chapter: `underhood read {project.slug}`. Start Jupyter in the course folder."
    )
    cells = [("markdown", intro), ("code", f"%%writefile {file}\n{head}")]
    for title, body in steps:
        cells += [("markdown", f"## Step {title}"), ("code", f"%%writefile -a {file}\n\n\n{body}"), ("code", _command("check", project.slug))]
    cells += [("markdown", "## All of it"), ("code", _command("check", project.slug, "--all")), ("code", _command("hint", project.slug))]
    return notebook(cells)


def _command(*words: str) -> str:
    return f"import sys\n\n!{{sys.executable}} -m underhood {' '.join(words)}"


def split_steps(project: Project, text: str) -> tuple[str, list[tuple[str, str]]]:
    """What stands before the first step, and each step's title with its code."""
    found = list(BANNER.finditer(text))
    expected = [f"{m[1]} · {m[2]}" for m in BANNER.finditer(starter(project))]
    ends = [*(m.start() for m in found[1:]), len(text)] if found else []
    steps = {f"{m[1]} · {m[2]}": text[m.start() : end].rstrip() for m, end in zip(found, ends, strict=True)}  # of a step written twice the last counts
    if list(steps) != expected:
        problem = f"the headings of its steps are {list(steps) or 'gone'}"
        raise DataError(problem, where=f"my/{project.slug}.py", expected=f"{expected}", remedy=f"Put them back, or begin anew: underhood reset {project.slug}")
    return text[: found[0].start()].rstrip(), list(steps.items())


def notebook(cells: list[tuple[str, str]]) -> "NotebookNode":
    """A notebook of ("markdown" | "code", text) cells; the same cells give the same file."""
    from nbformat import from_dict

    made = [_cell(number, kind, text) for number, (kind, text) in enumerate(cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book: NotebookNode = from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": made})  # type: ignore[no-untyped-call]
    return book


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    cell = {"id": f"cell-{number}", "cell_type": kind, "metadata": {}, "source": text}
    return cell if kind == "markdown" else cell | {"execution_count": None, "outputs": []}


def write(book: "NotebookNode", path: Path) -> Path:
    """Write the notebook; it is held to the format first."""
    import nbformat

    from underhood.base.files import write_atomic

    nbformat.validate(book)
    return write_atomic(path, json.dumps(book, indent=1, ensure_ascii=False) + "\n")


__all__ = ["chapter_cells", "executed", "notebook", "split_steps", "working", "write"]
