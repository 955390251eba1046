"""What lies beside the weights, beside transformers: how a text begins and ends, and how a conversation is written, there and back again."""

import json
from pathlib import Path

import pytest

from tests.interop.instructed import PROMPT, instructed, named_ends, transformers, written
from tests.serve.server import running
from underhood.cli.main import main
from underhood.interop.models import open_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small instructed model."""
    path = tmp_path_factory.mktemp("models") / "instructed"
    instructed(path)
    return path


def sampled(model: Path, capsys: pytest.CaptureFixture[str], prompt: str = PROMPT) -> str:
    """What `underhood sample` writes, greedily."""
    assert main(["sample", str(model), "-p", prompt, "-n", "40", "--temperature", "0", "--json"]) == 0
    text: str = json.loads(capsys.readouterr().out)["text"]
    return text


@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_sample_and_server_write_what_transformers_writes(folder: Path, prompt: str, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, words = (kind.from_pretrained(folder) for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer))
    new = written(theirs, words, prompt)
    assert prompt == "" or (new[-1] in named_ends(folder) and len(new) < 40)  # it ends by itself
    model, tokenizer, _ = open_model(folder)
    expected = words.decode([i for i in new if i not in named_ends(folder)])
    assert sampled(folder, capsys, prompt) == expected
    with running(model, tokenizer, folder=folder) as served:
        answer = served.complete(prompt=prompt, max_tokens=40, temperature=0).json()
    assert answer["choices"][0]["text"] == expected
