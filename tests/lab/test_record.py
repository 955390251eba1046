"""Records: what they hold, when they stand, and that the prediction came first."""

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from underhood.base.errors import UserError
from underhood.base.files import read_json, write_json
from underhood.lab import identity, record
from underhood.lab.baseline import Baseline
from underhood.lab.compare import Judgement
from underhood.lab.experiment import Result, experiment
from underhood.lab.patch import Edit
from underhood.lab.sabotage import Claim, Rises, Sabotage

NAME = "p.lifted"
PLAIN = Sabotage(
    name="lifted",
    says="…",
    kind="part",
    patch=Edit("arms_of_tests:lifted", "x + lift", "x + 5"),
    baseline="arms_of_tests:TINY",
    expect=(Rises("loss", by=4.9),),
    look="",
    claim=Claim(says="it is so", source="a book", untested="its data are not public"),
)


@pytest.fixture
def result(tiny: Baseline, tmp_path: Path) -> Result:
    return experiment([(NAME, PLAIN)], range(5), tmp_path / "run", workers=2)[0]


@pytest.fixture
def records(result: Result, tmp_path: Path) -> Path:
    """A folder with one registered record."""
    folder = tmp_path / "records"
    record.register([(NAME, PLAIN)], folder)
    record.write_record(result, folder)
    return folder


def test_a_record_holds_all_that_is_needed_to_judge_it(records: Path) -> None:
    stored = read_json(records / "p" / "lifted.json")
    assert stored["seeds"] == [0, 1, 2, 3, 4]
    assert len(stored["judgements"][0]["effect"]["differences"]) == 5
    assert stored["judgements"][0]["verdict"] == "held"
    assert stored["claim"] == {"says": "it is so", "source": "a book", "verdict": "not tested here", "why": "its data are not public"}
    assert {"torch", "numpy", "python"} <= set(stored["versions"])
    assert all(arm["how"] == "done" and arm["last_step"] == 99 for which in ("healthy", "broken") for arm in stored[which])
    assert stored["healthy"][0]["curve"]
    assert "curve" not in stored["healthy"][1]
    assert stored["diff"][0].count("\n-") == 1


