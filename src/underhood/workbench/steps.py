"""The steps of a project's build, in the order of its checks, and what of the seams each of them needs: found by running the checks on the healthy part."""

import ast
import functools
import inspect
import random
import re
import sys
from types import CodeType, FrameType
from typing import Any, NamedTuple

from underhood.base.names import load
from underhood.base.rng import stream_seed
from underhood.lab.check import Check
from underhood.projects.registry import Project, find_project
from underhood.workbench.hollow import name_of_seam


class Need(NamedTuple):
    """When a function of a seam first runs, and when code of it first runs that had not before; steps count from 1."""

    first: int
    whole: int


def step_titles(project: Project) -> list[str]:
    """The steps of the build, in order: ``"2 · Scaled dot product"``."""
    return [f"{i} · {title}" for i, title in enumerate(dict.fromkeys(plain_step(check) for check in project.checks()), 1)]


def plain_step(check: Check) -> str:
    """The title of a check's step without its number."""
    return re.sub(r"^\d+ · ", "", check.step)


def steps_of_seams(project: Project) -> dict[str, int]:
    """Seam → the number of its step: the first whose checks use it; where only other seams use it, the first that needs the whole of it."""
    return dict(_steps_of_seams(project.slug))


@functools.cache
def _steps_of_seams(slug: str) -> dict[str, int]:
    project = find_project(slug)
    titles = [plain_step(check) for check in project.checks()]
    numbers = {title: i for i, title in enumerate(dict.fromkeys(titles), 1)}
    found: dict[str, int] = {}
    for check in project.checks():
        for name in parts_used(check):
            found.setdefault(name, numbers[plain_step(check)])
    through = {name: need.whole for name, need in reversed(needs(slug).items()) if name in {name_of_seam(s) for s in project.seams}}
    return {name: found.get(name, through.get(name, len(numbers))) for name in map(name_of_seam, project.seams)}


def needed_before(project: Project, step: int) -> set[str]:
    """What the checks of the steps before ``step`` run, and what no check runs of the classes before it: functions, and methods as ``"Class.method"``."""
    known = needs(project.slug)
    found = {name for name, need in known.items() if need.first < step}
    for seam in project.seams:
        if steps_of_seams(project)[name_of_seam(seam)] < step and isinstance(cls := load(seam), type):
            found |= {f"{cls.__name__}.{name}" for name in vars(cls)} - known.keys()
    return found


@functools.cache
def needs(slug: str) -> dict[str, Need]:
    """Function or ``"Class.method"`` of the modules that hold the project's seams → when its code runs. Takes as long as the checks, a second or so."""
    project = find_project(slug)
    lines = _Lines({seam.partition(":")[0] for seam in project.seams})
    part = project.part_now()
    found: dict[str, Need] = {}
    titles = [title.split(" · ", 1)[1] for title in step_titles(project)]
    for step, title in enumerate(titles, 1):
        before = {name: len(seen) for name, seen in lines.seen.items()}
        for check in project.checks():
            if plain_step(check) == title:
                with lines:
                    check.run(part, random.Random(stream_seed(0, f"check/{check.name}")))
        for name, seen in lines.seen.items():
            if len(seen) > before.get(name, 0):
                found[name] = Need(found[name].first if name in found else step, step)
    return found


class _Lines:
    """Notes which lines of the modules' functions run."""

    def __init__(self, modules: set[str]) -> None:
        self.modules = modules
        self.seen: dict[str, set[int]] = {}
        self.whole: set[CodeType] = set()

    def __enter__(self) -> None:
        self.before = sys.gettrace()
        sys.settrace(self._call)

    def __exit__(self, *args: object) -> None:
        sys.settrace(self.before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code in self.whole or frame.f_globals.get("__name__") not in self.modules:
            return None
        lines = self.seen.setdefault(code.co_qualname.partition(".<locals>")[0], set())
        every = {line for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno}

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            lines.add(frame.f_lineno)
            if lines.issuperset(every):
                self.whole.add(code)  # nothing is left to be seen of it
                frame.f_trace_lines = False
            return line

        return line


def parts_used(check: Check) -> list[str]:
    """The seams that a check uses, read from its source and that of the helpers that it hands ``part`` to."""
    module = inspect.getmodule(check.run)
    assert module is not None
    functions = {n.name: n for n in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(n, ast.FunctionDef)}
    found: list[str] = []
    seen: set[str] = set()
    queue = [check.run.__name__]
    while queue:
        name = queue.pop(0)
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "part":
                found.append(node.attr)
            if isinstance(node, ast.Call) and any(isinstance(a, ast.Name) and a.id == "part" for a in node.args):
                called = node.func.args[0] if isinstance(node.func, ast.Call) and node.func.args else node.func
                queue += [n.id for n in [called, *node.args] if isinstance(n, ast.Name)]
    return list(dict.fromkeys(found))
