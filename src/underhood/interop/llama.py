"""Llama's weights in, in the layout of the ``transformers`` library: ``config.json`` and ``model.safetensors``.

The layout's trap: queries and keys are stored for rotation of *halves*, pair (i, i + D/2), where Meta's own files are made for neighbours, (2i, 2i + 1).
Either way every shape is the same. Heads that share keys and values, another base than 10,000 and scaled positions are refused.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from underhood.base.errors import CheckpointError, ConfigError, DataError
from underhood.base.files import read_json
from underhood.interop.weights import find_weights, read_weights
from underhood.nn.gpt import GPT, GPTConfig
from underhood.nn.llama import llama

SIZES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "width",
    "intermediate_size": "hidden",
}
MUST_BE = {  # fields that change the maths, with the only value that ours computes
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "pretraining_tp": 1,
    "quantization_config": None,
}
NO_MATTER = {
    "architectures", "transformers_version", "torch_dtype", "dtype", "initializer_range", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id",
    "attention_dropout", "_name_or_path", "name_or_path", "chunk_size_feed_forward", "id2label", "label2id", "problem_type", "return_dict",
    "output_attentions", "output_hidden_states", "is_encoder_decoder", "torchscript", "_attn_implementation", "_attn_implementation_autoset",
}  # fmt: skip
READ = {*SIZES, *MUST_BE, *NO_MATTER, "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings", "rope_parameters"}
BLOCK = {
    "input_layernorm": "norm1",
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
    "post_attention_layernorm": "norm2",
    "mlp.gate_proj": "feedforward.gate",
    "mlp.up_proj": "feedforward.up",
    "mlp.down_proj": "feedforward.down",
}


def load_llama(folder: str | os.PathLike[str]) -> GPT:
    """The model in ``folder``, in float32 and evaluation mode. Raises ``CheckpointError`` naming the field or tensor that ours cannot take."""
    folder = Path(folder)
    path = find_weights(folder)
    config = read_config(folder / "config.json")
    model = GPT(config)
    state = our_names(read_weights(path), config, str(path))
    for name, tensor in model.state_dict().items():
        if state[name].shape != tensor.shape or not state[name].is_floating_point():
            raise CheckpointError(
                f"shape {list(state[name].shape)} of {state[name].dtype}",
                where=f"{path}: {name}",
                expected=f"{list(tensor.shape)}, by config.json, floating point",
            )
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model.eval()


def our_names(tensors: Mapping[str, Tensor], config: GPTConfig, where: str) -> dict[str, Tensor]:
    """The tensors under our names. Raises ``CheckpointError`` for one too many or too few."""
    layout = tensor_names(config)
    stored = {name: t for name, t in tensors.items() if not name.endswith("rotary_emb.inv_freq") and not (config.tie and name == "lm_head.weight")}
    for name in sorted(set(layout) ^ set(stored)):
        problem = "is missing" if name in layout else "has no place in the config's model"
        raise CheckpointError(f"the tensor {name} {problem}", where=where, remedy="config.json and the weights must belong together.")
    return {ours: stored[theirs] for theirs, ours in layout.items()}


def tensor_names(config: GPTConfig) -> dict[str, str]:
    """Every tensor of the layout, and our name for it."""
    names = {"model.embed_tokens.weight": "tokens.weight", "model.norm.weight": "norm.weight"}
    names |= {f"model.layers.{i}.{theirs}.weight": f"blocks.{i}.{ours}.weight" for i in range(config.n_layer) for theirs, ours in BLOCK.items()}
    return names if config.tie else names | {"lm_head.weight": "head.weight"}


def read_config(path: Path) -> GPTConfig:
    """``config.json`` as ours. Raises ``CheckpointError`` for what would change the maths."""
    try:
        fields = read_json(path)
    except DataError as error:
        raise CheckpointError(error.problem, where=error.where) from error
    if not isinstance(fields, dict):
        raise CheckpointError("not an object", where=str(path))
    fields |= _rope(fields.get("rope_parameters"), path)
    for name, value in MUST_BE.items():
        if fields.get(name, value) not in (value, None):
            raise CheckpointError(f"found {fields[name]!r}", where=f"{path}: {name}", expected=repr(value))
    for name in fields:
        if name not in READ:
            raise CheckpointError("a field that Llama does not have, so it may change what is computed", where=f"{path}: {name}")
    return _config(fields, path)


def _rope(found: Any, path: Path) -> dict[str, Any]:
    """Newer files keep what concerns rotation together; here as the older ones have it."""
    if found is None:
        return {}
    if not isinstance(found, dict) or found.get("rope_type", "default") != "default" or set(found) - {"rope_type", "rope_theta"}:
        raise CheckpointError(f"found {found!r}", where=f"{path}: rope_parameters", expected="the default kind with its rope_theta alone")
    return {"rope_theta": found.get("rope_theta", 10000.0)}


def _config(fields: Mapping[str, Any], path: Path) -> GPTConfig:
    sizes: dict[str, Any] = {ours: fields.get(theirs) for theirs, ours in SIZES.items()}
    for theirs, ours in SIZES.items():
        if type(sizes[ours]) is not int or not 0 < sizes[ours] < 10**9:
            raise CheckpointError(f"found {sizes[ours]!r}", where=f"{path}: {theirs}", expected="a whole number from 1 on")
    heads, width = sizes["n_head"], sizes["width"]
    for name, value in {"num_key_value_heads": heads, "head_dim": width // heads}.items():
        if fields.get(name) not in (value, None):
            raise CheckpointError(f"found {fields[name]!r}", where=f"{path}: {name}", expected=f"{value}: a key and a value for every head")
    epsilon, tie = fields.get("rms_norm_eps", 1e-6), fields.get("tie_word_embeddings", False)
    if type(tie) is not bool or type(epsilon) not in (int, float):
        raise CheckpointError(f"found {tie!r} and {epsilon!r}", where=f"{path}: tie_word_embeddings, rms_norm_eps", expected="true or false, and a number")
    try:
        return llama(**sizes, epsilon=float(epsilon), tie=tie)
    except ConfigError as error:
        raise CheckpointError(str(error), where=str(path)) from error
