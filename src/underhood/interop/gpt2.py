"""GPT-2's weights in and out, in the layout of the ``transformers`` library: ``config.json`` and ``model.safetensors``.

Two traps of that layout: its linear layers are stored (inputs, outputs), the other way round from ours (it calls them Conv1D, after the original code),
and the head is left out because it is the token embedding. A field of ``config.json`` that we do not know might change the maths, so it is an error.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from underhood.base.errors import CheckpointError, ConfigError
from underhood.interop.fields import LARGEST, MOST_LAYERS, Fields
from underhood.interop.weights import StoredWeights, fill, open_weights, require_layout, require_tied
from underhood.nn.gpt import GPT, GPTConfig

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}
SIZES = {"vocab_size": "vocab_size", "n_positions": "context", "n_layer": "n_layer", "n_head": "n_head", "n_embd": "width", "n_inner": "hidden"}
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
HEAD = "lm_head.weight"
MUST_BE = {  # fields that change the maths, with the only value that ours computes
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "quantization_config": None,
    "pruned_heads": {},
    "n_special": 0,
}
NO_MATTER = {  # what training, other tasks or the library's own bookkeeping need
    "architectures", "transformers_version", "torch_dtype", "dtype", "initializer_range", "use_cache", "n_ctx", "task_specific_params",
    "gradient_checkpointing", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "tokenizer_class",
    "_name_or_path", "name_or_path", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "id2label", "label2id", "num_labels", "finetuning_task", "problem_type", "output_attentions", "output_hidden_states", "output_past", "return_dict",
    "torchscript", "chunk_size_feed_forward", "_attn_implementation", "_attn_implementation_autoset", "_num_labels", "prefix", "auto_map",
    "predict_special_tokens",
}  # fmt: skip
READ = {*SIZES, *DROPOUTS, *MUST_BE, *NO_MATTER, "activation_function", "layer_norm_epsilon", "tie_word_embeddings"}


def load_gpt2(folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, **changes: Any) -> GPT:
    """The model in ``folder``, in evaluation mode; ``changes`` go to its ``GPTConfig`` (``kernel="sdpa"``).

    Raises ``CheckpointError`` naming the field or tensor that is missing, unknown, damaged or at odds with the rest.
    """
    folder = Path(folder)
    weights = _named(open_weights(folder))
    config = dataclasses.replace(read_config(folder / "config.json"), **changes)
    model = fill(config, weights, tensor_names(config), dtype, spare=_spare(config))
    if config.tie:
        require_tied(weights, HEAD, "transformer.wte.weight")
    return model


def check_gpt2(folder: Path) -> GPTConfig:
    """The config of the model in ``folder``, after the weights' headers were found to agree with it. Raises ``CheckpointError``, as ``load_gpt2`` does."""
    config = read_config(folder / "config.json")
    require_layout(config, _named(open_weights(folder)), tensor_names(config), _spare(config))
    return config


def _spare(config: GPTConfig) -> set[str]:
    """Tensors that follow from others."""
    return {HEAD} if config.tie else set()


def their_tensors(model: GPT) -> dict[str, Tensor]:
    """The model's tensors under the layout's names, turned where the layout has them so."""
    state = _fused(model.state_dict())
    return {theirs: state[ours].T if turned else state[ours] for theirs, (ours, turned) in tensor_names(model.config).items()}


def read_config(path: Path) -> GPTConfig:
    """``config.json`` as ours. The three dropouts become one, the residual's: it matters in training alone."""
    fields = Fields.read(path)
    for name, value in MUST_BE.items():
        fields.must_be(name, value)
    fields.finish("GPT-2", READ)
    try:
        return _config(fields)
    except ConfigError as error:
        raise CheckpointError(str(error), where=str(path)) from error


