"""``underhood pull`` on the command line; it fetches from nowhere here."""

import json
from pathlib import Path

import pytest

from underhood.base.errors import NetworkError
from underhood.cli.main import main
from underhood.data import pull as pulling


def test_without_a_name_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull"]) == 0
    assert "shakespeare" in capsys.readouterr().out
    assert main(["pull", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(pulling.SOURCES)


def test_it_says_what_it_fetched_and_what_is_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fetch(remote: pulling.Remote, path: Path, progress: pulling.Progress | None = None) -> Path:
        if progress:
            progress(path.name, 1, 2)
        return path

    monkeypatch.setattr(pulling, "fetch", fetch)
    assert main(["pull", "gpt2", "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "gpt2" / "model.safetensors") in out
    assert f"Next: underhood sample {tmp_path / 'gpt2'}" in out
    assert main(["pull", "shakespeare", "--folder", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "shakespeare", "files": [str(tmp_path / "tinyshakespeare.txt")]}


def test_a_wrong_name_and_a_missing_network_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "shakspeare"]) == 2
    assert "Did you mean 'shakespeare'?" in capsys.readouterr().err

    def offline(*_: object) -> None:
        raise NetworkError("no connection to example", remedy="Go online.")

    monkeypatch.setattr(pulling, "fetch", offline)
    assert main(["pull", "shakespeare"]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
