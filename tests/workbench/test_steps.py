"""Each step's checks need only code of the steps up to it."""

import ast
from pathlib import Path

import pytest

from underhood.projects.registry import find_project
from underhood.workbench.checking import check_file
from underhood.workbench.starter import solution


def without(text: str, *names: str) -> str:
    """``text`` with those functions and methods not written yet."""
    tree = ast.parse(text)
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    assert len(found) == len(names)
    for node in found:
        node.body = ast.parse(f"raise NotWritten({node.name!r})").body
    return "from underhood.base.errors import NotWritten\n" + ast.unparse(tree)


@pytest.mark.parametrize(
    ("slug", "missing", "step"),
    [
        ("scalar", ("exp", "log", "tanh", "relu", "topological_order", "backward"), 3),
        ("scalar", ("topological_order", "backward"), 4),
        ("scalar", ("backward",), 5),
        ("bpe", ("encode_word", "encode", "decode", "decode_bytes"), 5),
        ("bpe", ("decode", "decode_bytes"), 6),
    ],
)
def test_what_a_later_step_teaches_is_not_asked_for(slug: str, missing: tuple[str, ...], step: int, tmp_path: Path) -> None:
    project = find_project(slug)
    file = tmp_path / f"{slug}.py"
    file.write_text(without(solution(project), *missing), encoding="utf-8")
    open_step = check_file(project, file).next_step
    assert open_step is not None
    assert open_step.number == step
    assert "not written" in {o.state for o in open_step.outcomes}
