"""``tokenizer.json``, the format of the ``tokenizers`` library, for byte-level BPE: written so that it loads there, read with every field questioned.

The file holds the merges, the vocabulary that follows from them, the pattern and the special tokens. What we could not encode exactly as that library
would (a normaliser, an unknown pattern, ids in another order) is refused by name and never ignored.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from underhood.base.errors import TokenizerError, UserError
from underhood.base.files import write_atomic
from underhood.text.added import read_added
from underhood.text.alphabet import CHAR_OF_BYTE, to_chars
from underhood.text.fields import read_model
from underhood.text.pretokenize import read_pre_tokenizer
from underhood.text.special import number_special
from underhood.text.split import PATTERNS
from underhood.text.vocabulary import Pair, Vocabulary, token_bytes

LARGEST_FILE = 1 << 28  # bytes; the largest vocabularies in use take a tenth of it
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def write_tokenizer_json(path: str | os.PathLike[str], vocabulary: Vocabulary) -> None:
    """Write ``vocabulary``, atomically. Raises ``FileSystemError`` where that is impossible."""
    tokens = [to_chars(token) for token in token_bytes(vocabulary.merges)]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: number for number, token in enumerate(tokens)} | _with_gaps(vocabulary.special, len(tokens)),
        "merges": [[tokens[left], tokens[right]] for left, right in vocabulary.merges],
    }
    splitter = {"type": "Split", "pattern": {"Regex": PATTERNS[vocabulary.pattern]}, "behavior": "Isolated", "invert": False}
    added = [{"id": number, "content": name, **ADDED} for name, number in sorted(vocabulary.special.items(), key=lambda item: item[1])]
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [splitter, BYTE_LEVEL]}
    write_document(path, model, added_tokens=added, pre_tokenizer=pre_tokenizer, decoder=BYTE_LEVEL)


def _with_gaps(special: Mapping[str, int], first: int) -> dict[str, int]:
    """Special tokens whose ids are not ``first``, ``first`` + 1 …: in the vocabulary they keep them; elsewhere ``tokenizers`` would count."""
    return {} if sorted(special.values()) == list(range(first, first + len(special))) else dict(special)


def write_document(path: str | os.PathLike[str], model: Mapping[str, Any], **parts: Any) -> None:
    """Write a ``tokenizer.json`` with this ``model``; parts not given are absent in it."""
    empty = dict.fromkeys(("truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    document = {"version": "1.0", **empty, "added_tokens": [], **parts, "model": model}
    write_atomic(path, json.dumps(document, ensure_ascii=False, indent=1) + "\n")


def read_tokenizer_json(path: str | os.PathLike[str]) -> Vocabulary:
    """The vocabulary in the file. Raises ``TokenizerError`` naming the file and the field that is missing, damaged or not supported."""
    return vocabulary_of(read_document(path), str(path))


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The parsed file, an object with an object ``model``. Raises ``TokenizerError``."""
    path = Path(path)
    where = str(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise TokenizerError(f"the file has {path.stat().st_size:,} bytes, more than the {LARGEST_FILE:,} allowed")
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except FileNotFoundError:
        raise TokenizerError("no such file", where=where) from None
    except OSError as error:
        raise TokenizerError(error.strerror or str(error), where=where, expected="a readable tokenizer.json") from None
    except TokenizerError as error:
        raise TokenizerError(error.problem, where=where) from None
    except RecursionError:
        raise TokenizerError("nested too deeply", where=where) from None
    except ValueError as error:
        raise TokenizerError(f"not valid JSON ({error})", where=where, expected="a tokenizer.json") from None
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise TokenizerError("no model in it", where=where, expected="a tokenizer.json with the field 'model'")
    return document


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise TokenizerError(f"{next(n for n in names if names.count(n) > 1)!r} stands twice in one object")
    return found


def vocabulary_of(document: Mapping[str, Any], where: str) -> Vocabulary:
    """The vocabulary that a parsed ``tokenizer.json`` describes; ``where`` names the file in errors."""
    model = read_model(document, where)
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"found {model.get('type')!r}", where=f"{where}: model.type", expected="'BPE'")
    for field in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(field):
            raise TokenizerError(f"found {model[field]!r}, which is not supported", where=f"{where}: model.{field}", expected="null or false")
    if document.get("normalizer") is not None:
        raise TokenizerError("changes the text before it is encoded, which is not supported", where=f"{where}: normalizer", expected="null")
    merges = _merges(model, where)
    try:
        tokens = token_bytes(merges)
        special = number_special(_special(document, tokens, where), len(tokens))
    except UserError as error:
        raise error if str(error).startswith(where) else TokenizerError(str(error), where=where) from None
    _require_vocab(model["vocab"], tokens, special, where)
    read_added(document, model["vocab"], where)
    read_pre_tokenizer(document.get("pre_tokenizer"), f"{where}: pre_tokenizer")
    return Vocabulary(merges=merges, pattern=_pattern(document, where), special=special)


