"""A model of ours in the layout of ``transformers``, tokenizer and chat template with it, so that ``from_pretrained`` reads the folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from underhood.base.errors import ConfigError
from underhood.base.files import folder_atomic, write_atomic, write_json
from underhood.infer.sample import text_ends
from underhood.interop import gpt2, llama
from underhood.interop.weights import SHARD_BYTES, write_weights
from underhood.nn.gpt import GPT
from underhood.text.special import END_OF_TEXT
from underhood.text.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def save_model(
    model: GPT,
    folder: str | os.PathLike[str],
    tokenizer: Tokenizer | None = None,
    *,
    dtype: str | None = None,
    chat_template: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write ``model`` (and its tokenizer) so that transformers reads it; ``dtype`` of ``DTYPES`` rounds the weights. ``folder`` must not exist yet.

    Raises ``ConfigError`` for a model that no layout has words for, naming the part; nothing is written then.
    """
    fields, tensors = layout_of(model)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"found {dtype!r}", where="dtype", expected=", ".join(DTYPES))
    if dtype is not None:
        tensors = {name: t.to(DTYPES[dtype]) for name, t in tensors.items()}
    stored = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    with folder_atomic(folder) as temporary:
        write_weights(temporary, tensors, shard_bytes)
        write_json(temporary / "config.json", {**fields, "dtype": stored, **({} if tokenizer is None else ends(tokenizer))})
        if tokenizer is not None:
            tokenizer.save(temporary / "tokenizer.json")
            write_json(temporary / "tokenizer_config.json", _tokenizer_config(model, tokenizer))
        if chat_template is not None:
            write_atomic(temporary / "chat_template.jinja", chat_template)
    return Path(folder)


def layout_of(model: GPT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``config.json`` and the tensors by their names, in GPT-2's layout or that of Llama's family. Raises ``ConfigError`` where neither has the words."""
    if model.config.positions.rpartition(":")[2] == "Learned":
        return gpt2.write_config(model.config), gpt2.their_tensors(model)
    return llama.write_config(model.config), llama.their_tensors(model)


def ends(tokenizer: Tokenizer) -> Mapping[str, int]:
    """The token that ends a document, in config.json's words. A new line is none: transformers would stop at the first."""
    found = text_ends(tokenizer)
    return {"eos_token_id": found[0]} if found else {}


def _tokenizer_config(model: GPT, tokenizer: Tokenizer) -> dict[str, Any]:
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.context, "clean_up_tokenization_spaces": False}
    return fields | ({"eos_token": END_OF_TEXT} if END_OF_TEXT in getattr(tokenizer, "special", {}) else {})
