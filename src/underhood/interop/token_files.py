"""The parts of a tokenizer that lie beside ``tokenizer.json``: what transformers adds to it when it opens a folder.

``added_tokens_decoder`` in ``tokenizer_config.json`` gives added tokens their flags, ``added_tokens.json`` names more of them, and a token that is named as
the begin, the end or an additional special one is special. What transformers' classes do besides (Llama's ``legacy``, which in version 5 builds the
splitter anew) is left: ``tokenizer.json`` says how words are split. Only where ``add_prefix_space`` contradicts it, one of the two must be wrong.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from underhood.base.errors import TokenizerError
from underhood.interop.fields import read_object
from underhood.text.added import FIELDS, next_id
from underhood.text.hf_tokenizer import HFTokenizer
from underhood.text.tokenizer import Tokenizer

WORDS = "tokenizer_config.json"
CONVERT = "Let transformers convert it: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
NAMED = ("bos_token", "eos_token", "additional_special_tokens", "extra_special_tokens")
FLAGS = tuple(name for name in FIELDS if name not in ("id", "content"))
GENERAL = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that take tokenizer.json as it is


def with_neighbours(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A parsed ``tokenizer.json`` with the added tokens that the other files in ``folder`` name. Raises ``TokenizerError`` for one that has no free id."""
    model, listed = document.get("model"), document.get("added_tokens") or []
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not isinstance(listed, list) or model.get("type", "BPE") != "BPE":
        return dict(document)
    words, more = (_read(folder / name) for name in (WORDS, "added_tokens.json"))
    added = {t["content"]: t for t in listed if isinstance(t, dict) and isinstance(t.get("content"), str)}
    if len(added) != len(listed):
        return dict(document)
    named = _named(words) | _named(_read(folder / "special_tokens_map.json"))
    decoder = words.get("added_tokens_decoder")
    for number, token in sorted((decoder if isinstance(decoder, dict) else {}).items(), key=lambda pair: (len(pair[0]), pair[0])):
        if isinstance(token, dict) and isinstance(token.get("content"), str) and number.isdecimal():
            flags = {name: token.get(name, name == "normalized" and not token.get("special", False)) for name in FLAGS}
            added[token["content"]] = {"id": int(number), **added.get(token["content"], {}), "content": token["content"], **flags}
    for content, number in sorted(more.items(), key=lambda pair: str(pair[1])):
        added.setdefault(content, _plain(number, content, special=content in named))
    for content in named:
        entry = added.setdefault(content, _plain(next_id(content, model["vocab"], added), content, special=True))
        added[content] = {**entry, "special": True}
    return {**document, "added_tokens": list(added.values())}


def require_same_beginning(tokenizer: Tokenizer, folder: Path) -> None:
    """Raise ``TokenizerError`` where ``add_prefix_space`` in ``tokenizer_config.json`` is not what the tokenizer does."""
    words = _read(folder / WORDS)
    wanted = words.get("add_prefix_space")
    if not isinstance(wanted, bool) or words.get("tokenizer_class") in GENERAL:
        return
    found = isinstance(tokenizer, HFTokenizer) and tokenizer.decode_bytes(tokenizer.encode("a"))[:1] == b" "
    if found != wanted:
        does = "puts a space before a text" if found else "puts no space before a text"
        raise TokenizerError(f"found {wanted}, and tokenizer.json {does}", where=f"{folder / WORDS}: add_prefix_space", expected=str(found), remedy=CONVERT)


def _plain(number: Any, content: str, *, special: bool) -> dict[str, Any]:
    return {"id": number, "content": content, **dict.fromkeys(FLAGS, False), "normalized": not special, "special": special}


def _named(fields: Mapping[str, Any]) -> dict[str, None]:
    """The contents of the tokens that are special by their role, in order."""
    values = [value for name in NAMED for value in _several(fields.get(name))]
    contents = (value.get("content") if isinstance(value, dict) else value for value in values)
    return dict.fromkeys(content for content in contents if isinstance(content, str) and content)


def _several(value: Any) -> list[Any]:
    if isinstance(value, dict) and "content" not in value:  # extra_special_tokens by their names
        return list(value.values())
    return value if isinstance(value, list) else [value]


def _read(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}
