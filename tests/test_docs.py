"""The pages say what is so: the picture, the commands, the links, the examples; and nothing of the machine that they were written on."""

import doctest
import importlib
import re
import subprocess
import tomllib
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from underhood.base import floors
from underhood.cli.main import VERBS, verbs

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
MACHINE = re.compile(r"(?<![\w.:/])/(?:root|home|Users|work|mnt|opt)/[\w.-]+|[A-Z]:\\Users\\")


def tracked() -> list[Path]:
    """The repository's text files; without git (an unpacked archive), every file that is not hidden."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name] if listed.returncode == 0 else list(_visible(ROOT))
    return [p for p in paths if p.is_file() and b"\0" not in p.read_bytes()[:4096]]


def _visible(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if not path.name.startswith("."):
            yield from _visible(path) if path.is_dir() else [path]


def pages() -> list[Path]:
    return sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")})


def anchor(heading: str) -> str:
    """The anchor that a heading gets, on the repository's pages and on the site."""
    text = unicodedata.normalize("NFC", heading).lower().replace("`", "")
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", text).strip())


@pytest.mark.parametrize("page", ["README.md", "docs/floors.md"])
def test_the_picture_is_the_map(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = re.search(r"<!-- floors:begin.*?```text\n(.*?)\n```.*?<!-- floors:end -->", text, re.DOTALL)
    assert shown is not None
    assert shown[1] == floors.picture(), "print it again: underhood map"


def test_the_readme_keeps_a_place_for_what_the_demo_prints() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- demo:begin -->") == text.count("<!-- demo:end -->") == 1
    assert text.index("<!-- demo:begin -->") < text.index("<!-- demo:end -->")


def test_every_command_has_its_line_in_the_manual_and_no_other_has() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    told = {found[1] for found in re.finditer(r"^\| `underhood (\w+)", page, re.MULTILINE)}
    assert told == {verb for group in VERBS.values() for verb in group}
    assert told >= set(verbs())


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if fragment:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in {anchor(h) for h in headings}, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_paths_named_in_code_type_exist(page: Path) -> None:
    for path in re.findall(r"`((?:src|tests|docs|bench)/[\w./-]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_nothing_names_the_machine_that_it_was_written_on() -> None:
    found = [
        f"{p.relative_to(ROOT)}: {m[0]}" for p in tracked() for m in MACHINE.finditer(p.read_text(encoding="utf-8", errors="replace")) if p != Path(__file__)
    ]
    assert found == []


def test_a_path_of_a_machine_would_be_seen() -> None:
    """Negative control of the test above."""
    assert MACHINE.search('open("/home/someone/x.txt")')
    assert not MACHINE.search("https://example.org/home/page src/home/x a/work/b")


def test_every_make_target_says_what_it_is_for() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    told = set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))
    assert told == set(phony[1].split())


def test_constraints_pin_everything_that_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *(line for extra in ("dev", "hf", "fast", "docs", "notebook") for line in project["optional-dependencies"][extra])]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line and not line.startswith("#"))
    names = {name.lower().replace("_", "-") for name in pinned}
    assert {re.split(r"[^\w-]", line)[0].lower() for line in declared} <= names
    assert "+" not in pinned["torch"]


def examples() -> list[str]:
    """Modules with an example in a docstring."""
    files = [p for p in (SOURCE / "underhood").rglob("*.py") if ">>>" in p.read_text(encoding="utf-8")]
    return [".".join(p.relative_to(SOURCE).with_suffix("").parts) for p in files]


@pytest.mark.parametrize("module", examples())
def test_examples_in_docstrings_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
