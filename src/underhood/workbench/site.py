"""The site's Markdown, made in ``build/docs`` from ``docs/``, the chapters, the source and the records; ``make docs`` then draws it.

    python -m underhood.workbench.site

A page of ``docs/`` says where something generated stands: ``<!-- site: floors -->``. Nothing here needs a network.
"""

import argparse
import dataclasses
import json
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

from underhood.base import floors
from underhood.base.config import from_plain
from underhood.base.files import write_atomic
from underhood.projects.registry import Project, find_project, syllabus
from underhood.workbench import maths
from underhood.workbench.chapter import FENCE, Chapter, has_chapter, load_chapter
from underhood.workbench.macros import ChapterError
from underhood.workbench.site_records import records_page, records_table, symptom_index
from underhood.workbench.site_reference import floor_page, floor_table, modules
from underhood.workbench.site_tools import manual

ROOT = Path(__file__).parents[3]
PLACE = re.compile(r"<!-- site: (\w+) -->")
ITEM = re.compile(r"^\d+\. (.*?)(?=^\d+\. |\Z)", re.MULTILINE | re.DOTALL)
NAV = (
    *(("Start", "index.md"), ("Course", "course.md"), ("Symptoms", "symptoms.md"), ("Records", "records.md"), ("Reference", "reference.md")),
    *(("Commands", "commands.md"), ("Lab manual", "lab.md"), ("Glossary", "glossary.md"), ("Reading", "reading.md")),
    *(("The floors", "floors.md"), ("Opinions", "design-opinions.md"), ("Log", "log.md")),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track:
    """A way into the course; every project of it can be begun without the ones before, since the healthy floors stand in."""

    name: str
    whom: str
    projects: tuple[str, ...]


def tracks() -> tuple[Track, ...]:
    """The tracks of ``syllabus.toml``."""
    listed = tomllib.loads(resources.files("underhood.projects").joinpath("syllabus.toml").read_text(encoding="utf-8")).get("track", [])
    return tuple(from_plain(Track, entry, where="syllabus.toml") for entry in listed)


def written() -> list[Project]:
    """The projects whose chapter exists."""
    return [p for p in syllabus() if has_chapter(p.slug)]


def build(out: Path, *, source: Path = ROOT / "docs") -> list[Path]:
    """Write every page below ``out`` and return them. Raises ``ChapterError`` naming file and line of what does not resolve."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.md", "transcripts"))
    pages = {path.relative_to(source).as_posix(): _filled(path) for path in sorted(source.rglob("*.md"))}
    pages |= {f"course/{p.slug}.md": chapter_page(load_chapter(p.slug)) for p in written()}
    pages |= {f"records/{p.slug}.md": records_page(p) for p in syllabus() if "breaks" in p.stages}
    pages |= {f"reference/{floor}.md": floor_page(floor, chapters_of_seams()) for floor in floors.folders() if modules(floor)}
    return [write_atomic(out / name, text) for name, text in pages.items()]


# ── the pages of docs/ ────────────────────────────────────────────────────────────────────────────────────────────────


def _filled(path: Path) -> str:
    """A page of ``docs/`` with its places filled."""
    text = maths.for_site(path.read_text(encoding="utf-8"), where=f"docs/{path.name}")

    def fill(found: re.Match[str]) -> str:
        if found[1] not in PLACES:
            line = text.count("\n", 0, found.start()) + 1
            raise ChapterError(f"there is nothing called {found[1]!r}", where=f"docs/{path.name}:{line}", expected=", ".join(PLACES))
        return PLACES[found[1]]()

    return PLACE.sub(fill, text)


def house() -> str:
    """The floors as a map: each opens its reference."""
    rows = []
    for part in floors.HOUSE:
        rows.append(f'<p class="wing">{part.name}</p>\n')
        rows += [f'<div class="floor" markdown="1">\n{_rooms(floor)}\n</div>\n' for floor in part.floors]
    return '<div class="house" markdown="1">\n\n' + "\n".join(rows) + "\n</div>"


def _rooms(floor: floors.Floor) -> str:
    names = [name.strip("()") for name in floor.folders.split(" | ")]
    rooms = [f"[{name}](reference/{name}.md){{ .room }}" if modules(name) else f'<span class="room planned">{name}</span>' for name in names]
    return f'<span class="rooms" markdown="1">{" ".join(rooms)}</span> <span class="holds">{floor.says}</span>'


def course() -> str:
    """The chapters, part by part."""
    lines, part = [], ""
    for project in written():
        if project.part != part:
            part = project.part
            lines += ["", f"## {part}", "", "| | Chapter | You write | Hours |", "|--:|---|--:|--:|"]
        lines.append(f"| {project.number} | [{project.title}](course/{project.slug}.md) | {project.lines} lines | {project.hours:g} |")
    return "\n".join(lines)


def ways() -> str:
    """The tracks as a list, each with its projects."""
    known = {p.slug for p in written()}

    def shown(slug: str) -> str:
        project = find_project(slug)
        return f"[{project.title}](course/{slug}.md)" if slug in known else project.title

    return "\n".join(f"- **{t.name}**, {t.whom}: {' → '.join(shown(slug) for slug in t.projects)}" for t in tracks())


def glossary() -> str:
    """The terms, as ``read glossary`` has them."""
    text = resources.files("underhood.projects").joinpath("glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\*\*(.+?)\*\*: (.+)$", maths.for_site(text, where="glossary.md"), re.MULTILINE)
    return "\n".join(f"**{term}**\n:   {says}\n" for term, says in rows)


PLACES: Mapping[str, Callable[[], str]] = {
    **{"floors": house, "course": course, "tracks": ways, "glossary": glossary},
    **{"records": records_table, "symptoms": symptom_index, "reference": floor_table, "commands": lambda: manual(ROOT)},
}


# ── chapters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def chapters_of_seams() -> dict[str, Project]:
    """Seam → the project in which it is built, for those with a chapter."""
    return {seam: project for project in written() for seam in project.seams}


def chapter_page(chapter: Chapter) -> str:
    """A chapter as a page: where it stands, its text, every question with its answer folded below."""
    project = chapter.project
    where = f"{project.slug}/chapter.md"
    shown = dataclasses.replace(
        chapter, text=maths.for_site(chapter.text, where=where), answers=maths.for_site(chapter.answers, where=f"{project.slug}/answers.md")
    )
    text, answers = shown.expanded("site"), answers_by_name(shown.expanded_answers("site"))
    for heading, name in (("Optional Homework", "Homework"), ("Questions to Answer", "Question")):
        text = _with_answers(text, heading, name, answers)
    title, _, body = text.partition("\n")
    return _from_course(f"{title}\n\n{_facts(project)}\n{body}")


def _facts(project: Project) -> str:
    needs = ", ".join(f"[{find_project(s).title}]({s}.md)" if s in {p.slug for p in written()} else find_project(s).title for s in project.needs)
    facts = [f"Project {project.number}", project.part, f"about {project.hours:g} hours", f"{project.lines} lines of your own"]
    after = f" · follows {needs}" if needs else ""
    return (
        f'<p class="facts" markdown="1">{" · ".join(facts)}{after}</p>\n\n'
        f"```sh\nunderhood start {project.slug}      # the blank file: my/{project.slug}.py\nunderhood check {project.slug}\n```\n\n"
        f"What it rests on: [records and kill matrix](../records/{project.slug}.md).\n"
    )


def answers_by_name(markdown: str) -> dict[str, str]:
    """``"Question 1"`` → its model answer."""
    masked = FENCE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), markdown)
    heads = list(re.finditer(r"^## (\w+)[ ·:]+(\d+)(.*)$", masked, re.MULTILINE))
    ends = [*(h.start() for h in heads[1:]), len(markdown)]
    return {f"{h[1]} {h[2]}": markdown[h.end() : end].strip() for h, end in zip(heads, ends, strict=True)}


def _with_answers(text: str, heading: str, name: str, answers: Mapping[str, str]) -> str:
    begin = re.search(rf"^## {heading}[ \t]*$", text, re.MULTILINE)
    if begin is None:
        raise ChapterError(f"has no section {heading!r}")
    end = re.compile(r"^## ", re.MULTILINE).search(text, begin.end())
    stop = end.start() if end else len(text)
    numbers = iter(range(1, 100))

    def one(found: re.Match[str]) -> str:
        number = next(numbers)
        asked = re.sub(r"^ {3}", "", found[1].rstrip(), flags=re.MULTILINE)
        answer = answers.get(f"{name} {number}", "")
        folded = f'<details class="answer" markdown="1">\n<summary>Answer</summary>\n\n{answer}\n\n</details>\n\n' if answer else ""
        return f"**{number}.** {asked}\n\n{folded}"

    return text[: begin.end()] + ITEM.sub(one, text[begin.end() : stop]) + text[stop:]


def _from_course(markdown: str) -> str:
    """Links of a chapter are written as seen from the top of the site; those to its neighbours stay."""
    slugs = {f"{p.slug}.md" for p in syllabus()}

    def moved(found: re.Match[str]) -> str:
        return found[0] if found[1].split("#")[0] in slugs or found[1].startswith("../") else f"](../{found[1]})"

    return re.sub(r"\]\((?![a-z]+:)([^)\s#][^)\s]*\.md[^)\s]*)\)", moved, markdown)


# ── configuration ─────────────────────────────────────────────────────────────────────────────────────────────────────


def configuration(template: str) -> str:
    """``zensical.toml`` with the navigation filled in."""
    sections: dict[str, list[tuple[str, str]]] = {
        "course.md": [(f"{p.number} · {p.title}", f"course/{p.slug}.md") for p in written()],
        "records.md": [(p.title, f"records/{p.slug}.md") for p in syllabus() if "breaks" in p.stages],
        "reference.md": [(floor, f"reference/{floor}.md") for floor in reversed(floors.folders()) if modules(floor)],
    }
    lines = []
    for name, page in NAV:
        inner = sections.get(page)
        entries = [("Overview", page), *inner] if inner else None
        value = "[" + ", ".join(f"{{ {json.dumps(n, ensure_ascii=False)} = {json.dumps(p)} }}" for n, p in entries) + "]" if entries else json.dumps(page)
        lines.append(f"  {{ {json.dumps(name)} = {value} }},")
    marker = "nav = []"
    assert template.count(marker) == 1
    return template.replace(marker, "nav = [\n" + "\n".join(lines) + "\n]")


def main() -> int:
    """Make ``build/docs`` and ``build/zensical.toml``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="where docs/ and zensical.toml are written")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        pages = build(options.out / "docs")
        write_atomic(options.out / "zensical.toml", configuration((ROOT / "zensical.toml").read_text(encoding="utf-8")))
    except ChapterError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(pages)} pages in {time.monotonic() - started:.0f} s: {options.out / 'docs'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
