"""Open a model wherever it lies: one of our run folders, one of its checkpoints, or a folder in the layout of ``transformers``."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from underhood.base.config import from_plain
from underhood.base.errors import CheckpointError, TokenizerError, UserError
from underhood.data.places import cache_folder
from underhood.interop.fields import read_object
from underhood.interop.gpt2 import load_gpt2
from underhood.interop.llama import FAMILIES, load_llama
from underhood.interop.token_files import CONVERT, require_same_beginning, with_neighbours
from underhood.interop.weights import FLOATING, PICKLED, open_weights
from underhood.nn.gpt import GPT, GPTConfig
from underhood.text.chat import named_tokens
from underhood.text.gpt2_files import gpt2_document
from underhood.text.tokenizer import Tokenizer, load_tokenizer, tokenizer_of
from underhood.text.tokenizer_json import read_document
from underhood.train.checkpoint import Checkpoint, checkpoints, latest_checkpoint, load_checkpoint, load_model

STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
KNOWN = ("gpt2", *FAMILIES)


def open_model(path: str | os.PathLike[str], *, readable: bool = False, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[GPT, Tokenizer, GPTConfig]:
    """The model (evaluation mode, in ``dtype``), its tokenizer (with ``readable`` the plain one) and its config, with ``changes`` (``kernel="sdpa"``).

    ``path`` is a run folder (its latest whole checkpoint is taken), a ``step-NNNNNN`` folder in one, the name of a model that was pulled, or a folder
    with ``config.json``, safetensors and a tokenizer as transformers writes them. Raises ``CheckpointError`` naming what is missing, damaged or not of a
    known kind.
    """
    path = place_of(path)
    if path.suffix in PICKLED and path.is_file():
        raise CheckpointError("a pickle, which runs code when opened", where=str(path), expected="a folder with safetensors")
    if not path.is_dir():
        remedy = "Train a model (`underhood train`) or fetch one (`underhood pull OWNER/MODEL`)."
        raise CheckpointError("no such folder", where=str(path), expected="a run folder or a model folder", remedy=remedy)
    if path.name.startswith("step-"):
        model, tokenizer = _ours(load_checkpoint(path), path.parent, readable, changes)
        model = model.to(dtype)
    elif checkpoints(path):
        model, tokenizer = _ours(latest_checkpoint(path)[0], path, readable, changes)
        model = model.to(dtype)
    elif (path / "config.json").is_file():
        model, tokenizer = load_weights(path, dtype, **changes), load_their_tokenizer(path)
    else:
        raise CheckpointError("neither a run nor a model", where=str(path), expected="step-NNNNNN folders, or config.json with safetensors")
    _require_fit(model, tokenizer, path)
    return model.eval(), tokenizer, model.config


def place_of(path: str | os.PathLike[str]) -> Path:
    """``path`` itself, or where `underhood pull` has put the model of that name."""
    there, pulled = Path(path), cache_folder() / "models" / path
    try:
        return pulled if not there.exists() and pulled.is_dir() else there
    except OSError as error:  # a name that is too long for a file
        raise CheckpointError(error.strerror or str(error), where=str(path)[:200], expected="a run folder or a model folder") from error


def home_of(path: str | os.PathLike[str]) -> Path:
    """The folder with what lies beside a model's weights: the run of a checkpoint, else the model's own."""
    there = place_of(path)
    return there.parent if there.name.startswith("step-") else there


def stored_dtype(path: str | os.PathLike[str]) -> str:
    """The dtype in which a model's weights are stored; float32 where there are several, and for a run of ours."""
    there = place_of(path)
    if there.name.startswith("step-") or checkpoints(there) or not (there / "config.json").is_file():
        return "float32"
    found = {STORED.get(info.dtype, "float32") for info in open_weights(there).infos.values() if info.dtype in FLOATING}
    return found.pop() if len(found) == 1 else "float32"


def load_weights(folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> GPT:
    """The model of a folder in the layout of transformers, whatever its family. Raises ``CheckpointError`` for one that is not known."""
    kind = model_type(folder)
    if kind not in KNOWN:
        raise CheckpointError(f"found {repr(kind)[:200]}", where=f"{folder / 'config.json'}: model_type", expected=", ".join(KNOWN))
    return (load_gpt2 if kind == "gpt2" else load_llama)(folder, dtype, **changes)


def model_type(folder: Path) -> Any:
    """What ``folder/config.json`` says of its family."""
    return read_object(folder / "config.json").get("model_type")


def load_their_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer beside the weights: ``tokenizer.json``, or GPT-2's ``vocab.json`` with ``merges.txt``. Raises ``TokenizerError`` or ``CheckpointError``."""
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        return _tokenizer(read_document(folder / "tokenizer.json"), folder, folder / "tokenizer.json")
    if (folder / "merges.txt").is_file():
        if (kind := model_type(folder)) != "gpt2":  # others have the same two files and split words in another way, which the files do not say
            problem = f"merges.txt of {repr(kind)[:200]} does not say how words are split"
            raise TokenizerError(problem, where=str(folder), expected="tokenizer.json", remedy=CONVERT)
        return _tokenizer(gpt2_document(folder, "merges.txt", "vocab.json"), folder, folder)
    remedy = CONVERT if (folder / "tokenizer.model").is_file() else ""
    raise CheckpointError("no tokenizer", where=str(folder), expected="tokenizer.json, or vocab.json with merges.txt", remedy=remedy)


def _tokenizer(document: Mapping[str, Any], folder: Path, where: Path) -> Tokenizer:
    tokenizer = tokenizer_of(with_neighbours(document, folder), str(where))
    require_same_beginning(tokenizer, folder)
    return tokenizer


def end_ids(folder: str | os.PathLike[str], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end a text: those that ``generation_config.json`` or ``config.json`` name, else the one that ``tokenizer_config.json`` names.

    None for a run that was trained here. Raises ``CheckpointError`` for what is no id of the model.
    """
    folder = Path(folder)
    size = read_object(folder / "config.json").get("vocab_size") if (folder / "config.json").is_file() else None
    most = size if type(size) is int else tokenizer.vocab_size
    for path in (folder / "generation_config.json", folder / "config.json"):
        found = read_object(path).get("eos_token_id") if path.is_file() else None
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(i) is int and 0 <= i < most for i in ids):
            raise CheckpointError(f"found {repr(found)[:80]}", where=f"{path}: eos_token_id", expected=f"ids from 0 to {most - 1}")
        if ids:
            return tuple(ids)
    special: dict[str, int] = getattr(tokenizer, "special", {})
    return tuple(special[name] for name in (named_tokens(folder).get("eos_token"),) if name in special)


def _require_fit(model: GPT, tokenizer: Tokenizer, where: Path) -> None:
    if tokenizer.vocab_size > model.config.vocab_size:
        problem = f"a tokenizer of {tokenizer.vocab_size} ids for a model of {model.config.vocab_size}"
        raise CheckpointError(problem, where=str(where), expected="the tokenizer that the model was trained with")


def _ours(checkpoint: Checkpoint, run: Path, readable: bool, changes: Mapping[str, Any]) -> tuple[GPT, Tokenizer]:
    where = str(checkpoint.path)
    config = checkpoint.facts.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError("no model config", where=where)
    try:
        model = GPT(from_plain(GPTConfig, {**config["model"], **changes}, where="model"))
    except UserError as error:
        raise CheckpointError(f"its config cannot be used ({error})", where=where) from error
    load_model(model, checkpoint.model, where)
    return model, load_tokenizer(run, readable=readable)
