"""Chapters and the glossary for a terminal: code highlighted, formulas in Unicode, figures as their words, tables that fit."""

import io
import os
import pydoc
import re
import shutil
import sys
from importlib import resources
from typing import TYPE_CHECKING, ClassVar

from underhood.base.errors import UnknownName
from underhood.workbench import maths
from underhood.workbench.chapter import Chapter, headings, load_chapter
from underhood.workbench.macros import expand, is_own

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import Markdown

WIDEST = 110  # columns; longer lines are hard to read
GLOSSARY = "glossary"
INDENT = "  "  # of code
CODE = re.compile(r"^(?P<fence>`{3,})[^\n]*\n.*?^(?P=fence)[ \t]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
SOURCE = re.compile(r'\{\{ *source\("([^"]+)".*?\) *\}\}')
SOURCES = re.compile(rf"{SOURCE.pattern}(?:\s*{SOURCE.pattern})*")
TAG = re.compile(r"</?(?:br|wbr|p|div|span)\b[^>]*>")


def chapter_text(slug: str, name: str = "") -> str:
    """A chapter as Markdown for the terminal, whole or one of its sections. Raises ``UnknownName`` for a section that is not there."""
    chapter = load_chapter(slug)
    return _for_terminal(_folded(_section(chapter, name) if name else chapter.text, slug), slug, "chapter.md")


def answers_text(slug: str) -> str:
    """The model answers as Markdown for the terminal, and our version of the parts that the chapter has its reader write."""
    chapter = load_chapter(slug)
    return f"{_for_terminal(chapter.answers, slug, 'answers.md')}\n\n## Our version\n\n{_bare(expand(_ours(chapter), slug, 'terminal'))}"


def _ours(chapter: Chapter) -> str:
    """The macros that a chapter folds away, in its order."""
    return "\n\n".join(m[0] for m in SOURCE.finditer(chapter.text) if is_own(m[1], chapter.project.slug))


def _folded(text: str, slug: str) -> str:
    """The text with a line in place of each source that its reader is to write; one line for several in a row."""

    def fold(found: re.Match[str]) -> str:
        seams = SOURCE.findall(found[0])
        if not all(is_own(seam, slug) for seam in seams):
            return SOURCE.sub(lambda m: fold(m) if is_own(m[1], slug) else m[0], found[0])
        names = ", ".join(f"`{seam.partition(':')[2]}`" for seam in seams)
        return f"*Our version of {names}: `underhood read {slug} --answers`*" + "\n" * found[0].count("\n")

    return SOURCES.sub(fold, text)


def _for_terminal(text: str, slug: str, name: str) -> str:
    where = f"{slug}/{name}"
    return _bare(expand(maths.for_terminal(text, where=where), slug, "terminal", where=where))


def _section(chapter: Chapter, name: str) -> str:
    """The section, or the step or part below a section, whose heading is ``name`` or alone contains it."""
    known = [h for level in (2, 3) for h in headings(chapter.text, level)]
    exact = [h for h in known if h.lower() == name.lower()]
    near = exact or [h for h in known if name.lower() in h.lower()]
    if len(near) != 1 and not exact:
        raise UnknownName("section", name, near or known, where=chapter.project.slug)
    level = "##" if near[0] in headings(chapter.text, 2) else "###"
    found = re.search(rf"^{level} {re.escape(near[0])}[ \t]*$.*?(?=^##{{1,{len(level) - 1}}} |\Z)", chapter.text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def glossary_text() -> str:
    """The glossary as Markdown for the terminal."""
    text = resources.files("underhood.projects").joinpath("glossary.md").read_text(encoding="utf-8")
    return maths.for_terminal(text, where="glossary.md")


def _bare(text: str) -> str:
    """Markdown without what only a page can show: emphasis in HTML, links into the site."""
    text = TAG.sub(" ", text)
    return re.sub(r"\[([^\]\n]+)\]\((?![a-z]+:)[^)]*\)", r"\1", text)


def render(markdown: str, width: int, *, colour: bool) -> str:
    """The text as a terminal of ``width`` columns shows it; without ``colour`` it has no escape codes."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out, width=min(width, WIDEST), force_terminal=colour, color_system="standard" if colour else None, no_color=not colour, legacy_windows=False
    )
    console.print(rendered(markdown if colour else _marked(markdown)), crop=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _marked(markdown: str) -> str:
    """Inline code keeps its backticks where no colour sets it off."""
    return CODE.sub(lambda m: m[0] if m["fence"] else f"`` {m[0]} ``", markdown)


def rendered(markdown: str) -> "Markdown":
    """The Markdown with our look: headings to the left, code without a box, a formula indented."""
    from rich.markdown import CodeBlock, Heading, Markdown, TableElement
    from rich.padding import Padding
    from rich.segment import Segment
    from rich.syntax import Syntax
    from rich.text import Text

    class Left(Heading):
        def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
            self.text.justify = "left"
            self.text.stylize("bold")
            yield Text("")
            yield self.text
            if self.tag in ("h1", "h2"):
                yield Text(("═" if self.tag == "h1" else "─") * min(self.text.cell_len, options.max_width))

    class Code(CodeBlock):
        def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
            code = str(self.text).rstrip()
            if self.lexer_name == "formula":
                yield Padding(Text(code, style="bold"), (0, 0, 0, 4))
            else:
                known = {"output": "text", "console": "console", "": "text"}
                syntax = Syntax(code, known.get(self.lexer_name, self.lexer_name), theme="ansi_dark", background_color="default", word_wrap=True)
                if options.max_width < console.width:  # in a list, which cuts what is longer than itself
                    yield Padding(syntax, (0, 0, 0, len(INDENT)))
                    return
                for line in syntax.highlight(code).split("\n"):  # a line of code that is broken in two cannot be pasted
                    yield from (Segment(INDENT), *line.render(console), Segment.line())

    class Table(TableElement):
        def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
            for table in super().__rich_console__(console, options):
                for column in getattr(table, "columns", ()):
                    column.overflow = "fold"  # a long name goes on in the next line; nothing is cut
                yield table

    class Ours(Markdown):
        elements: ClassVar = {**Markdown.elements, "heading_open": Left, "fence": Code, "code_block": Code, "table_open": Table}

    return Ours(markdown, hyperlinks=False)


def show(text: str) -> None:
    """Print, through the reader's pager when stdout is a terminal."""
    width = shutil.get_terminal_size((80, 24)).columns
    if not sys.stdout.isatty():
        print(render(text, width, colour=False))
        return
    os.environ.setdefault("LESS", "-R")
    pydoc.pager(render(text, width, colour="NO_COLOR" not in os.environ))
