"""Models of Llama's shape, in and out: Llama 2 and 3, SmolLM, Mistral, Qwen 2, 2.5 and 3, in the layout of ``transformers``.

All are our one decoder with other parts (``FAMILIES`` says which). The layout's trap: queries and keys are stored for rotation of *halves*, pair
(i, i + D/2), where Meta's own files are made for neighbours, (2i, 2i + 1). Either way every shape is the same.
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
from underhood.interop.rope_fields import reach, read_rope, write_rope
from underhood.interop.weights import StoredWeights, fill, open_weights, require_layout, require_tied
from underhood.nn.convert import apart
from underhood.nn.gpt import GPT, GPTConfig
from underhood.nn.rope import RopeConfig

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "relu": "relu"}
SIZES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "width",
    "intermediate_size": "hidden",
}
HEAD = "lm_head.weight"
PARTS = {
    "norm": "RMSNorm",
    "positions": "underhood.nn.rope:ScaledRotary",
    "attention": "underhood.nn.grouped:GroupedQueryAttention",
    "feedforward": "GatedFeedForward",
}
BLOCK = {
    "input_layernorm": "norm1",
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
    "self_attn.q_norm": "attention.query_norm",
    "self_attn.k_norm": "attention.key_norm",
    "post_attention_layernorm": "norm2",
    "mlp.gate_proj": "feedforward.gate",
    "mlp.up_proj": "feedforward.up",
    "mlp.down_proj": "feedforward.down",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What sets one family apart from Llama: the value of a field that its files leave out, and which parts it has."""

    architecture: str
    kv_heads: int | None = None  # when the file does not say; none: as many as heads of queries
    head_dim: int | None = None  # likewise; none: width / heads
    window: int | None = None  # likewise
    layer_windows: bool = False  # ``use_sliding_window`` and ``max_window_layers``
    qkv_bias: bool = False  # biases on queries, keys and values, whatever the file says
    attention_bias: bool = False  # the file may ask for biases in attention
    mlp_bias: bool = False  # … and in the feed-forward layer
    qk_gain: bool = False


FAMILIES = {
    "llama": Family(architecture="LlamaForCausalLM", attention_bias=True, mlp_bias=True),
    "mistral": Family(architecture="MistralForCausalLM", kv_heads=8, window=4096),
    "qwen2": Family(architecture="Qwen2ForCausalLM", kv_heads=32, window=4096, layer_windows=True, qkv_bias=True),
    "qwen3": Family(architecture="Qwen3ForCausalLM", kv_heads=32, head_dim=128, window=4096, layer_windows=True, attention_bias=True, qk_gain=True),
}


def load_llama(folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, **changes: Any) -> GPT:
    """The model in ``folder``, in evaluation mode; ``changes`` go to its ``GPTConfig`` (``kernel="sdpa"``).

    Raises ``CheckpointError`` naming the field or tensor that is missing, unknown, damaged or at odds with the rest.
    """
    folder = Path(folder)
    weights = open_weights(folder)
    config = dataclasses.replace(read_config(folder / "config.json"), **changes)
    model = fill(config, weights, _layout(config), dtype, spare=_spare(weights, config))
    if config.tie:
        require_tied(weights, HEAD, "model.embed_tokens.weight")
    return model


def check_llama(folder: Path) -> GPTConfig:
    """The config of the model in ``folder``, after the weights' headers were found to agree with it. Raises ``CheckpointError``, as ``load_llama`` does."""
    config, weights = read_config(folder / "config.json"), open_weights(folder)
    require_layout(config, weights, _layout(config), _spare(weights, config))
    return config


def _layout(config: GPTConfig) -> dict[str, tuple[str, bool]]:
    return {theirs: (ours, False) for theirs, ours in tensor_names(config).items()}


def _spare(weights: StoredWeights, config: GPTConfig) -> set[str]:
    """Tensors that older files hold and that follow from others."""
    tied = {HEAD} if config.tie else set()
    return tied | {name for name in weights.infos if name.endswith("rotary_emb.inv_freq")}


def tensor_names(config: GPTConfig) -> dict[str, str]:
    """Every tensor of the layout, and our name for it."""
    biased = _biased(config)
    names = {"model.embed_tokens.weight": "tokens.weight", "model.norm.weight": "norm.weight"}
    for i in range(config.n_layer):
        for theirs, ours in BLOCK.items():
            if ours.endswith(("query_norm", "key_norm")) and not config.qk_gain:
                continue
            names[f"model.layers.{i}.{theirs}.weight"] = f"blocks.{i}.{ours}.weight"
            if ours in biased:
                names[f"model.layers.{i}.{theirs}.bias"] = f"blocks.{i}.{ours}.bias"
    return names if config.tie else names | {HEAD: "head.weight"}


