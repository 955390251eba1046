"""Our modules without the parts that a learner is to write: in the player these seams lead to the learner's file, and nowhere else.

The source is read and rewritten in the judge; the player gets the text and never sees the file.
"""

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

MINE = "underhood_mine"  # the learner's module in the player
DOOR = """
def {name}(*args, **options):
    return __mine__({name!r})(*args, **options)
"""
CLASS_DOOR = """
class {name}:
    def __new__(cls, *args, **options):
        return __mine__({name!r})(*args, **options)
"""


class Borrowed(ImportError):
    """The learner's file leans on what it is to write, or on what would be the answer."""


def hollow(source: str, seams: Iterable[str]) -> str:
    """``source`` with each function or class named in ``seams`` replaced by a door to the learner's."""
    wanted = set(seams)
    tree = ast.parse(source)
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in wanted:
            door = CLASS_DOOR if isinstance(node, ast.ClassDef) else DOOR
            body += ast.parse(door.format(name=node.name)).body
        else:
            body.append(node)
    tree.body = body
    return ast.unparse(ast.fix_missing_locations(tree))


def hollow_modules(seams: Sequence[str]) -> dict[str, str]:
    """Module → its hollowed source, for every module that holds one of the seams (``"module:name"``)."""
    homes: dict[str, list[str]] = {}
    for seam in seams:
        module, _, name = seam.partition(":")
        homes.setdefault(module, []).append(name.split(".")[0])
    return {module: hollow(Path(_file(module)).read_text(encoding="utf-8"), names) for module, names in homes.items()}


def name_of_seam(seam: str) -> str:
    """The last name of a seam: what it is called in the learner's file."""
    return seam.rpartition(":")[2].rpartition(".")[2]


def hidden_files(seams: Sequence[str]) -> list[str]:
    """The files that would be the answer."""
    return sorted({str(Path(_file(seam.partition(":")[0])).resolve()) for seam in seams})


def _file(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


class Hollow(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds hollowed modules before anything else does, and refuses what would be the answer."""

    def __init__(self, sources: Mapping[str, str], refused: Iterable[str]) -> None:
        self.sources, self.refused = dict(sources), tuple(refused)
        self.guarding = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The loader for a hollowed module; ``Borrowed`` for one that is refused."""
        if self.guarding and any(name == r or name.startswith(r + ".") for r in self.refused):
            raise Borrowed(f"{name} would be the answer: this project is written without it")
        return importlib.machinery.ModuleSpec(name, self) if name in self.sources else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The usual kind of module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the hollowed source."""
        module.__dict__["__mine__"] = mine
        exec(compile(self.sources[module.__name__], f"<{module.__name__}>", "exec"), module.__dict__)


def mine(name: str) -> Any:
    """The learner's ``name``. Raises ``NotWritten`` before there is one, ``Borrowed`` when it is our own door."""
    from underhood.base.errors import NotWritten

    module = sys.modules.get(MINE)
    found = getattr(module, name, None)
    if found is None:
        raise NotWritten(f"{name} is not written yet")
    if getattr(found, "__module__", None) != MINE:
        raise Borrowed(f"{name} is imported: it is what this project has you write")
    return found
