"""``underhood sample``: the model's text on stdout, the same for the same seed; mistakes named."""

import json
from pathlib import Path

import pytest

from underhood.cli.main import main
from underhood.infer.sample import SampleConfig, stream_text
from underhood.interop.export import save_model
from underhood.interop.models import open_model
from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.text.bpe import BPE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = BPE([], special=("<|endoftext|>",))
    model = build_gpt(GPTConfig(vocab_size=257, context=32, n_layer=1, n_head=2, width=16, init="fan_in"), 0)
    return save_model(model, tmp_path_factory.mktemp("models") / "tiny", tokenizer)


def test_streams_what_the_library_writes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(folder), "--prompt", "Once", "--tokens", "20", "--seed", "3"]) == 0
    model, tokenizer, _ = open_model(folder)
    expected = "".join(stream_text(model, tokenizer, "Once", SampleConfig(temperature=0.8, max_tokens=20), 3))
    assert capsys.readouterr().out == f"Once{expected}\n"


def test_json_is_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("0", "0", "1"):
        assert main(["sample", str(folder), "-p", "a", "-n", "15", "--temperature", "1", "--seed", seed, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["prompt"], found["seed"]) == ("a", int(seed))
        texts.append(found["text"])
    assert texts[0] == texts[1] != texts[2]


def test_no_prompt_begins_a_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(folder), "--tokens", "5"]) == 0
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--temperature", "-1"], "temperature: found -1.0"), (["--top-p", "2"], "top_p"), (["--stop", ""], "stop"), (["--tokens", "-1"], "max_tokens")],
)
def test_wrong_options_are_the_users_mistake(folder: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(folder), *words]) == 2
    assert says in capsys.readouterr().err


def test_no_model_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