def _biased(config: GPTConfig) -> set[str]:
    """Which linear layers have a bias."""
    inner, outer = _attention_biases(config)
    found = {"attention.query", "attention.key", "attention.value"} if inner else set()
    found |= {"attention.output"} if outer else set()
    return found | ({"feedforward.gate", "feedforward.up", "feedforward.down"} if config.bias else set())


def _attention_biases(config: GPTConfig) -> tuple[bool, bool]:
    """Of queries, keys and values; of the projection back."""
    attend = config.block_configs[0].attend
    return attend.inner_bias, attend.outer_bias


def read_config(path: Path) -> GPTConfig:
    """``config.json`` as ours. Raises ``CheckpointError`` naming the field that would change the maths in a way that ours does not compute."""
    fields = Fields.read(path)
    name = fields.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise fields.wrong("model_type", name, ", ".join(FAMILIES))
    family = FAMILIES[name]
    try:
        config = _config(fields, family)
    except ConfigError as error:
        raise CheckpointError(str(error), where=str(path)) from error
    fields.must_be("quantization_config")
    fields.must_be("pretraining_tp", 1)
    for field in ("rope_interleaved", "add_cross_attention", "use_mrope"):
        fields.must_be(field, False)
    fields.must_be("pruned_heads", {})
    fields.finish(f"the family {name}")
    return config


def _config(fields: Fields, family: Family) -> GPTConfig:
    sizes: dict[str, Any] = {ours: fields.count(theirs, most=MOST_LAYERS if ours == "n_layer" else LARGEST) for theirs, ours in SIZES.items()}
    rope = read_rope(fields, sizes["context"])
    attention_bias = fields.flag("attention_bias", False) if family.attention_bias else False
    return GPTConfig(
        **sizes | {"context": reach(rope, sizes["context"])} | PARTS | _heads(fields, family, sizes) | _windows(fields, family, sizes["n_layer"]),
        rope=rope,
        bias=fields.flag("mlp_bias", False) if family.mlp_bias else False,
        qkv_bias=attention_bias or family.qkv_bias,
        output_bias=attention_bias,
        qk_gain=family.qk_gain,
        fused_qkv=False,
        activation=fields.one_of("hidden_act", ACTIVATIONS, "silu"),
        epsilon=fields.number("rms_norm_eps", 1e-6),
        tie=fields.flag("tie_word_embeddings", False),
    )


