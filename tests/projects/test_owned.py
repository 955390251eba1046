"""Every public name of the healthy stack is owned by one project or listed as given, and the list names nothing that is gone."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from underhood.projects.registry import given, syllabus

SOURCE = Path(__file__).parents[2] / "src"
FLOORS = ("scalar", "tensor", "text", "data", "nn", "train", "infer", "eval", "interop")


def public_names() -> dict[str, list[str]]:
    """Module → the functions and classes that it defines without a leading underscore."""
    paths = [p for floor in FLOORS for p in sorted((SOURCE / "underhood" / floor).rglob("*.py"))]
    found = {".".join(p.relative_to(SOURCE).with_suffix("").parts): _defined(p) for p in paths}
    return {module: names for module, names in found.items() if names}


def _defined(path: Path) -> list[str]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not n.name.startswith("_")]


def claims(names: dict[str, list[str]], entries: list[str]) -> Counter[str]:
    """How many entries claim each name; what an entry names and is not there counts under the entry itself, as -1."""
    counted: Counter[str] = Counter({f"{module}:{name}": 0 for module, defined in names.items() for name in defined})
    for entry in entries:
        module, _, name = entry.partition(":")
        claimed = [f"{module}:{n}" for n in ([name] if name else names.get(module, []))]
        if not claimed or any(c not in counted for c in claimed):
            counted[entry] = -1
        else:
            counted.update(claimed)
    return counted


def test_every_public_name_is_owned_by_one_project_or_given() -> None:
    seams = [seam for project in syllabus() for seam in project.seams]
    counted = claims(public_names(), [*seams, *given()])
    assert [name for name, n in counted.items() if n == 0] == [], "owned by no project, nor given in syllabus.toml"
    assert [name for name, n in counted.items() if n > 1] == [], "claimed twice"
    assert [name for name, n in counted.items() if n < 0] == [], "listed in syllabus.toml, and there is no such name"


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [(["a:f", "b"], {"a:g": 0}), (["a", "b", "a:f"], {"a:f": 2}), (["a", "b", "c"], {"c": -1}), (["a", "b", "b:k"], {"b:k": -1}), (["a:f", "a:g", "b"], {})],
)
def test_each_kind_of_fault_would_be_seen(entries: list[str], wrong: dict[str, int]) -> None:
    """Negative control of the test above: a name left out, one claimed twice, a module and a name that are gone."""
    counted = claims({"a": ["f", "g"], "b": ["h"]}, entries)
    assert {name: n for name, n in counted.items() if n != 1} == wrong
