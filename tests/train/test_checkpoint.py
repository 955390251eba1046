"""Checkpoints: whole or absent; every kind of damage is found, named, and passed over."""

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from tests.train.small import MODEL, TRAIN, make
from underhood.base.errors import CheckpointError, FileSystemError
from underhood.train import checkpoint as files


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints at steps 2 and 4."""
    trainer = make(tmp_path / "run")
    for step in range(1, 5):
        trainer.step()
        if step % 2 == 0:
            trainer.save()
    return tmp_path / "run"


def test_layout_and_round_trip(run: Path) -> None:
    assert [p.name for p in files.checkpoints(run)] == ["step-000002", "step-000004"]
    assert sorted(p.name for p in (run / "step-000004").iterdir()) == ["model.safetensors", "state.json", "state.safetensors"]
    found, problems = files.latest_checkpoint(run)
    assert (found.facts["step"], problems) == (4, [])
    assert all(torch.equal(t, found.model[n]) for n, t in safetensors.torch.load_file(run / "step-000004" / "model.safetensors").items())
    assert found.state["random/dropout"].dtype == torch.uint8


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_files_have_the_usual_mode(run: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE(p.stat().st_mode) for p in (run / "step-000004").iterdir()} == {0o666 & ~umask}


def test_tied_tensors_are_saved_once(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(50, 50, bias=False), "b": nn.Linear(50, 50, bias=False)})
    model["b"].weight = model["a"].weight
    path = files.save_checkpoint(tmp_path, 1, files.Checkpoint(model=files.model_tensors(model), state={}, facts={}))
    assert json.loads((path / "state.json").read_text())["aliases"] == {"b.weight": "a.weight"}
    assert (path / "model.safetensors").stat().st_size < 1.5 * 50 * 50 * 4
    assert torch.equal(files.load_checkpoint(path).model["b.weight"], model["a"].weight)


def test_never_overwritten(run: Path) -> None:
    with pytest.raises(FileSystemError, match="exists already"):
        files.save_checkpoint(run, 4, files.Checkpoint(model={}, state={}, facts={}))


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_truncated_falls_back(run: Path, name: str, share: float) -> None:
    victim = run / "step-000004" / name
    victim.write_bytes(victim.read_bytes()[: int(share * victim.stat().st_size)])
    assert_falls_back(run)


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
@pytest.mark.parametrize("place", [0.0, 0.02, 0.5, 0.9999])
def test_a_flipped_bit_falls_back(run: Path, name: str, place: float, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = run / "step-000004" / name
    content = bytearray(victim.read_bytes())
    content[int(place * len(content))] ^= 1
    victim.write_bytes(content)
    assert_falls_back(run)
    if place >= 0.5:  # negative control: without the checksum a bit of the numbers goes by unseen
        expected = json.loads((run / "step-000004" / "state.json").read_text())["sha256"]
        monkeypatch.setattr(files, "sha256", lambda path: expected[path.name])
        files.load_checkpoint(run / "step-000004")


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json"])
def test_a_missing_file_falls_back(run: Path, name: str) -> None:
    (run / "step-000004" / name).unlink()
    assert_falls_back(run)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"schema": 0}', '{"schema": 99}', '{"schema": 1, "sha256": {}}', '{"schema": 1, "sha256": 3, "aliases": {}, "step": 4}', "\xff"],
)
def test_another_index_falls_back(run: Path, content: str) -> None:
    (run / "step-000004" / "state.json").write_text(content, encoding="latin-1")
    assert_falls_back(run)


def assert_falls_back(run: Path) -> None:
    with pytest.raises(CheckpointError, match="step-000004"):
        files.load_checkpoint(run / "step-000004")
    trainer = make(run)
    problems = trainer.resume()
    assert trainer.steps_done == 2
    assert len(problems) == 1
    assert "step-000004" in problems[0]


def test_none_whole_says_why(run: Path) -> None:
    for path in files.checkpoints(run):
        (path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"no whole checkpoint.*step-000004.*step-000002"):
        make(run).resume()
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        make(run.parent / "nowhere").resume()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 zip", b"\x80\x04\x95 pickle", (10**12).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{]", b"\0" * 64]
)
def test_not_safetensors_is_named_and_never_run(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a"):
        files.read_tensors(path)


def test_a_header_that_is_too_large_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    header = b'{"' + b"x" * (files.LARGEST_HEADER + 10) + b'"}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="header would be 10,000,"):
        files.read_tensors(path)


def test_wrong_config_is_named_by_field_and_changes_nothing(run: Path) -> None:
    other = make(run, model=dataclasses.replace(MODEL, dropout=0.1), train=dataclasses.replace(TRAIN, clip=0.5, steps=99))
    before = [p.clone() for p in other.model.parameters()]
    with pytest.raises(CheckpointError, match=r"model\.dropout: 0\.2 in the checkpoint, 0\.1 given; train\.clip: 1\.0 in the checkpoint, 0\.5 given") as error:
        other.resume()
    assert "train.steps" not in str(error.value), "the length of a run may change"
    assert other.steps_done == 0
    assert all(torch.equal(a, b) for a, b in zip(before, other.model.parameters(), strict=True))
    with pytest.raises(CheckpointError, match=r"tokenizer: None in the checkpoint, 'abc' given"):
        make(run, facts={"tokenizer": "abc"}).resume()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.weight"), "'norm.weight' is not in the checkpoint"),
        (lambda t: t.update(extra=torch.ones(1)), "'extra' is in the checkpoint but not"),
        (lambda t: t.update({"norm.weight": torch.ones(3)}), r"norm.weight: shape \[3\]"),
    ],
)
def test_another_model_is_named_by_tensor(run: Path, change, message: str) -> None:
    tensors = dict(files.load_checkpoint(run / "step-000004").model)
    change(tensors)
    with pytest.raises(CheckpointError, match=message):
        files.load_model(make().model, tensors)


def test_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.5, 2.6])
    train = dataclasses.replace(TRAIN, steps=10, save_every=2, validate_every=2, keep=2)
    trainer = make(tmp_path, train=train, validate=lambda model: {"loss": next(losses)})
    assert trainer.run() == "finished"
    assert [p.name for p in files.checkpoints(tmp_path)] == ["step-000004", "step-000008", "step-000010"]
    assert trainer.best == (4, 1.0)
    again = make(tmp_path, train=train)
    again.resume()
    assert again.best == (4, 1.0)


def test_stale_temporaries_are_cleaned_and_living_ones_kept(run: Path) -> None:
    dead, mine, living = run / ".tmp-999999999-step-000006", run / f".tmp-{os.getpid()}-step-000006", run / f".tmp-{os.getppid()}-step-000006"
    for path in (dead, mine, living):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
    assert sorted(files.clean_stale(run)) == sorted([dead.name, mine.name])
    assert living.exists()
    trainer = make(run)
    trainer.resume()
    assert trainer.steps_done == 4


def test_names_that_are_not_checkpoints_are_left_alone(run: Path) -> None:
    (run / "step-last").mkdir()
    (run / "notes.txt").write_text("mine")
    files.prune(run, keep=1)
    assert sorted(p.name for p in run.iterdir()) == ["notes.txt", "step-000004", "step-last"]
