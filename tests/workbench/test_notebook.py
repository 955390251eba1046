"""Notebooks: every block of a chapter in its order, run; a learner's file cut into its steps and nothing lost."""

from pathlib import Path

import nbformat
import pytest

from underhood.base.errors import DataError
from underhood.cli.main import main
from underhood.projects.registry import find_project
from underhood.workbench import course, notebook
from underhood.workbench.chapter import Chapter, blocks, load_chapter
from underhood.workbench.macros import ChapterError
from underhood.workbench.starter import solution, starter

TINY = "# T\n\nwords $x$\n\n```python\nx = 6\n```\n\n## Next\n\n```python\nprint(x * 7)\n```\n```output\n42\n```\n\n```sh\nls\n```\n"


def test_every_python_block_is_a_cell_and_what_it_printed_is_not() -> None:
    cells = notebook.chapter_cells(Chapter(find_project("scalar"), TINY, ""))
    assert [kind for kind, _ in cells] == ["markdown", "code", "markdown", "code", "markdown"]
    assert [text for kind, text in cells if kind == "code"] == ["x = 6", "print(x * 7)"]
    assert "```sh" in cells[-1][1]
    assert "$x$" in cells[0][1]


def test_a_chapter_keeps_all_its_code() -> None:
    chapter = load_chapter("bpe")
    code = [text for kind, text in notebook.chapter_cells(chapter) if kind == "code"]
    assert code == [b.text.rstrip("\n") for b in blocks(chapter.expanded("notebook")) if b.language == "python"]


def test_the_code_is_run_in_a_kernel(tmp_path: Path) -> None:
    book = notebook.executed(Chapter(find_project("scalar"), TINY, ""))
    outputs = [o["text"] for cell in book.cells if cell.cell_type == "code" for o in cell.outputs]
    assert outputs == ["42\n"]
    read = nbformat.read(notebook.write(book, tmp_path / "a.ipynb"), as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(read)
    assert "execution" not in read.cells[1].metadata


def test_a_cell_that_fails_fails_the_notebook() -> None:
    with pytest.raises(ChapterError, match="ZeroDivisionError"):
        notebook.executed(Chapter(find_project("scalar"), "```python\n1 / 0\n```\n", ""))


def run_file_cells(book: "nbformat.NotebookNode", folder: Path) -> str:
    """What ``%%writefile`` would leave behind."""
    file = folder / "made.py"
    for cell in book.cells:
        first, _, body = cell.source.partition("\n")
        if cell.cell_type == "code" and first.startswith("%%writefile"):
            with file.open("a" if " -a " in first else "w", encoding="utf-8") as out:
                out.write(body + "\n")
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize("slug", ["scalar", "bpe", "attention"])
def test_the_cells_write_the_file_a_step_each(slug: str, tmp_path: Path) -> None:
    project = find_project(slug)
    for text in (starter(project), solution(project)):
        book = notebook.working(project, text)
        assert run_file_cells(book, tmp_path).split() == text.split()
        assert sum(" -a " in c.source for c in book.cells) == text.count("# ── step ")


def test_of_a_step_written_twice_the_last_counts() -> None:
    project = find_project("attention")
    text = starter(project)
    _, steps = notebook.split_steps(project, text)
    again = f"{text}\n\n{steps[0][1].replace('raise NotWritten', 'pass  # raise')}\n"
    assert "pass  # raise" in dict(notebook.split_steps(project, again)[1])[steps[0][0]]


def test_a_file_without_its_steps_is_refused() -> None:
    with pytest.raises(DataError, match="underhood reset scalar"):
        notebook.working(find_project("scalar"), "class Value: ...\n")


def test_nothing_that_is_there_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    course.create(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scalar.work.ipynb").write_text("mine")
    assert main(["notebook", "scalar", "--work"]) == 2
    assert (tmp_path / "scalar.work.ipynb").read_text() == "mine"
    assert main(["notebook", "bpe", "--work"]) == 0
    assert (tmp_path / "bpe.work.ipynb").is_file()
    assert not (tmp_path / "my" / "bpe.py").exists()
    assert "is there already" in capsys.readouterr().err
