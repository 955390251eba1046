"""`break`, `report`, `records` and `run`, on the scalar engine: pure Python and quick."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from underhood.base.files import read_json, write_json
from underhood.cli import break_ as break_command
from underhood.cli import records as records_command
from underhood.cli.break_progress import Watcher
from underhood.cli.main import main
from underhood.lab import record
from underhood.lab.experiment import plan
from underhood.projects.registry import find_break, find_project

NAME = "scalar.no_bias"
ENOUGH = ["--seeds", "5", "--workers", "2"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one break has been measured with five seeds."""
    folder = tmp_path_factory.mktemp("measured")
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["break", NAME, *ENOUGH, "--json"]) == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def at(measured: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(measured)
    return measured


def run_folder(at: Path) -> Path:
    [folder] = (at / "runs").glob(f"{NAME}-*")
    return folder


# ── break ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_break_writes_config_results_and_report_and_a_second_run_only_reads(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {p.name for p in run_folder(at).iterdir()} == {"config.json", "results.json", "report.html"}
    assert read_json(run_folder(at) / "config.json")["breaks"] == [NAME]
    began = time.monotonic()
    assert main(["break", NAME, *ENOUGH]) == 0
    assert time.monotonic() - began < 5
    told = capsys.readouterr()
    assert "All 10 arms are measured already" in told.err
    assert "loss rises by at least 0.7" in told.out
    assert "predictions tested: " in told.out
    assert "report.html" in told.out


def test_json_is_the_record_and_nothing_else(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["break", NAME, *ENOUGH, "--json"]) == 0
    [printed] = json.loads(capsys.readouterr().out)
    [stored] = read_json(run_folder(at) / "results.json")
    assert printed == stored
    assert printed["break"] == NAME
    assert len(printed["judgements"][0]["effect"]["differences"]) == 5


def test_three_seeds_are_a_preview_and_share_what_is_measured(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["break", NAME, "--seeds", "3", "--out", "runs"]) == 0  # the store of the five-seed run
    told = capsys.readouterr()
    assert "All 6 arms are measured already" in told.err
    assert "preview" in told.out
    assert main(["break", NAME, "--seeds", "3", "--record"]) == 2
    assert "3 seeds are a preview" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["scalar.no_biass"], "Did you mean 'no_bias'"),
        (["scaler.no_bias"], "Did you mean 'scalar'"),
        ([NAME, "--seeds", "0"], "greater than or equal to 1"),
        ([NAME, "--baseline", "scalar.sixpoints"], "Did you mean 'scalar.six_points'"),
        ([NAME, "--record"], "not registered"),
        ([NAME, "--record", "--baseline", "scalar.six_points"], "declared baseline"),
        ([NAME, "--seedz", "5"], "--seeds"),
    ],
)
def test_what_a_user_can_get_wrong(at: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert main(["break", *words]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_a_record_is_written_checked_and_compared(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    records = ["--records", str(tmp_path / "records")]
    assert main(["records", "register", *records]) == 0
    assert main(["break", NAME, *ENOUGH, "--record", *records]) == 0
    assert "no_bias.json" in capsys.readouterr().out
    assert main(["break", NAME, *ENOUGH, *records]) == 0
    assert "2 of 2 directions agree" in " ".join(capsys.readouterr().out.split())

    monkeypatch.setattr(records_command, "recorded_breaks", lambda: {NAME: find_break(NAME)[1]})
    assert main(["records", "check", "--rerun", "1", *records]) == 0
    assert "agrees with its record" in capsys.readouterr().out

    path = tmp_path / "records" / "scalar" / "no_bias.json"
    stored = read_json(path)
    write_json(path, {**stored, "context": {**stored["context"], "underhood.base.rng": "another"}})
    assert main(["records", "check", *records]) == 0
    assert "underhood records refresh" in capsys.readouterr().out
    assert main(["records", "check", "--strict", *records]) == 1
    assert main(["records", "refresh", *records]) == 0
    assert main(["records", "check", "--strict", *records]) == 0

    stored["healthy"][0]["figures"]["loss"] += 0.01
    write_json(path, stored)
    assert main(["records", "check", "--rerun", "1", *records]) == 1
    write_json(path, {**stored, "declaration": "another"})
    capsys.readouterr()
    assert main(["records", "check", *records]) == 1
    assert f"underhood break {NAME} --record" in capsys.readouterr().out


def test_a_prediction_that_came_too_late_fails_the_check(at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    records = ["--records", str(tmp_path)]
    assert main(["records", "register", *records]) == 0
    assert main(["break", NAME, *ENOUGH, "--record", *records]) == 0
    monkeypatch.setattr(records_command, "recorded_breaks", lambda: {NAME: find_break(NAME)[1]})
    monkeypatch.setattr(record, "registered_before", lambda name, folder: False)
    assert main(["records", "check", *records]) == 1
    assert "not in an earlier commit" in " ".join(capsys.readouterr().out.split())


def test_a_missing_record_fails_the_check_and_names_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "check", "--records", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["stands"] is False
    assert {r["state"] for r in found["records"]} == {"missing"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "underhood", "break", "scalar", "--seeds", "5", "--workers", "1"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "(1/" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 130
    assert "Go on with: underhood break scalar --seeds 5" in said
    assert "Traceback" not in said
    kept = [json.loads(line) for line in (tmp_path / "runs" / "arms.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {a["how"] for a in kept} == {"done"}


def test_undecided_predictions_may_be_extended_once() -> None:
    result = {"break": NAME, "seeds": [0, 1, 2, 3, 4], "judgements": [{"verdict": "inconclusive"}]}
    assert "--seeds 10 --from 5" in break_command._undecided([result], NAME)[0]
    assert "withdraw" in break_command._undecided([{**result, "seeds": list(range(5, 15))}], NAME)[0]
    assert break_command._undecided([{**result, "judgements": [{"verdict": "held"}]}], NAME) == []


def test_the_estimate_counts_what_is_left() -> None:
    jobs = plan([(NAME, find_break(NAME)[1])], range(5))
    seconds = jobs[0].baseline.seconds
    assert Watcher(jobs, {}, 1).seconds == pytest.approx(10 * seconds, abs=5)
    half = Watcher(jobs, {("healthy", jobs[0].baseline.name): 5}, 1)
    assert half.seconds == pytest.approx(5 * seconds, abs=3)
    assert (half.done, half.total) == (5, 10)
    assert "5 are measured already" in half.estimate()


def test_live_lines_show_where_each_break_is() -> None:
    watcher = Watcher(plan([(NAME, find_break(NAME)[1])], range(2)), {}, 1)
    watcher.listen(NAME, {"event": "step", "seed": 1, "step": 30, "figures": {"loss": 0.5}})
    watcher.listen("healthy", {"event": "end", "seed": 0, "how": "done"})
    out = io.StringIO()
    from rich.console import Console

    Console(file=out, width=60).print(watcher._lines())
    assert "1/2" in out.getvalue()
    assert "seed 1, step 30, loss 0.5" in out.getvalue()


# ── report ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_report_of_a_run_of_records_and_as_json(at: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (run_folder(at) / "report.html").unlink()
    assert main(["report", str(run_folder(at))]) == 0
    assert "no_bias" in (run_folder(at) / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(run_folder(at)), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()
    capsys.readouterr()
    assert main(["report", str(run_folder(at)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["break"] == NAME


def test_report_of_a_training_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[dict[str, Any]] = [{"step": s, "elapsed_s": s / 2, "loss": 3 - s / 100, "lr": 1e-3} for s in range(1, 101)]
    lines += [{"step": 100, "elapsed_s": 51.0, "val_loss": 2.2}, {"step": 100, "elapsed_s": 52.0, "sample": "<b>Once</b> upon"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 1', encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 0
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;Once" in html
    assert "training from 2.99 to 2; held out from 2.2 to 2.2" in html
    assert "100 steps, loss 2.000, held-out loss 2.200, 0.9 minutes." in html


@pytest.mark.parametrize("content", ["[]", "{}", "[1]", '[{"judgements": 3}]', "nonsense", '[{"judgements": [], "break": "x"}]'])
def test_a_damaged_result_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "result" in told
    assert str(tmp_path) in told
    assert "Traceback" not in told


def test_report_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for words, says in (([], "unknown project"), (["scalar"], "no committed record"), (["nowhere"], "unknown project"), (["."], "holds no results")):
        assert main(["report", *words]) == 2
        assert says in capsys.readouterr().err


# ── run ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_run_tiny_builds_verifies_breaks_and_measures_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "."]) == 0
    assert main(["run", "scalar", "--tiny"]) == 0
    told = capsys.readouterr().out
    places = [told.index(word) for word in ("about", "Build:", "Verify:", "Break:", "Report:", "Measure:", "Noted in")]
    assert places == sorted(places)
    assert all(f"{c.step}: {c.name.replace('_', ' ')}"[:30] in " ".join(told.split()) for c in find_project("scalar").checks())
    assert "scalar = " in (tmp_path / "progress.toml").read_text(encoding="utf-8")


def test_run_fails_when_a_check_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from underhood.cli import run
    from underhood.lab import kills

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "_break", lambda *args: [])
    monkeypatch.setattr(run, "_measure", lambda *args: {})
    monkeypatch.setattr(kills, "run_check", lambda check, part: "it does not add" if check.step == "Arithmetic" else None)
    assert main(["init", "."]) == 0
    assert main(["run", "scalar", "--tiny", "--json"]) == 1
    out = capsys.readouterr().out
    assert "it does not add" in out
    assert "scalar" not in (tmp_path / "progress.toml").read_text(encoding="utf-8").partition("[projects]")[2]


def test_what_a_project_shows_stands_on_its_page(at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from underhood.cli import run
    from underhood.projects.registry import Project

    project, results = find_project("scalar"), read_json(run_folder(at) / "results.json")
    run._add_sections(project, results, tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()  # it shows nothing, so the page stays as it is
    monkeypatch.setattr(Project, "sections", lambda self: [("Where it looks", "<p>there</p>")])
    run._add_sections(project, results, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h2>Where it looks</h2><p>there</p>" in page
    assert "no_bias" in page


def test_run_measures_only_and_writes_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "records"
    assert main(["run", "scalar", "--measure-only", "--record", "--records", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    stored = read_json(folder / "measures" / "scalar.json")
    assert stored["measure"] == printed["figures"]
    assert stored["measure"]["parameters"] == 2 * 16 + 16 + 16 * 16 + 16 + 16 + 1
    assert main(["run", "scalar", "--record"]) == 2
    assert "--measure-only" in capsys.readouterr().err


def test_a_report_of_all_records_leaves_out_what_is_no_break(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "records"
    (folder / "measures").mkdir(parents=True)
    (folder / "measures" / "scalar.json").write_text('{"measure": {}}', encoding="utf-8")
    assert main(["report", str(folder)]) == 2
    assert "holds no results" in capsys.readouterr().err
    write_json(folder / "scalar" / "no_bias.json", read_json(run_folder(at) / "results.json")[0])
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0


def test_run_with_both_sizes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "scalar", "--tiny", "--full"]) == 2
    assert "one of them" in capsys.readouterr().err


def test_help_is_quick_and_needs_no_torch() -> None:
    verbs = ("break", "report", "records", "run")
    code = f"import sys; from underhood.cli.main import main; [main([v, '--help']) for v in {verbs}]; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--seeds" in done.stdout
