"""What lies beside a model's weights and goes with them wherever they go: the chat template, the special tokens by name, how a text begins and ends."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from underhood.base.errors import CheckpointError
from underhood.base.files import write_atomic, write_json
from underhood.infer.sample import text_ends
from underhood.interop.fields import read_object
from underhood.text.chat import ChatTemplate
from underhood.text.tokenizer import Tokenizer

GENERATION, WORDS, TEMPLATE = "generation_config.json", "tokenizer_config.json", "chat_template.jinja"
FILES = (WORDS, "special_tokens_map.json", GENERATION)
Files = Mapping[str, str | dict[str, Any]]
NAMES = {"bos_token": "bos_token_id", "eos_token": "eos_token_id"}


def read_beside(folder: Path) -> Files:
    """The files beside the weights in ``folder``, by their names: text, or JSON objects. Ends that only ``config.json`` names are added to the others.

    Raises ``CheckpointError`` or ``ChatTemplateError`` naming the file that is damaged.
    """
    found: dict[str, str | dict[str, Any]] = {name: _read_object(folder / name) for name in FILES if (folder / name).is_file()}
    named = read_object(folder / "config.json") if (folder / "config.json").is_file() else {}
    generation = {name: named[name] for name in NAMES.values() if named.get(name) is not None} | _given(found.get(GENERATION))
    return {**found, **_read_template(folder, _given(found.get(WORDS))), **({GENERATION: generation} if generation else {})}


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object that can be written again."""
    found = read_object(path)
    try:
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise CheckpointError(f"holds what JSON has no words for ({error})", where=str(path)) from None
    return found


def _read_template(folder: Path, words: Mapping[str, Any]) -> dict[str, str | dict[str, Any]]:
    """The chat template in a file of its own; where there are several, all of them in ``tokenizer_config.json``, which has room for names."""
    template = ChatTemplate.read(folder)
    if template.origin == "default":
        return {}
    if template.sources.keys() == {"default"}:
        return {TEMPLATE: template.sources["default"]}
    return {WORDS: {**words, "chat_template": [{"name": name, "template": source} for name, source in template.sources.items()]}}


def write_beside(folder: Path, files: Files) -> None:
    """Write what ``read_beside`` gave into ``folder``."""
    for name, content in files.items():
        write_atomic(folder / name, content) if isinstance(content, str) else write_json(folder / name, content)


def completed(files: Files, tokenizer: Tokenizer, context: int) -> Files:
    """``files`` with what they leave open: the ids that begin and end a text as the tokenizer has them and, for a tokenizer of ours, those tokens' names.

    A document of ours begins with the mark that ended the one before.
    """
    special: dict[str, int] = getattr(tokenizer, "special", {})
    named = special.get(str(_content(_given(files.get(WORDS)).get("eos_token"))))
    ends = (named,) if named is not None else () if WORDS in files else text_ends(tokenizer)
    begin = getattr(tokenizer, "begin_ids", ()) or (ends if not files else ())
    own = {**({"bos_token_id": begin[0]} if begin else {}), **({"eos_token_id": ends[0]} if ends else {})}
    generation = own | _given(files.get(GENERATION))
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, "clean_up_tokenization_spaces": False}
    words = files.get(WORDS) or plain | _names(tokenizer, generation) | _given(files.get("special_tokens_map.json"))
    return {**files, WORDS: words, **({GENERATION: generation} if generation else {})}


def marks(files: Files) -> dict[str, Any]:
    """The ids that begin and end a text, for ``config.json``."""
    generation = _given(files.get(GENERATION))
    return {name: generation[name] for name in NAMES.values() if name in generation}


def _names(tokenizer: Tokenizer, generation: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that begin and end a text; of several ends the first."""
    text_of = {number: name for name, number in getattr(tokenizer, "special", {}).items()}
    ids = {name: generation.get(field) for name, field in NAMES.items()}
    firsts = {name: next(iter(number), None) if isinstance(number, list) else number for name, number in ids.items()}
    return {name: text_of[number] for name, number in firsts.items() if isinstance(number, int) and number in text_of}


def _content(token: Any) -> Any:
    """A token that is written as a string, or as an object with ``content``."""
    return token.get("content") if isinstance(token, dict) else token


def _given(fields: str | dict[str, Any] | None) -> dict[str, Any]:
    """The fields that say something."""
    return {name: value for name, value in fields.items() if value is not None} if isinstance(fields, dict) else {}
