"""A project's chapter: ``projects/<slug>/chapter.md`` with its answers, read, held to its form, and its code executed.

    python -m underhood.workbench.chapter attention [--run]

The form: a title, nine sections in a fixed order, the steps of The Build named as the checks name them, figures with words for who cannot see them.
"""

import argparse
import contextlib
import dataclasses
import io
import linecache
import os
import re
import sys
import tempfile
import types
from pathlib import Path
from typing import NamedTuple

from underhood.projects.registry import Project, find_project
from underhood.workbench.macros import ChapterError, Medium, expand, project_folder
from underhood.workbench.steps import step_titles

SECTIONS = (
    "Hook",
    "The Concept",
    "Why It Matters",
    "The Build",
    "Break It",
    "Optional Homework",
    "Questions to Answer",
    "Go Further",
    "What You Now Know",
)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
MACRO_NAME = re.compile(r"\{\{ *(\w+)")
WORDS = (4000, 7000)
FEW_WORDS = (1200, 2500)  # for a project of less than an hour
FIGURES = 3


class Block(NamedTuple):
    """A fenced block: its language, its text, the line of its first fence."""

    language: str
    text: str
    line: int


@dataclasses.dataclass(frozen=True)
class Chapter:
    """The text of a chapter as its author wrote it, macros and all."""

    project: Project
    text: str
    answers: str

    @property
    def title(self) -> str:
        """The first heading."""
        return self.text.split("\n", 1)[0].removeprefix("# ").strip()

    def expanded(self, medium: Medium) -> str:
        """The text with its macros replaced."""
        return expand(self.text, self.project.slug, medium, where=f"{self.project.slug}/chapter.md")

    def expanded_answers(self, medium: Medium) -> str:
        """The answers with their macros replaced."""
        return expand(self.answers, self.project.slug, medium, where=f"{self.project.slug}/answers.md")


def load_chapter(slug: str) -> Chapter:
    """The chapter of a project. Raises ``ChapterError`` when it is not written."""
    project = find_project(slug)
    return Chapter(project, _read(project.slug, "chapter.md"), _read(project.slug, "answers.md"))


def has_chapter(slug: str) -> bool:
    """Whether a project's chapter is written, with its answers."""
    return all((project_folder(slug) / name).is_file() for name in ("chapter.md", "answers.md"))


def _read(slug: str, name: str) -> str:
    path = project_folder(slug) / name
    if not path.is_file():
        raise ChapterError("is not written yet", where=f"projects/{slug}/{name}")
    return path.read_text(encoding="utf-8")


def headings(text: str, level: int) -> list[str]:
    """The headings of one level, those inside code left out."""
    bare = FENCE.sub(lambda m: "\n" * m[0].count("\n"), text)
    return [line[level + 1 :].strip() for line in bare.splitlines() if line.startswith("#" * level + " ")]


