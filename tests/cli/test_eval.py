"""``underhood eval`` on a run folder of ours that is small enough to make in a second."""

import json
from pathlib import Path

import pytest

from underhood.cli.main import main
from underhood.data.corpora import load_corpus
from underhood.train.recipes import RunConfig
from underhood.train.run import Run, prepare


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny model on a few tales, saved after one step."""
    from underhood.base.config import override
    from underhood.nn.gpt import GPTConfig

    folder = tmp_path_factory.mktemp("runs") / "run"
    config = RunConfig(model=GPTConfig(vocab_size=300, context=32, n_layer=1, n_head=1, width=8))
    prepared: Run = prepare(override(config, SETTINGS), load_corpus("tales:60"), folder)
    trainer = prepared.trainer(folder=folder)
    trainer.run()
    return folder


SETTINGS = {"train.steps": 1, "batch_size": 2, "vocab_size": 300}


def test_it_predicts_the_runs_own_held_out_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["loss"] == pytest.approx(5.704, abs=0.1)  # ln 300: it knows nothing yet
    assert found["bits_per_byte"] > 1
    assert found["windows"] == "side by side, 32 tokens"


def test_on_tales_it_knows_the_floor(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--data", "tales:30"]) == 0
    out = capsys.readouterr().out
    assert "each document from its beginning" in out
    assert f"the best possible: {load_corpus('tales:30').floor:.4f}" in out


def test_a_file_of_ones_own(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("Mia went to the park. " * 50)
    assert main(["eval", str(run), "--data", str(tmp_path / "mine.txt"), "--stride", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_bytes"] == 110
    assert found["windows"] == "sliding by 8, 32 tokens"


def test_tales_are_scored(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--tales", "--pairs", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tales"]
    assert found["pairs"]["names"]["total"] == 10
    assert found["scores"]["parsed"]["total"] >= 1


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(tmp_path / "none")]) == 2
    assert "none: no such folder" in capsys.readouterr().err