def test_too_few_seeds_or_an_unregistered_prediction_write_nothing(tiny: Baseline, result: Result, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not registered"):
        record.write_record(result, tmp_path / "records")
    record.register([(NAME, dataclasses.replace(PLAIN, expect=(Rises("loss", by=4.8),)))], tmp_path / "records")
    with pytest.raises(UserError, match="not registered"):
        record.write_record(result, tmp_path / "records")
    few = dataclasses.replace(result, trial=dataclasses.replace(result.trial, seeds=(0, 1, 2, 3)))
    with pytest.raises(UserError, match="preview"):
        record.write_record(few, tmp_path / "records")
    assert not (tmp_path / "records" / "p").exists()


def test_registering_tells_what_is_new(tmp_path: Path) -> None:
    assert record.register([(NAME, PLAIN)], tmp_path) == [NAME]
    first = record.registered(tmp_path)
    assert record.register([(NAME, PLAIN)], tmp_path) == []
    assert record.registered(tmp_path) == first
    assert record.register([(NAME, dataclasses.replace(PLAIN, expect=(Rises("loss", by=1),)))], tmp_path) == [NAME]


# ── standing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_record_is_fresh_until_something_it_depends_on_changes(records: Path) -> None:
    assert record.standing(NAME, PLAIN, records).state == "fresh"
    assert record.standing("p.other", PLAIN, records).state == "missing"
    assert record.standing(NAME, dataclasses.replace(PLAIN, says="in other words", look="…"), records).state == "fresh"


@pytest.mark.parametrize("change", [{"expect": (Rises("loss", by=1),)}, {"patch": Edit("arms_of_tests:lifted", "x + lift", "x + 6")}])
def test_a_changed_declaration_is_stale(records: Path, change: dict[str, Any]) -> None:
    found = record.standing(NAME, dataclasses.replace(PLAIN, **change), records)
    assert found.state == "stale"
    assert "declaration" in found.why


def test_a_changed_target_is_stale(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "target_hash", lambda sabotage, baseline: "another")
    found = record.standing(NAME, PLAIN, records)
    assert (found.state, found.why) == ("stale", "the code that it breaks changed")


def change_context(records: Path) -> None:
    path = records / "p" / "lifted.json"
    stored = read_json(path)
    write_json(path, {**stored, "context": {**stored["context"], "underhood.base.rng": "another", "underhood.no_more": "x"}})


def test_a_changed_context_is_moved_and_refreshed_when_the_figures_agree(records: Path) -> None:
    change_context(records)
    found = record.standing(NAME, PLAIN, records)
    assert found.state == "moved"
    assert "base.rng" in found.why
    notes: list[str] = []
    assert [s.state for s in record.refresh([NAME], records, note=notes.append)] == ["fresh"]
    assert notes
    assert record.standing(NAME, PLAIN, records).state == "fresh"
    assert "refreshed" in read_json(records / "p" / "lifted.json")


def test_a_refresh_whose_figures_differ_is_stale_and_changes_nothing(records: Path) -> None:
    change_context(records)
    path = records / "p" / "lifted.json"
    stored = read_json(path)
    stored["healthy"][0]["figures"]["loss"] *= 1.001
    write_json(path, stored)
    before = path.read_bytes()
    [found] = record.refresh([NAME], records, note=lambda text: None)
    assert found.state == "stale"
    assert "loss" in found.why
    assert path.read_bytes() == before


def test_each_record_is_refreshed_with_its_own_first_seed(records: Path, tmp_path: Path) -> None:
    """One whose seeds were extended begins elsewhere than its neighbours on the same baseline."""
    other = dataclasses.replace(PLAIN, name="lifted_later")
    late = experiment([("p.lifted_later", other)], range(5, 10), tmp_path / "late", workers=2)[0]
    record.register([(NAME, PLAIN), ("p.lifted_later", other)], records)
    record.write_record(late, records)
    change_context(records)
    assert [s.state for s in record.refresh([NAME, "p.lifted_later"], records, note=lambda text: None)] == ["fresh", "fresh"]


# ── the prediction came first ─────────────────────────────────────────────────────────────────────────────────────────


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize(("together", "before"), [(False, True), (True, False)])
def test_git_tells_whether_the_prediction_came_first(records: Path, together: bool, before: bool) -> None:
    assert record.registered_before(NAME, records) is None  # no history yet
    git(records, "init", "-q")
    if not together:
        git(records, "add", record.REGISTER)
        git(records, "commit", "-qm", "predict")
    git(records, "add", ".")
    git(records, "commit", "-qm", "measure")
    assert record.registered_before(NAME, records) is before


def test_a_prediction_changed_after_the_measurement_is_seen(records: Path) -> None:
    """Registered as it should be, then both prediction and record rewritten in one commit."""
    git(records, "init", "-q")
    git(records, "add", record.REGISTER)
    git(records, "commit", "-qm", "predict")
    git(records, "add", ".")
    git(records, "commit", "-qm", "measure")
    for path in (records / record.REGISTER, records / "p" / "lifted.json"):
        path.write_text(path.read_text(encoding="utf-8").replace(identity.prediction_hash(PLAIN), "0123456789abcdef"), encoding="utf-8")
    git(records, "commit", "-qam", "tidy")
    assert record.registered_before(NAME, records) is False


# ── claims ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["held", "held"], "held"),
        (["held", "inconclusive"], "inconclusive"),
        (["held", "weaker"], "refuted"),
        (["inconclusive", "opposite"], "refuted"),
        (["no effect"], "refuted"),
        (["not held"], "refuted"),
        (["preview"], "inconclusive"),
    ],
)
def test_a_claim_s_verdict(verdicts: list[Any], expected: str) -> None:
    assert record.claim_verdict([Judgement(Rises("m", by=1), v, None, "") for v in verdicts]) == expected


def test_a_record_is_json_without_nan(result: Result) -> None:
    one = dataclasses.replace(result, trial=dataclasses.replace(result.trial, seeds=(0,)))
    json.dumps(record.to_plain(one), allow_nan=False)
