"""GPT: token and position vectors in, a stack of blocks, logits over the vocabulary out (Radford et al. 2019).

``GPTConfig`` names every part; ``gpt2("small")`` is GPT-2 in one line. ``build_gpt(config, seed)`` is a model ready to train.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from underhood.base.config import get_part, part
from underhood.base.errors import ConfigError, ShapeError, UnknownName
from underhood.nn.attention import AttentionConfig, LatentConfig, LayerCache
from underhood.nn.block import BlockConfig
from underhood.nn.dropout import Dropout, seed_dropout
from underhood.nn.embedding import Embedding
from underhood.nn.init import init_parameters
from underhood.nn.linear import Linear
from underhood.nn.rope import RopeConfig


class Cache(Protocol):
    """What a model needs of a cache: how many positions it holds, and one ``LayerCache`` per layer."""

    @property
    def length(self) -> int:
        """Positions held so far."""
        ...

    @property
    def layers(self) -> Sequence[LayerCache]:
        """One for each block."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """A GPT: its size, its parts, and how it starts."""

    vocab_size: int  # V: the tokenizer's
    context: int = 256  # the longest sequence, in tokens
    n_layer: int = 4
    n_head: int = 4  # 64 numbers a head is usual in large models, 32 does in small ones
    width: int = 128  # C: numbers in the residual stream
    hidden: int | None = None  # F: 4 · width when not given, as in GPT-2
    dropout: float = 0.0  # everywhere GPT-2 has it: embeddings, attention weights, both branches
    bias: bool = True  # in linear layers and norms; newer models have none and lose nothing
    tie: bool = True  # the head is the token embedding: V · C parameters saved
    epsilon: float = 1e-5  # of the norms
    norm: str = part("underhood.nn.norm", "LayerNorm")
    positions: str = part("underhood.nn.positions", "Learned")
    attention: str = part("underhood.nn.attention", "MultiHeadAttention")
    kernel: str = part("underhood.nn.attention", "plain")  # "sdpa" for speed
    fused_qkv: bool = True
    qk_norm: bool = False
    feedforward: str = part("underhood.nn.feedforward", "FeedForward")
    activation: str = part("underhood.nn.activation", "gelu_tanh")  # GPT-2's; with GatedFeedForward "silu" makes SwiGLU
    block: str = part("underhood.nn.block", "Block")
    logit_cap: float | None = None  # c·tanh(logits/c): keeps them within ±c (Gemma 2, arXiv 2408.00118, §2)
    init: str = part("underhood.nn.init", "gpt2")
    residual_init: Literal["scaled", "plain", "zero"] = "scaled"
    # what ``underhood.nn.grouped`` and ``underhood.nn.latent`` understand besides
    n_kv_head: int | None = None  # G: heads of keys and values, each shared by H/G heads of queries; none: H
    head_dim: int | None = None  # D where it is not C/H
    qkv_bias: bool | None = None  # of q, k and v where it is not ``bias``
    output_bias: bool | None = None  # of attention's projection back where it is not ``bias``
    qk_gain: bool = False  # ``qk_norm`` with a learned gain
    window: int | None = None  # a query sees itself and the ``window`` - 1 positions before it; none: all the past
    window_from: int = 0  # the first layer that has the window
    latent: LatentConfig | None = None
    rope: RopeConfig | None = None  # of ``underhood.nn.rope:ScaledRotary``

    def __post_init__(self) -> None:
        for field in ("vocab_size", "context", "n_layer", "n_head", "width", "hidden"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(f"found {value}", where=field, expected="at least 1")
        if self.head_dim is None and self.width % self.n_head:
            raise ConfigError(f"width {self.width} cannot be cut into {self.n_head} equal heads", where="n_head", expected="a divisor of the width")
        if self.attention.rpartition(":")[2] == "MultiHeadAttention":
            for field, only in GROUPED.items():
                if getattr(self, field) != only:
                    raise ConfigError(f"found {getattr(self, field)!r}", where=field, expected="attention = underhood.nn.grouped:GroupedQueryAttention with it")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"found {self.dropout}", where="dropout", expected="a probability, 0 ≤ p < 1")
        if not self.epsilon > 0:
            raise ConfigError(f"found {self.epsilon}", where="epsilon", expected="more than 0")
        if self.logit_cap is not None and not self.logit_cap > 0:
            raise ConfigError(f"found {self.logit_cap}", where="logit_cap", expected="more than 0, or none")

    @property
    def hidden_width(self) -> int:
        """F, given or 4 · width."""
        return self.hidden or 4 * self.width

    @property
    def head_width(self) -> int:
        """D, given or C / H."""
        return self.head_dim or self.width // self.n_head

    @property
    def rotated_width(self) -> int:
        """How many numbers of a head are turned by its position: all, or latent attention's share."""
        return self.head_width if self.latent is None else self.latent.rope_width

    @property
    def block_configs(self) -> tuple[BlockConfig, ...]:
        """What each block is built from, the first block's first."""
        same = {field: getattr(self, field) for field in SAME}
        parts = {field: _whole(self, field) for field in ("attention", "feedforward", "activation", "norm")}
        rest: dict[str, Any] = {"hidden": self.hidden_width, "dropout": self.dropout, "epsilon": self.epsilon}
        windows = [self.window if i >= self.window_from else None for i in range(self.n_layer)]
        attends = (AttentionConfig(kernel=_whole(self, "kernel"), window=window, **same) for window in windows)
        return tuple(BlockConfig(attend=attend, **rest | parts) for attend in attends)

    @property
    def n_params(self) -> int:
        """How many numbers are learned; a tied head counts once."""
        return sum(p.numel() for p in _skeleton(self).parameters())

    def flops_per_token(self, length: int | None = None, *, training: bool = False) -> int:
        """Multiplications and additions of the matrix products for one token of a sequence of ``length`` (default: the context).

        Each weight of a matrix costs 2; scores and mixture cost 4 · length · H · D a layer, the masked half counted too. The backward pass costs twice
        the forward one, so training is 3 times this (Kaplan et al. 2020, arXiv 2001.08361, table 1).
        """
        blocks = sum(p.numel() for name, p in _skeleton(self).named_parameters() if name.startswith("blocks.") and p.ndim == 2)
        mixing = 4 * self.n_layer * (length or self.context) * self.n_head * self.head_width
        forward = 2 * blocks + 2 * self.vocab_size * self.width + mixing
        return 3 * forward if training else forward


