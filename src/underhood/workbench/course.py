"""A course folder: ``my/`` for what a learner writes and ``progress.toml`` for what is done; found from below, as git finds its own.

``progress.toml`` is a plain file that its owner can read and mend; commands rewrite it whole, one at a time, and keep what they do not know.
"""

import datetime
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from underhood.base.errors import DataError, FileSystemError, UserError
from underhood.base.files import named_os_errors, write_atomic
from underhood.base.lock import locked

PROGRESS = "progress.toml"
LOCK = ".progress.lock"
MINE = "my"
NOTEBOOK = "notebook.md"
HEADER = """\
# Made by `underhood init`, kept by its commands. [projects]: the day when a project was first run to its end, or all its checks held.
"""
State = dict[str, Any]


def find_course(start: Path | None = None) -> Path | None:
    """The course folder that holds ``start`` (the current folder by default), or None."""
    with named_os_errors("."):
        here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / PROGRESS).is_file()), None)


def need_course() -> Path:
    """The course folder. Raises ``UserError`` outside one."""
    found = find_course()
    if found is None:
        raise UserError("you are not in a course folder", remedy="Make one: underhood init course && cd course")
    return found


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
    write_state(folder, {"projects": {}})
    return True


def read_state(course: Path) -> State:
    """All of ``progress.toml``. Raises ``DataError`` for a damaged file."""
    path = course / PROGRESS
    try:
        with named_os_errors(path):
            state = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not valid TOML ({error})", where=str(path), remedy="Mend the line, or move the file away and run `underhood init` here.") from error
    projects = state.setdefault("projects", {})
    if not isinstance(projects, dict) or not all(isinstance(day, datetime.date) for day in projects.values()):
        raise DataError("[projects] holds something else", where=str(path), expected="lines such as: scalar = 2026-11-21")
    for table in ("checks", "predictions", "incidents"):
        if not isinstance(state.setdefault(table, {}), dict):
            raise DataError(f"[{table}] is not a table", where=str(path))
    return state


def write_state(course: Path, state: State) -> None:
    """Write ``progress.toml``; lines of comment that its owner wrote move to the top. Raises ``FileSystemError``, also for a file marked read-only."""
    path = course / PROGRESS
    if path.exists() and not os.access(path, os.W_OK):
        raise FileSystemError("is read-only", where=str(path))
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    notes = "".join(f"{line}\n" for line in before if line.startswith("#") and line not in HEADER.splitlines())
    tables = {name: values for name, values in state.items() if isinstance(values, dict) and (values or name == "projects")}
    single = "".join(f"{_key(k)} = {_value(v)}\n" for k, v in state.items() if not isinstance(v, dict))
    write_atomic(path, HEADER + notes + single + "".join(_table(_key(name), values) for name, values in tables.items()))


def keep_state(course: Path, state: State) -> bool:
    """``write_state`` for what a command notes by the way: where that cannot be, it is said on stderr and the command goes on. Whether it was kept."""
    try:
        write_state(course, state)
    except FileSystemError as error:
        print(f"underhood: {error} (so this is not noted; all else is done)", file=sys.stderr)
        return False
    return True


def update(course: Path, change: Callable[[State], None]) -> bool:
    """Read the state, let ``change`` alter it, and keep it, while no other command does the same. Whether it was kept."""
    with locked(course / LOCK):
        state = read_state(course)
        change(state)
        return keep_state(course, state)


def _table(name: str, values: State) -> str:
    plain = {k: v for k, v in values.items() if not isinstance(v, dict)}
    inner = {k: v for k, v in values.items() if isinstance(v, dict)}
    head = f"\n[{name}]\n" + "".join(f"{_key(k)} = {_value(v)}\n" for k, v in plain.items()) if plain or not inner else ""
    return head + "".join(_table(f"{name}.{_key(k)}", v) for k, v in inner.items())


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False)


def done(course: Path) -> dict[str, datetime.date]:
    """The projects of ``course`` that were run to their end, with the day. Raises ``DataError`` for a damaged file."""
    found: dict[str, datetime.date] = read_state(course)["projects"]
    return found


def mark_done(course: Path, slug: str, day: datetime.date) -> bool:
    """Note in ``course`` that project ``slug`` was run to its end on ``day``; the first day stays. Whether it stands there."""
    if slug in done(course):
        return True

    def change(state: State) -> None:
        state["projects"].setdefault(slug, day)

    return update(course, change)


def mine(course: Path, slug: str) -> Path:
    """Where the learner's file of a project stands."""
    return course / MINE / f"{slug}.py"


def need_mine(slug: str) -> Path:
    """The learner's file of a project. Raises ``DataError`` when it is not there."""
    path = mine(need_course(), slug)
    if not path.is_file():
        raise DataError("is not there yet", where=f"{MINE}/{slug}.py", remedy=f"Start it: underhood start {slug}")
    return path


def write_note(course: Path, text: str) -> Path:
    """Append a dated entry to the learner's notebook."""
    path = course / MINE / NOTEBOOK
    before = path.read_text(encoding="utf-8") if path.is_file() else "# Notebook\n"
    stamp = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return write_atomic(path, f"{before.rstrip()}\n\n## {stamp}\n\n{text.strip()}\n")


def where() -> str:
    """Where the person is, and the one next command."""
    from underhood.projects.registry import syllabus

    course = find_course()
    if course is None:
        tried = Path("runs").is_dir()
        return "You are not in a course folder. " + ("Make one: underhood init course" if tried else "See everything in four minutes: underhood demo")
    projects, finished = syllabus(), done(course)
    left = [p for p in projects if p.slug not in finished]
    state = f"You are in the course folder {course}: {len(projects) - len(left)} of {len(projects)} projects done. "
    if not left:
        return state + "Look back: underhood progress"
    verb = "check" if mine(course, left[0].slug).is_file() else "start"
    return state + f"Next, {left[0].title}: underhood {verb} {left[0].slug}"
