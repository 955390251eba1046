"""What lies beside the weights, beside transformers: how a text begins and ends, and how a conversation is written, there and back again."""

import json
from pathlib import Path

import pytest

from tests.interop.instructed import MESSAGES, PROMPT, asked, instructed, named_ends, transformers, written
from tests.serve.server import running
from underhood.base.errors import CheckpointError
from underhood.cli.main import main
from underhood.interop.beside import read_beside
from underhood.interop.export import save_model
from underhood.interop.models import end_ids, open_model
from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.serve.dialogue import Dialogue
from underhood.serve.protocol import Message
from underhood.text.bpe import BPE


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


@pytest.fixture(scope="module")
def travelled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model as a run of ours, and that run in transformers' layout again."""
    path = tmp_path_factory.mktemp("travelled")
    assert main(["import", str(folder), str(path / "run")]) == 0
    assert main(["export", str(path / "run"), str(path / "again")]) == 0
    return path / "run", path / "again"


def test_a_model_is_spoken_with_alike_wherever_it_lies(folder: Path, travelled: tuple[Path, Path]) -> None:
    words = transformers.AutoTokenizer.from_pretrained(folder)
    expected = words.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    for place in (folder, *travelled):
        tokenizer = open_model(place)[1]
        dialogue = Dialogue(tokenizer, place, end_ids(place, tokenizer))
        assert dialogue.style == "template"
        assert dialogue.end_ids == tuple(named_ends(folder))
        assert dialogue.encode([Message.model_validate(m) for m in MESSAGES]) == expected


def test_what_travelled_is_to_transformers_what_it_was(folder: Path, travelled: tuple[Path, Path]) -> None:
    again = travelled[1]
    theirs, words = (kind.from_pretrained(folder) for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer))
    model, tokens = (kind.from_pretrained(again) for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer))
    assert (tokens.bos_token, tokens.eos_token) == ("<s>", "</s>")
    assert tokens.apply_chat_template(MESSAGES)["input_ids"] == words.apply_chat_template(MESSAGES)["input_ids"]
    assert written(model, tokens, PROMPT) == written(theirs, words, PROMPT)
    answer = asked(model, tokens)
    assert answer == asked(theirs, words)
    assert answer[-1] in named_ends(folder)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (256, named_ends(folder))
    assert (model.generation_config.top_p, model.generation_config.do_sample) == (0.9, True)


def test_ends_that_only_the_config_names_travel_too(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in folder.iterdir():
        if file.name != "generation_config.json":
            (bare / file.name).symlink_to(file)
    assert main(["import", str(bare), str(tmp_path / "run")]) == 0
    assert end_ids(tmp_path / "run", open_model(tmp_path / "run")[1]) == (257,)


def test_a_damaged_template_is_not_imported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in folder.iterdir():
        if file.name != "chat_template.jinja":
            (bare / file.name).symlink_to(file)
    (bare / "chat_template.jinja").write_bytes(b"\xff")
    assert main(["import", str(bare), str(tmp_path / "run")]) == 2
    assert "chat_template.jinja" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_document_of_ours_begins_and_ends_with_its_mark_in_transformers(tmp_path: Path) -> None:
    tokenizer = BPE([], special=["<|endoftext|>"])
    made = build_gpt(GPTConfig(vocab_size=257, context=32, n_layer=1, n_head=2, width=16, init="fan_in"), 0)
    save_model(made, tmp_path / "out", tokenizer)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (words.bos_token_id, words.eos_token_id, words("ab")["input_ids"]) == (256, 256, tokenizer.encode("ab"))
    named = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert (named.bos_token_id, named.eos_token_id) == (256, 256)


def test_several_templates_travel(folder: Path, tmp_path: Path) -> None:
    several = tmp_path / "several"
    (several / "additional_chat_templates").mkdir(parents=True)
    for file in folder.iterdir():
        (several / file.name).symlink_to(file)
    (several / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools[0].name }}<|end|>")
    assert main(["import", str(several), str(tmp_path / "run")]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "again")]) == 0
    expected = transformers.AutoTokenizer.from_pretrained(several).chat_template
    assert set(expected) == {"default", "tool_use"}
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "again").chat_template == expected


@pytest.mark.parametrize("content", ['{"top_p": NaN}', '{"x": "\\ud800"}', "[]"])
def test_damaged_files_beside_the_weights_are_named(folder: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(CheckpointError, match="generation_config"):
        read_beside(tmp_path)