def _merges(model: Mapping[str, Any], where: str) -> list[Pair]:
    vocab, listed = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(listed, list):
        raise TokenizerError("missing or of the wrong type", where=f"{where}: model", expected="the object 'vocab' and the list 'merges'")
    ids = {char: number for number, char in enumerate(sorted(CHAR_OF_BYTE))}
    merges: list[Pair] = []
    for rank, entry in enumerate(listed):
        here = f"{where}: model.merges[{rank}]"
        parts = entry.split(" ") if isinstance(entry, str) else entry
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise TokenizerError(f"found {entry!r}", where=here, expected="two tokens")
        for part in parts:
            if part not in ids:
                raise TokenizerError(f"uses {part!r}, which neither is a byte nor comes from an earlier merge", where=here)
        if parts[0] + parts[1] in ids:
            raise TokenizerError(f"makes {parts[0] + parts[1]!r}, which is a token already", where=here)
        merges.append((ids[parts[0]], ids[parts[1]]))
        ids[parts[0] + parts[1]] = 256 + rank
    return merges


def _special(document: Mapping[str, Any], tokens: list[bytes], where: str) -> dict[str, int]:
    special: dict[str, int] = {}
    added = document.get("added_tokens") or []
    if not isinstance(added, list):
        raise TokenizerError(f"found {added!r}", where=f"{where}: added_tokens", expected="a list")
    for k, entry in enumerate(added):
        here = f"{where}: added_tokens[{k}]"
        name, number = (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not name or not isinstance(number, int) or isinstance(number, bool):
            raise TokenizerError(f"found {entry!r}", where=here, expected="an object with 'id' and 'content'")
        if number < len(tokens):
            raise TokenizerError(f"{name!r} has the id {number} of an ordinary token", where=here, expected=f"an id from {len(tokens)} on")
        if name in special:
            raise TokenizerError(f"{name!r} stands twice", where=here)
        special[name] = number
    return special


def _require_vocab(vocab: Mapping[str, Any], tokens: list[bytes], special: Mapping[str, int], where: str) -> None:
    """The vocabulary must be what follows from the merges: the bytes in GPT-2's order, then one id a merge."""
    for number, token in enumerate(tokens):
        if vocab.get(to_chars(token)) != number:
            found = vocab.get(to_chars(token), "no id")
            raise TokenizerError(
                f"{to_chars(token)!r} has {found}", where=f"{where}: model.vocab", expected=f"{number}, as the order of bytes and merges gives"
            )
    known = {to_chars(token) for token in tokens}
    for name, number in vocab.items():
        if name not in known and special.get(name) != number:
            raise TokenizerError(f"holds {name!r}, which no merge makes", where=f"{where}: model.vocab")


def _pattern(document: Mapping[str, Any], where: str) -> str:
    """The name of the pattern that the pre-tokeniser stands for."""
    stage = document.get("pre_tokenizer")
    parts = stage.get("pretokenizers") if isinstance(stage, dict) and stage.get("type") == "Sequence" else [stage]
    patterns = [name for name in map(_pattern_of_part, parts) if name] if isinstance(parts, list) else [UNKNOWN]
    if len(patterns) != 1 or UNKNOWN in patterns or not _is_byte_level(parts):
        expected = f"byte-level with the pattern of {' or '.join(PATTERNS)}"
        raise TokenizerError(f"found {json.dumps(stage)[:200]}", where=f"{where}: pre_tokenizer", expected=expected)
    return patterns[0]


UNKNOWN = "unknown"


def _is_byte_level(parts: Any) -> bool:
    return isinstance(parts[-1], dict) and parts[-1].get("type") == "ByteLevel"


def _pattern_of_part(part: Any) -> str:
    """The name of the pattern by which one pre-tokeniser splits; empty where it does not split; UNKNOWN where we could not do as it does."""
    if not isinstance(part, dict):
        return UNKNOWN
    if part.get("type") == "ByteLevel" and part.get("add_prefix_space") is False:
        return "gpt2" if part.get("use_regex", True) else ""
    if part.get("type") == "Split" and part.get("behavior") == "Isolated" and not part.get("invert") and isinstance(part.get("pattern"), dict):
        return next((name for name, regular in PATTERNS.items() if regular == part["pattern"].get("Regex")), UNKNOWN)
    return UNKNOWN
