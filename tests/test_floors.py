"""The house stands: imports point down, every folder is placed, the picture is the contract, and the light floors stay light."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from underhood.base import floors

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "underhood"
HEAVY = {"torch", "numpy", "triton"}


def contracts() -> list[dict[str, object]]:
    found: list[dict[str, object]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    return found


def built() -> set[str]:
    return {p.name for p in SOURCE.iterdir() if p.is_dir() and any(p.rglob("*.py"))}


def test_the_picture_is_the_contract() -> None:
    contract = contracts()[0]
    assert contract["layers"] == floors.layers()
    assert contract["exhaustive"] is True
    assert contract["containers"] == ["underhood"]


def test_every_folder_is_placed_and_parentheses_mean_not_built() -> None:
    folders = floors.folders()
    assert {name for name, there in folders.items() if there} == built()
    assert not built() - set(folders)


def test_the_floors_fit_their_picture() -> None:
    for columns in (floors.INNER + 2, 40):
        lines = floors.picture(columns).splitlines()
        assert len({len(line) for line in lines}) == 1
        assert len(lines[0]) <= columns
        for name in floors.folders():
            assert any(re.search(rf"\b{name}\b", line) for line in lines)


def test_init_files_are_empty() -> None:
    """They import nothing; the top one holds the docstring and the version."""
    for path in SOURCE.rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        if path == SOURCE / "__init__.py":
            assert [type(node) for node in body] == [ast.Expr, ast.Assign]
        else:
            assert body == [], path


def lint_imports(folder: Path) -> "subprocess.CompletedProcess[str]":
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run([sys.executable, "-c", script, "--no-cache"], cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)


def test_imports_point_down() -> None:
    found = lint_imports(ROOT)
    assert found.returncode == 0, found.stdout


def test_the_contract_can_be_broken(tmp_path: Path) -> None:
    """Negative control: an import upwards, a project that leans on another, torch on the first floor, and a folder that nobody placed are each found."""
    package = tmp_path / "underhood"
    for name in (*floors.folders(), "projects/one", "projects/two", "attic"):
        (package / name).mkdir(parents=True)
    for folder in (package, *(p for p in package.rglob("*") if p.is_dir())):
        (folder / "__init__.py").touch()
    (package / "lab" / "patch.py").touch()
    (package / "lab" / "bind.py").touch()
    (package / "nn" / "block.py").write_text("import underhood.lab.patch\n")
    (package / "projects" / "one" / "breaks.py").write_text("import underhood.projects.two\n")
    (package / "base" / "errors.py").write_text("import torch\n")
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    found = lint_imports(tmp_path)
    said = " ".join(found.stdout.split())
    assert found.returncode == 1
    for words in ("underhood.nn is not allowed to import underhood.lab", "underhood.base is not allowed to import torch", "attic"):
        assert words in said
    assert "underhood.projects.one is not allowed to import underhood.projects.two" in said


@pytest.mark.parametrize("floor", ["base", "scalar"])
def test_the_light_floors_need_neither_torch_nor_numpy(floor: str) -> None:
    modules = [f"underhood.{floor}.{path.stem}" for path in (SOURCE / floor).glob("*.py")]
    assert modules
    assert not loaded_by(*modules) & HEAVY


def test_the_patcher_and_the_list_of_projects_need_neither() -> None:
    assert not loaded_by("underhood.lab.patch", "underhood.lab.bind", "underhood.lab.sabotage", "underhood.projects.registry") & HEAVY


def test_heavy_imports_are_seen() -> None:
    """Negative control of the two tests above."""
    assert "torch" in loaded_by("underhood.nn.attention")


def loaded_by(*modules: str) -> set[str]:
    """The top-level packages in memory after importing ``modules`` in a process of its own."""
    names = [module.removesuffix(".__init__") for module in modules]
    script = f"import importlib, sys\nfor m in {names!r}: importlib.import_module(m)\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split())