def section(text: str, name: str) -> str:
    """What stands under ``## name``, up to the next section."""
    found = re.search(rf"^## {re.escape(name)}\s*$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ChapterError(f"has no section {name!r}")
    return found[1]


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of an expanded chapter, in order."""
    return [Block(m[1], m[2], markdown.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(markdown)]


def problems(chapter: Chapter) -> list[str]:
    """What keeps a chapter from its form, each in a line; macros that do not resolve raise."""
    text, found = chapter.text, []
    if not text.startswith(f"# {chapter.project.title}\n"):
        found.append(f"the first line is not '# {chapter.project.title}'")
    if headings(text, 2) != list(SECTIONS):
        found.append(f"the sections are {headings(text, 2)}")
        return found
    built = [h.removeprefix("Step ") for h in headings(section(text, "The Build"), 3) if h.startswith("Step ")]
    if built != step_titles(chapter.project):
        found.append(f"the steps are {built}; the checks have {step_titles(chapter.project)}")
    found += _counts(chapter)
    found += _answers(chapter)
    found += [
        f"{path.name}: {problem}" for path in sorted((project_folder(chapter.project.slug) / "figures").glob("*.svg")) for problem in figure_problems(path)
    ]
    chapter.expanded("site")
    chapter.expanded_answers("site")
    return found


def words(text: str) -> int:
    """Words of prose: code, macros and tables' rules left out."""
    return len(re.findall(r"[A-Za-zÀ-ž][\w'’-]*", re.sub(r"\{\{.*?\}\}", " ", FENCE.sub(" ", text))))


def _counts(chapter: Chapter) -> list[str]:
    text, found = chapter.text, []
    least, most = WORDS if chapter.project.hours >= 1 else FEW_WORDS
    if not least <= words(text) <= most:
        found.append(f"{words(text)} words; expected {least} to {most}")
    figures = [m for m in MACRO_NAME.findall(text) if m == "figure"]
    if len(figures) < FIGURES:
        found.append(f"{len(figures)} figures; expected at least {FIGURES}")
    drawn = {p.stem for p in (project_folder(chapter.project.slug) / "figures").glob("*.svg")}
    unused = sorted(name for name in drawn if f'figure("{name}"' not in text)
    found += [f"the figure {name}.svg is not shown" for name in unused]
    if not any("@keyframes" in (project_folder(chapter.project.slug) / "figures" / f"{name}.svg").read_text(encoding="utf-8") for name in drawn):
        found.append("no figure is a step-through animation")
    if "--mine" not in section(text, "Break It"):
        found.append("Break It never sabotages the reader's own layer (--mine)")
    if "--predict" not in section(text, "Break It"):
        found.append("Break It never asks for a prediction (--predict)")
    silent = [b.name for b in chapter.project.breaks() if b.silent and b.name not in text]
    return found + [f"the silent break {name} is not discussed" for name in silent]


def _answers(chapter: Chapter) -> list[str]:
    asked = len(re.findall(r"^\d+\. ", section(chapter.text, "Questions to Answer"), re.MULTILINE))
    homework = len(re.findall(r"^\d+\. ", section(chapter.text, "Optional Homework"), re.MULTILINE))
    expected = {f"Question {i + 1}" for i in range(asked)} | {f"Homework {i + 1}" for i in range(homework)}
    given = {" ".join(h.replace("·", " ").replace(":", " ").split()[:2]) for h in headings(chapter.answers, 2)}
    found = [f"answers.md has no '## {name}'" for name in sorted(expected - given)]
    if asked < 5:
        found.append(f"{asked} questions; expected at least 5, numbered")
    if homework < 3:
        found.append(f"{homework} homeworks; expected at least 3, numbered")
    return found


def figure_problems(path: Path) -> list[str]:
    """What keeps a figure from being legible in the dark, in print and offline."""
    text, found = path.read_text(encoding="utf-8"), []
    if 'role="img"' not in text or "aria-label=" not in text:
        found.append("needs role=img and an aria-label")
    if re.search(r"<script|href=[\"']https?:|url\(\s*['\"]?https?:|@import", text):
        found.append("has a script or a link to the outside")
    if re.search(r"(fill|stroke)=[\"'](#|rgb|black|white)", text):
        found.append("has a fixed colour; use currentColor and the fig- classes")
    if re.match(r"<svg[^>]*\s(width|height)=", text):
        found.append("has a fixed size; use viewBox alone")
    if "@keyframes" in text and ("prefers-reduced-motion" not in text or "@media print" not in text):
        found.append("is animated without a still form for reduced motion and print")
    return found


def run_code(markdown: str, name: str) -> int:
    """Run every python block of an expanded chapter, in order, in one fresh module and an empty folder; return how many.

    A ```output block must equal what the block before it printed. Raises ``ChapterError`` naming the line.
    """
    module = types.ModuleType(f"chapter_{name}")
    sys.modules[module.__name__] = module
    count, printed = 0, None
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in blocks(markdown):
            if block.language == "python":
                printed = _run(block, module, name)
                count += 1
            elif block.language == "output" and (printed is None or _tidy(printed) != _tidy(block.text)):
                raise ChapterError(f"the code above printed\n{printed}", where=f"{name}, expanded line {block.line}", expected=f"\n{block.text}")
    return count


def _run(block: Block, module: types.ModuleType, name: str) -> str:
    place = f"<{name}, expanded line {block.line}>"
    out = io.StringIO()
    linecache.cache[place] = (len(block.text), None, block.text.splitlines(keepends=True), place)
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(block.text, place, "exec"), module.__dict__)
    except Exception as error:
        raise ChapterError(f"{type(error).__name__}: {error}\nin\n{block.text}", where=place) from error
    return out.getvalue()


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def main() -> int:
    """Hold chapters to their form, and with ``--run`` run their code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slug")
    parser.add_argument("--run", action="store_true", help="run the code as well")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chapter = load_chapter(options.slug)
    try:
        found = problems(chapter)
        print(f"{words(chapter.text)} words, {len(found)} problems", *found, sep="\n- ")
        if options.run:
            print(run_code(chapter.expanded("terminal"), chapter.project.slug), "blocks run")
    except ChapterError as error:
        print(error)
        return 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
