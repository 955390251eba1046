"""``underhood pull`` on the command line; it fetches from nowhere here."""

import json
from pathlib import Path

import pytest

from underhood.base.errors import NetworkError
from underhood.cli.main import main
from underhood.data import pull as pulling
from underhood.data import pull_model
from underhood.text.bpe import BPE


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


SHARD = "model-00001-of-00001.safetensors"
LLAMA = {"model_type": "llama", "vocab_size": 257, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
LLAMA |= {"max_position_embeddings": 8}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"config.json": {"model_type": "mamba"}}, "model_type: found 'mamba'; expected gpt2, llama"),
        ({"config.json": LLAMA | {"quantization_config": {"bits": 4}}}, "quantization_config"),
        ({"config.json": LLAMA}, "no tokenizer; expected tokenizer.json"),
        (
            {"config.json": LLAMA, "tokenizer.model": {}},
            "as tokenizer.model alone; expected tokenizer.json, or vocab.json with merges.txt. Let transformers convert it",
        ),
        ({"config.json": LLAMA, "vocab.json": {}, "merges.txt": {}}, "merges.txt of 'llama' does not say how words are split"),
        ({"config.json": LLAMA, "tokenizer.json": {}}, "tokenizer.json"),
    ],
)
def test_a_model_that_cannot_be_opened_is_refused_before_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, dict[str, object]], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []

    def fetch(remote: pulling.Remote, path: Path, progress: pulling.Progress | None = None) -> Path:
        fetched.append(remote.path)
        path.write_text(json.dumps(files.get(remote.path, {})))
        return path

    monkeypatch.setattr(pull_model, "fetch", fetch)
    monkeypatch.setattr(pull_model, "_listing", lambda *_: {"sha": "abc", "siblings": [{"rfilename": name} for name in (SHARD, *files)]})
    assert main(["pull", "a/model", "--folder", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
    assert SHARD not in fetched
    BPE([], special=["<|endoftext|>"]).save(tmp_path / "tokenizer.json")  # converted
    files = {"config.json": LLAMA}
    assert main(["pull", "a/model", "--folder", str(tmp_path)]) == 0
    assert fetched[-1] == SHARD
