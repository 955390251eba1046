"""A model of ours in the layout of ``transformers``, tokenizer, chat template and ends with it, so that ``from_pretrained`` reads the folder."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from underhood.base.errors import ConfigError
from underhood.base.files import folder_atomic, write_json
from underhood.interop import gpt2, llama
from underhood.interop.beside import Files, completed, marks, write_beside
from underhood.interop.weights import SHARD_BYTES, require_finite, write_weights
from underhood.nn.gpt import GPT
from underhood.text.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def save_model(
    model: GPT,
    folder: str | os.PathLike[str],
    tokenizer: Tokenizer | None = None,
    *,
    dtype: str | None = None,
    beside: Files | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write ``model`` (and its tokenizer) so that transformers reads it; ``dtype`` of ``DTYPES`` rounds the weights. ``folder`` must not exist yet.

    ``beside`` is what ``read_beside`` found where the model came from. Whatever of it is missing follows from the tokenizer.

    Raises ``ConfigError`` for a model that no layout has words for, naming the part, and ``CheckpointError`` for a number that is not finite; nothing is
    written then.
    """
    fields, tensors = layout_of(model)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"found {dtype!r}", where="dtype", expected=", ".join(DTYPES))
    if dtype is not None:
        tensors = {name: t.to(DTYPES[dtype]) for name, t in tensors.items()}
    for name, tensor in tensors.items():
        require_finite(tensor, f"{name}, in {str(tensor.dtype).removeprefix('torch.')}")
    stored = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    with folder_atomic(folder) as temporary:
        write_weights(temporary, tensors, shard_bytes)
        files = {} if tokenizer is None else completed(beside or {}, tokenizer, model.config.context)
        write_json(temporary / "config.json", {**fields, "dtype": stored, **marks(files)})
        write_beside(temporary, files)
        if tokenizer is not None:
            tokenizer.save(temporary / "tokenizer.json")
    return Path(folder)


def layout_of(model: GPT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``config.json`` and the tensors by their names, in GPT-2's layout or that of Llama's family. Raises ``ConfigError`` where neither has the words."""
    if model.config.positions.rpartition(":")[2] == "Learned":
        return gpt2.write_config(model.config), gpt2.their_tensors(model)
    return llama.write_config(model.config), llama.their_tensors(model)
