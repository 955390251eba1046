"""A learner's part in the real stack: the checks come first, both runs share the seed, and what ran is told."""

from pathlib import Path

import pytest

from underhood.base.errors import UserError
from underhood.projects.registry import find_project
from underhood.workbench import plug
from underhood.workbench.starter import solution

PROJECT = find_project("preflight")


def written(folder: Path, text: str) -> Path:
    file = folder / "preflight.py"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_right_part_gives_the_references_figures(tmp_path: Path) -> None:
    result = plug.plug(PROJECT, written(tmp_path, solution(PROJECT)), tmp_path / "runs")
    assert result.mine.how == "done"
    assert set(result.used) == {"dot", "slope", "softmax"}
    assert result.mine.figures == result.reference.figures
    rows = plug.figures(result)
    assert [r.says.split(" (")[0] for r in rows if r.agrees is None] == ["seconds a run, without its start", "peak memory of the process"]
    assert all(r.agrees for r in rows if r.agrees is not None)
    assert len(result.times) == plug.ROUNDS
    assert plug.starts(result) is None


def test_a_part_that_fails_a_check_is_not_plugged(tmp_path: Path) -> None:
    file = written(tmp_path, solution(PROJECT).replace("def softmax(", "def softmax_("))
    with pytest.raises(UserError, match="checks hold"):
        plug.plug(PROJECT, file, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("given", "says"), [("attention", "PROJECT=FILE"), ("attention=nowhere.py", "no such file"), ("atention=x.py", "no such file")])
def test_a_named_part_that_cannot_be_found_is_named(given: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        plug.named_parts([given])


def test_only_what_the_file_defines_is_bound(tmp_path: Path) -> None:
    file = written(tmp_path, "def dot(a, b):\n    return 0.0\n")
    assert [b.target for b in plug.binds(PROJECT, file)] == ["underhood.scalar.warmup:dot"]
