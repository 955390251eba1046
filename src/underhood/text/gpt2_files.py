"""GPT-2's own two files: ``vocab.bpe``, a merge a line in order, and ``encoder.json``, every token with its id."""

import json
import os
from pathlib import Path
from typing import Any

from underhood.base.errors import TokenizerError
from underhood.base.files import write_atomic, write_json
from underhood.text.alphabet import to_chars
from underhood.text.special import END_OF_TEXT
from underhood.text.tokenizer_json import ADDED, vocabulary_of
from underhood.text.vocabulary import Vocabulary, token_bytes

MERGES_FILE, IDS_FILE = "vocab.bpe", "encoder.json"
VERSION = "#version: 0.2"


def read_gpt2_files(folder: str | os.PathLike[str], merges_file: str = MERGES_FILE, ids_file: str = IDS_FILE) -> Vocabulary:
    """The vocabulary of ``folder``, special tokens included; transformers calls the files ``merges.txt`` and ``vocab.json``.

    Raises ``TokenizerError`` naming file and line.
    """
    return vocabulary_of(gpt2_document(folder, merges_file, ids_file), str(folder))


def gpt2_document(folder: str | os.PathLike[str], merges_file: str = MERGES_FILE, ids_file: str = IDS_FILE) -> dict[str, Any]:
    """What the two files say, as a ``tokenizer.json`` would. Raises ``TokenizerError``."""
    folder = Path(folder)
    try:
        lines = (folder / merges_file).read_text(encoding="utf-8").split("\n")
        ids = json.loads((folder / ids_file).read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenizerError(error.strerror or str(error), where=str(error.filename or folder)) from None
    except ValueError as error:
        raise TokenizerError(f"not readable ({error})", where=str(folder), expected=f"UTF-8 in {merges_file} and JSON in {ids_file}") from None
    merges = [line for line in lines if line and not line.startswith("#version")]
    if not isinstance(ids, dict):
        raise TokenizerError("not an object", where=str(folder / ids_file))
    splitter = {"type": "ByteLevel", "add_prefix_space": False}
    return {
        "added_tokens": [{"content": name, "id": number, **ADDED} for name, number in ids.items() if name == END_OF_TEXT],
        "pre_tokenizer": splitter,
        "decoder": splitter,
        "model": {"type": "BPE", "vocab": ids, "merges": merges},
    }


def write_gpt2_files(folder: str | os.PathLike[str], vocabulary: Vocabulary) -> None:
    """Write both files into ``folder``. Raises ``TokenizerError`` for a vocabulary that is not split by GPT-2's pattern, which the format implies."""
    if vocabulary.pattern != "gpt2":
        raise TokenizerError(f"the pattern is {vocabulary.pattern!r}, and these files have no place to say so", expected="'gpt2'")
    tokens = [to_chars(token) for token in token_bytes(vocabulary.merges)]
    merges = [f"{tokens[left]} {tokens[right]}" for left, right in vocabulary.merges]
    write_atomic(Path(folder) / MERGES_FILE, "\n".join([VERSION, *merges]) + "\n")
    write_json(Path(folder) / IDS_FILE, {token: number for number, token in enumerate(tokens)} | dict(vocabulary.special))