def _config(fields: Fields) -> GPTConfig:
    sizes: dict[str, Any] = {
        ours: fields.count(theirs, most=MOST_LAYERS if ours == "n_layer" else LARGEST) for theirs, ours in SIZES.items() if ours != "hidden"
    }
    return GPTConfig(
        **sizes,
        hidden=None if fields.get("n_inner") is None else fields.count("n_inner"),
        activation=fields.one_of("activation_function", ACTIVATIONS, "gelu_new"),
        epsilon=fields.number("layer_norm_epsilon", 1e-5),
        dropout=fields.number("resid_pdrop", 0.1, least=0, most=0.999),
        tie=fields.flag("tie_word_embeddings", True),
    )


def write_config(config: GPTConfig) -> dict[str, Any]:
    """``config.json`` for a config that GPT-2's layout can express. Raises ``ConfigError`` naming the field that it cannot."""
    wanted = {"norm": "LayerNorm", "positions": "Learned", "attention": "MultiHeadAttention", "feedforward": "FeedForward", "block": "Block"}
    plain = {"bias": True, "qk_norm": False, "logit_cap": None}
    for field, value in (wanted | plain).items():
        found = getattr(config, field)
        if (found.rpartition(":")[2] if field in wanted else found) != value:
            raise ConfigError(f"found {found!r}", where=field, expected=f"{value!r}: GPT-2's layout has nothing else")
    activation = config.activation.rpartition(":")[2]
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if activation not in names:
        raise ConfigError(f"found {activation!r}", where="activation", expected=", ".join(names))
    sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    dropouts = dict.fromkeys(DROPOUTS, config.dropout)
    ends = {"bos_token_id": None, "eos_token_id": None}  # transformers' defaults are GPT-2's own ids, outside a smaller vocabulary
    rest = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "layer_norm_epsilon": config.epsilon, "tie_word_embeddings": config.tie}
    return {**rest, **sizes, **dropouts, **ends, "activation_function": names[activation]}


def tensor_names(config: GPTConfig) -> dict[str, tuple[str, bool]]:
    """Every tensor of the layout: its name, ours, and whether it is stored the other way round."""
    names = {"transformer.wte.weight": ("tokens.weight", False), "transformer.wpe.weight": ("positions.table.weight", False)}
    pairs = {"ln_1": "norm1", "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.output", "ln_2": "norm2"}
    pairs |= {"mlp.c_fc": "feedforward.up", "mlp.c_proj": "feedforward.down"}
    for i in range(config.n_layer):
        for theirs, ours in pairs.items():
            for kind in ("weight", "bias"):
                names[f"transformer.h.{i}.{theirs}.{kind}"] = (f"blocks.{i}.{ours}.{kind}", kind == "weight" and ".c_" in theirs)
    names |= {f"transformer.ln_f.{kind}": (f"norm.{kind}", False) for kind in ("weight", "bias")}
    return names if config.tie else names | {HEAD: ("head.weight", False)}


def _named(weights: StoredWeights) -> StoredWeights:
    """Names with their ``transformer.`` (older files leave it out); stored causal masks are dropped."""
    masks = (".attn.bias", ".attn.masked_bias")
    kept = [name for name in weights.infos if not name.endswith(masks)]
    names = {n if n.startswith(("transformer.", "lm_head.")) else f"transformer.{n}": n for n in kept}
    if twice := sorted(set(kept) - set(names.values())):
        raise CheckpointError(f"the tensor {twice[0][:80]} is there with and without «transformer.»", where=str(weights.where), expected="one of them")
    return weights.renamed(names)


def _fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with separate query, key and value matrices laid on top of each other, as GPT-2 stores them."""
    fused = {n: t for n, t in state.items() if not any(f".attention.{p}." in n for p in ("query", "key", "value"))}
    for name in state:
        if ".attention.query." in name:
            fused[name.replace(".query.", ".qkv.")] = torch.cat([state[name.replace(".query.", f".{p}.")] for p in ("query", "key", "value")])
    return fused