def _heads(fields: Fields, family: Family, sizes: Mapping[str, int]) -> dict[str, int]:
    """How many heads of keys and values there are, and how wide a head is.

    Null heads of keys and values are as many as of queries, whatever the family's default; a null width is none where the family has a default.
    """
    given = "num_key_value_heads" in fields.values
    shared = fields.count("num_key_value_heads", sizes["n_head"] if given or family.kv_heads is None else family.kv_heads)
    if sizes["n_head"] % shared:
        raise fields.wrong("num_key_value_heads", shared, f"a divisor of {sizes['n_head']}, the heads of queries")
    if family.head_dim is not None and "head_dim" in fields.values and fields.get("head_dim") is None:
        raise fields.wrong("head_dim", None, f"a width; {family.head_dim} where it is left out")
    head_dim = fields.count("head_dim", family.head_dim or max(1, sizes["width"] // sizes["n_head"]))
    if head_dim % 2:
        raise fields.wrong("head_dim", head_dim, "an even number: pairs are rotated")
    return {"n_kv_head": shared, "head_dim": head_dim}


def _windows(fields: Fields, family: Family, n_layer: int) -> dict[str, Any]:
    """The sliding window and the first layer that has it."""
    if family.window is None:
        return {}
    given = "sliding_window" in fields.values
    window = fields.count("sliding_window", family.window) if fields.get("sliding_window") is not None or not given else None
    first = 0
    if family.layer_windows:
        first = fields.get("max_window_layers", 28)
        if type(first) is not int or first < 0:
            raise fields.wrong("max_window_layers", first, "a whole number from 0 on")
        window = window if fields.flag("use_sliding_window", False) and first < n_layer else None
    _require_layer_types(fields, [window is not None and i >= first for i in range(n_layer)])
    return {"window": window, "window_from": first if window is not None else 0}


def _require_layer_types(fields: Fields, near: list[bool]) -> None:
    """Where the file lists each layer's kind too, it must say the same."""
    listed = fields.get("layer_types")
    expected = ["sliding_attention" if n else "full_attention" for n in near]
    if listed is not None and listed != expected:
        raise fields.wrong("layer_types", listed, "what sliding_window and max_window_layers say")


def write_config(config: GPTConfig) -> dict[str, Any]:
    """``config.json`` for a config that one of the families can express. Raises ``ConfigError`` naming the first field that none of them can."""
    for field, wanted in {"norm": ("RMSNorm", "BareRMSNorm"), "block": ("Block", "LlamaBlock"), "logit_cap": (None,), "latent": (None,)}.items():
        _require(config, field, wanted)
    _require(config, "positions", ("Rotary", "ScaledRotary"))
    _require(config, "attention", ("MultiHeadAttention", "GroupedQueryAttention"))
    rope = config.rope or RopeConfig()
    if rope.kind == "ntk":
        raise ConfigError("found 'ntk'", where="rope.kind", expected="a kind that config.json has a word for; the same as kind='default' with a larger base")
    name, family = next((n, f) for n, f in _able(config))
    activation, _ = _feedforward(config)
    sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    context = rope.original_context if rope.kind == "dynamic" else config.context
    sizes |= {"intermediate_size": config.hidden_width, "max_position_embeddings": context}
    heads = {"num_key_value_heads": config.n_kv_head or config.n_head, "head_dim": config.head_width}
    rest = {"hidden_act": activation, "rms_norm_eps": config.epsilon, "tie_word_embeddings": config.tie, "rope_parameters": write_rope(rope)}
    ends = {"bos_token_id": None, "eos_token_id": None, "use_cache": True}
    return {"model_type": name, "architectures": [family.architecture], **sizes, **heads, **rest, **ends, **_own_fields(config, family)}


def _able(config: GPTConfig) -> list[tuple[str, Family]]:
    """The families that can express ``config``; never empty, else ``ConfigError``."""
    inner, outer = _attention_biases(config)
    gain, windowed = config.qk_gain or config.qk_norm, config.window is not None
    found = []
    for name, family in FAMILIES.items():
        biases = (inner == outer and (family.attention_bias or not inner)) if not family.qkv_bias else (inner and not outer)
        fits = biases and family.qk_gain == gain and (family.mlp_bias or not config.bias)
        if fits and (not windowed or family.window is not None) and (not config.window_from or family.layer_windows):
            found.append((name, family))
    if not found:
        chosen = {n: getattr(config, n) for n in ("bias", "qkv_bias", "output_bias", "qk_norm", "qk_gain", "window", "window_from")}
        raise ConfigError(f"no family has this combination: {chosen}", where="model", expected="one of " + ", ".join(FAMILIES))
    return found


def _own_fields(config: GPTConfig, family: Family) -> dict[str, Any]:
    """What one family's files have and others' do not."""
    own: dict[str, Any] = {}
    if family.attention_bias:
        own["attention_bias"] = _attention_biases(config)[1]
    if family.mlp_bias:
        own["mlp_bias"] = config.bias
    if family.window is not None:
        own["sliding_window"] = config.window
    if family.layer_windows:
        own |= {"use_sliding_window": config.window is not None, "max_window_layers": config.window_from if config.window is not None else config.n_layer}
    return own


def _feedforward(config: GPTConfig) -> tuple[str, bool]:
    """The layout's word for the activation, and whether the up matrix stands for the gate too: relu(Wx)² is relu(Wx)·Wx."""
    short = config.activation.rpartition(":")[2]
    if config.feedforward.rpartition(":")[2] == "FeedForward" and short == "relu_squared":
        return "relu", True
    _require(config, "feedforward", ("GatedFeedForward",))
    words = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if short not in words:
        raise ConfigError(f"found {short!r}", where="activation", expected=", ".join(words))
    return words[short], False


def _require(config: GPTConfig, field: str, wanted: tuple[Any, ...]) -> None:
    value = getattr(config, field)
    if (value.rpartition(":")[2] if isinstance(value, str) else value) not in wanted:
        raise ConfigError(f"found {value!r}", where=field, expected=" or ".join(map(repr, wanted)) + ": Llama's layout has nothing else")


def their_tensors(model: GPT) -> dict[str, Tensor]:
    """The model's tensors under the layout's names. What ours leaves out is written out: gains of one, a gate that is the up matrix."""
    config = model.config
    _, doubled = _feedforward(config)
    state = apart(model.state_dict())
    for i in range(config.n_layer):
        if doubled:
            for kind in ("weight", "bias"):
                up = state.get(f"blocks.{i}.feedforward.up.{kind}")
                state |= {f"blocks.{i}.feedforward.gate.{kind}": up.clone()} if up is not None else {}
        for norm in ("query_norm", "key_norm") if config.qk_norm else ():
            state.setdefault(f"blocks.{i}.attention.{norm}.weight", torch.ones(config.head_width))
        for norm in ("norm1", "norm2"):
            state.setdefault(f"blocks.{i}.{norm}.weight", torch.ones(config.width))
    state.setdefault("norm.weight", torch.ones(config.width))
    whole = dataclasses.replace(config, qk_gain=config.qk_gain or config.qk_norm, attention=PARTS["attention"])
    return {theirs: state[ours] for theirs, ours in tensor_names(whole).items()}