SAME = ("width", "n_head", "bias", "dropout", "fused_qkv", "qk_norm", "n_kv_head", "head_dim", "qkv_bias", "output_bias", "qk_gain", "epsilon", "latent")
GROUPED = {"n_kv_head": None, "head_dim": None, "qkv_bias": None, "output_bias": None, "qk_gain": False, "window": None, "latent": None}  # without sharing


class GPT(nn.Module):
    """The model. Its weights are NaN until ``build_gpt`` draws them or a checkpoint is loaded."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        block = get_part(config, "block")
        self.tokens = Embedding(config.vocab_size, config.width)
        scaled = {} if config.rope is None else {"rope": config.rope}
        self.positions = get_part(config, "positions")(config.context, config.width, config.rotated_width, **scaled)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(block(c) for c in config.block_configs)
        self.norm = get_part(config, "norm")(config.width, epsilon=config.epsilon, bias=config.bias)
        self.head = None if config.tie else Linear(config.width, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Float[Tensor, "V C"]:
        """The matrix that turns hidden vectors into logits: the token embedding when tied."""
        return self.tokens.weight if self.head is None else self.head.weight

    def forward(self, ids: Int[Tensor, "B T"], cache: Cache | None = None) -> Float[Tensor, "B T V"]:
        """Logits of the token after each position. With a ``cache``, ``ids`` continue what it holds. Raises ``ShapeError`` beyond the context."""
        return self.logits(self.hidden(ids, cache))

    def hidden(self, ids: Int[Tensor, "B T"], cache: Cache | None = None) -> Float[Tensor, "B T C"]:
        """The residual stream after the last block and the final norm."""
        start = self._start(ids, cache)
        x = self.tokens(ids)
        rotate = self.positions.rotation(x, start)
        x = self.dropout(self.positions.add(x, start))
        for i, block in enumerate(self.blocks):
            x = block(x, rotate=rotate, cache=None if cache is None else cache.layers[i])
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, hidden: Float[Tensor, "... C"]) -> Float[Tensor, "... V"]:
        """``hidden`` · headᵀ, softly capped if the config says so."""
        logits = hidden @ self.head_weight.T
        cap = self.config.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _start(self, ids: Tensor, cache: Cache | None) -> int:
        """The position of the first id, after checking that the last one is within the context."""
        start = 0 if cache is None else cache.length
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise ShapeError(f"ids of shape {tuple(ids.shape)}", expected="(batch, time), at least one token")
        if start + ids.shape[1] > self.config.context:
            raise ShapeError(
                f"{start + ids.shape[1]} tokens",
                expected=f"at most {self.config.context}, the model's context",
                remedy="Cut the input or train a longer context.",
            )
        return start


def build_gpt(config: GPTConfig, seed: int, device: torch.device | str = "cpu") -> GPT:
    """A ``GPT`` with every parameter drawn from the stream ``init/<its name>`` of ``seed``, and its dropout's generator set."""
    model = GPT(config).to(device)
    init_parameters(model, seed, get_part(config, "init"), n_layer=config.n_layer, residual=config.residual_init)
    seed_dropout(model, seed, device)
    return model


GPT2 = {"small": (12, 12, 768), "medium": (24, 16, 1024), "large": (36, 20, 1280), "xl": (48, 25, 1600)}  # layers, heads, width


def gpt2(size: str = "small", **changes: Any) -> GPTConfig:
    """GPT-2's configuration: ``"small"`` (124 M parameters), ``"medium"`` (355 M), ``"large"`` (774 M) or ``"xl"`` (1.6 B)."""
    if size not in GPT2:
        raise UnknownName("GPT-2 size", size, GPT2)
    n_layer, n_head, width = GPT2[size]
    return GPTConfig(**{"vocab_size": 50257, "context": 1024, "n_layer": n_layer, "n_head": n_head, "width": width} | changes)


def _skeleton(config: GPTConfig) -> GPT:
    """The model's shapes without its numbers."""
    with torch.device("meta"):
        return GPT(config)


def _whole(config: GPTConfig, field: str) -> str:
    """The part's full name, so that a part found here is found by the next config too."""
    value: str = getattr(config, field)
    home: str = next(f for f in dataclasses.fields(config) if f.name == field).metadata["home"]
    return value if ":" in value else f"{home}:{value}"
