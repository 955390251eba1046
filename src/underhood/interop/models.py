"""Open a model wherever it lies: one of our run folders, one of its checkpoints, or a folder with GPT-2's weights."""

import os
from pathlib import Path

from underhood.base.config import from_plain
from underhood.base.errors import CheckpointError, UserError
from underhood.base.files import read_json
from underhood.interop.gpt2 import load_gpt2, load_gpt2_tokenizer
from underhood.interop.weights import PICKLED
from underhood.nn.gpt import GPT, GPTConfig
from underhood.text.tokenizer import Tokenizer, load_tokenizer
from underhood.train.checkpoint import Checkpoint, checkpoints, latest_checkpoint, load_checkpoint, load_model


def open_model(path: str | os.PathLike[str], *, readable: bool = False) -> tuple[GPT, Tokenizer, GPTConfig]:
    """The model (evaluation mode), its tokenizer (with ``readable`` the plain one) and its config.

    ``path`` is a run folder (its latest whole checkpoint is taken), a ``step-NNNNNN`` folder in one, or a folder with ``config.json`` and
    ``model.safetensors`` in the layout of transformers' GPT-2. Raises ``CheckpointError`` naming what is missing, damaged or not of that kind.
    """
    path = Path(path)
    if path.suffix in PICKLED and path.is_file():
        raise CheckpointError("a pickle, which runs code when opened", where=str(path), expected="a folder with safetensors")
    if not path.is_dir():
        raise CheckpointError("no such folder", where=str(path), expected="a run folder or a model folder")
    if path.name.startswith("step-"):
        return _ours(load_checkpoint(path), path.parent, readable)
    if checkpoints(path):
        return _ours(latest_checkpoint(path)[0], path, readable)
    if is_gpt2(path):
        model = load_gpt2(path)
        return model, load_gpt2_tokenizer(path), model.config
    raise CheckpointError("neither a run nor a model", where=str(path), expected="step-NNNNNN folders, or config.json with model_type gpt2")


def is_gpt2(folder: Path) -> bool:
    """Whether ``folder/config.json`` says so, whatever else is wrong with it."""
    try:
        fields = read_json(folder / "config.json")
    except UserError:
        return False
    return isinstance(fields, dict) and fields.get("model_type") == "gpt2"


def _ours(checkpoint: Checkpoint, run: Path, readable: bool) -> tuple[GPT, Tokenizer, GPTConfig]:
    where = str(checkpoint.path)
    config = checkpoint.facts.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError("no model config", where=where)
    try:
        model = GPT(from_plain(GPTConfig, config["model"], where="model"))
    except UserError as error:
        raise CheckpointError(f"its config cannot be used ({error})", where=where) from error
    load_model(model, checkpoint.model, where)
    tokenizer = load_tokenizer(run, readable=readable)
    if tokenizer.vocab_size > model.config.vocab_size:
        problem = f"a tokenizer of {tokenizer.vocab_size} ids for a model of {model.config.vocab_size}"
        raise CheckpointError(problem, where=str(run), expected="the tokenizer that the model was trained with")
    return model.eval(), tokenizer, model.config
