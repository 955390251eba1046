"""A folder's tokenizer is what transformers makes of all its files: added tokens, flags and names beside ``tokenizer.json``."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.text.families import added, document
from underhood.base.errors import CheckpointError, TokenizerError
from underhood.interop.models import end_ids, load_their_tokenizer
from underhood.text.chat import named_tokens

transformers = pytest.importorskip("transformers")
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
NUMBER = len(json.loads(document("llama2"))["model"]["vocab"])
FLAGS = {"content": "<|im_start|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
TEXT = "the <|im_start|> mill"


def folder(path: Path, tokenizer: dict[str, Any] | None, words: dict[str, Any], **files: Any) -> Path:
    given = {"tokenizer_config.json": words, "config.json": {"model_type": "llama"}, **({"tokenizer.json": tokenizer} if tokenizer else {}), **files}
    for name, content in given.items():
        (path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def ours(path: Path, text: str = TEXT) -> list[int]:
    tokenizer: Any = load_their_tokenizer(path)
    return list(tokenizer.begin_ids) + list(tokenizer.encode(text, tokenizer.special))


def theirs(path: Path, text: str = TEXT) -> list[int]:
    return list(transformers.AutoTokenizer.from_pretrained(path)(text)["input_ids"])


@pytest.mark.parametrize(
    ("words", "files"),
    [
        ({"added_tokens_decoder": {str(NUMBER): FLAGS}}, {}),
        ({}, {"added_tokens.json": {"<|im_start|>": NUMBER}}),
        ({}, {"special_tokens_map.json": {"additional_special_tokens": ["<|im_start|>"]}}),
        ({"additional_special_tokens": ["<|im_start|>"]}, {}),
    ],
    ids=["decoder", "added", "map", "config"],
)
def test_tokens_that_only_a_neighbour_names(words: dict[str, Any], files: dict[str, Any], tmp_path: Path) -> None:
    here = folder(tmp_path, json.loads(document("llama2")), {**FAST, **words}, **files)
    assert NUMBER in theirs(here)
    assert ours(here) == theirs(here)


def test_a_neighbours_flags_count(tmp_path: Path) -> None:
    file = json.loads(document("llama2"))
    file["added_tokens"].append(added(NUMBER, "<|im_start|>"))
    here = folder(tmp_path, file, {**FAST, "added_tokens_decoder": {str(NUMBER): {**FLAGS, "lstrip": True, "rstrip": True}}})
    assert ours(here) == theirs(here)


def test_an_old_folder_without_tokenizer_json(tmp_path: Path) -> None:
    """``vocab.json``, ``merges.txt`` and ``added_tokens.json``: the layout of fine-tunes from before ``tokenizer.json``."""
    model = json.loads(document("gpt2"))["model"]
    n = len(model["vocab"])
    merges = "\n".join(["#version: 0.2", *(m if isinstance(m, str) else " ".join(m) for m in model["merges"])]) + "\n"
    files = {"vocab.json": model["vocab"], "merges.txt": merges, "added_tokens.json": {"<|user|>": n + 1, "<|pad|>": n}, "config.json": {"model_type": "gpt2"}}
    here = folder(tmp_path, None, {"tokenizer_class": "GPT2Tokenizer", "additional_special_tokens": ["<|user|>"]}, **files)
    tokenizer: Any = load_their_tokenizer(here)
    assert tokenizer.encode("<|user|>hi", tokenizer.special)[0] == n + 1
    assert ours(here, "<|user|>hi") == theirs(here, "<|user|>hi")


def test_a_token_named_as_the_end_is_special_whatever_its_flag(tmp_path: Path) -> None:
    file = json.loads(document("llama2"))
    next(t for t in file["added_tokens"] if t["content"] == "</s>")["special"] = False
    tokenizer = load_their_tokenizer(folder(tmp_path, file, FAST))
    assert "</s>" in tokenizer.special  # type: ignore[attr-defined]
    assert 2 not in tokenizer.encode("a</s>")


@pytest.mark.parametrize(("family", "kind", "wanted"), [("llama2", "LlamaTokenizer", False), ("gpt2", "GPT2Tokenizer", True)])
def test_a_space_before_the_text_that_the_files_disagree_on(family: str, kind: str, wanted: bool, tmp_path: Path) -> None:
    words = {**FAST, "tokenizer_class": kind, "add_prefix_space": wanted}
    with pytest.raises(TokenizerError, match="add_prefix_space"):
        load_their_tokenizer(folder(tmp_path, json.loads(document(family)), words))


def test_names_that_only_the_class_knows(tmp_path: Path) -> None:
    here = folder(tmp_path, None, {"unk_token": None}, **{"config.json": {"model_type": "gpt2"}})
    assert named_tokens(here) == {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}


def test_ends_by_number_and_by_name(tmp_path: Path) -> None:
    here = folder(tmp_path, json.loads(document("llama2")), FAST, **{"config.json": {"model_type": "llama", "vocab_size": 500, "eos_token_id": None}})
    tokenizer = load_their_tokenizer(here)
    assert end_ids(here, tokenizer) == (2,), "</s>, as tokenizer_config.json names it"
    for given, found in ((7, (7,)), ([7, 499], (7, 499))):
        (here / "generation_config.json").write_text(json.dumps({"eos_token_id": given}))
        assert end_ids(here, tokenizer) == found


@pytest.mark.parametrize("wrong", [-1, 500, 10**30, "2", [2, True], {"a": 1}])
def test_an_end_that_is_no_id(wrong: Any, tmp_path: Path) -> None:
    here = folder(tmp_path, json.loads(document("llama2")), FAST, **{"config.json": {"model_type": "llama", "vocab_size": 500}})
    (here / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
    with pytest.raises(CheckpointError, match="eos_token_id"):
        end_ids(here, load_their_tokenizer(here))
