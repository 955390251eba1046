"""A course folder: ``my/`` for what a learner writes and ``progress.toml`` for what is done; found from below, as git finds its own."""

import datetime
import tomllib
from pathlib import Path

from underhood.base.errors import DataError, UserError
from underhood.base.files import named_os_errors, write_atomic

PROGRESS = "progress.toml"
MINE = "my"
HEADER = """\
# Made by `underhood init`. Each line is a project and the day when it was first run to its end.

[projects]
"""


def find_course(start: Path | None = None) -> Path | None:
    """The course folder that holds ``start`` (the current folder by default), or None."""
    with named_os_errors("."):
        here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / PROGRESS).is_file()), None)


def create(folder: Path) -> bool:
    """Make ``folder`` a course folder; nothing that exists is touched. False if it already is one.

    Raises ``UserError`` inside another course folder, or where a file stands in the way.
    """
    outer = find_course(folder)
    if outer is not None and outer != folder.resolve():
        raise UserError("a course folder inside another would hide it", where=str(folder), remedy=f"The course around it is {outer}.")
    for place in (folder, folder / MINE):
        if place.exists() and not place.is_dir():
            raise UserError("is a file", where=str(place), expected="a folder, or nothing yet")
    with named_os_errors(folder):
        (folder / MINE).mkdir(parents=True, exist_ok=True)
    if outer is not None:
        return False
    write_atomic(folder / PROGRESS, HEADER)
    return True


def done(course: Path) -> dict[str, datetime.date]:
    """The projects of ``course`` that were run to their end, with the day. Raises ``DataError`` for a damaged file."""
    path = course / PROGRESS
    try:
        with named_os_errors(path):
            projects = tomllib.loads(path.read_text(encoding="utf-8")).get("projects", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not valid TOML ({error})", where=str(path), remedy="Mend the line, or move the file away and run `underhood init` here.") from error
    if not isinstance(projects, dict) or not all(isinstance(day, datetime.date) for day in projects.values()):
        raise DataError("[projects] holds something else", where=str(path), expected="lines such as: scalar = 2026-11-21")
    return projects


def mark_done(course: Path, slug: str, day: datetime.date) -> None:
    """Note in ``course`` that project ``slug`` was run to its end on ``day``; the first day stays."""
    if slug not in done(course):
        path = course / PROGRESS
        text = path.read_text(encoding="utf-8")
        write_atomic(path, f"{text.rstrip()}\n{slug} = {day.isoformat()}\n")


def where() -> str:
    """Where the person is, and the one next command."""
    from underhood.projects.registry import syllabus

    course = find_course()
    if course is None:
        tried = Path("runs").is_dir()
        return "You are not in a course folder. " + ("Make one: underhood init course" if tried else "See everything in four minutes: underhood demo")
    projects, finished = syllabus(), done(course)
    left = [p for p in projects if p.slug not in finished]
    state = f"You are in the course folder {course}: {len(projects) - len(left)} of {len(projects)} projects run. "
    return state + (f"Next, {left[0].title}: underhood run {left[0].slug}" if left else "Look back: underhood list")
