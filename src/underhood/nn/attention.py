"""Attention in four stages: average the past, let the content choose, hide the future, look in several ways at once.

1. ``average_past``: every position takes the mean of what came before it; all weights are equal.
2. ``attend`` without a mask: the weights come from the content, softmax(QKᵀ/√d)V (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).
3. ``attend`` with ``causal_mask``: the future is hidden, so that a model can be trained to predict it.
4. ``MultiHeadAttention``: several heads, each in its own slice of the width, and the learned projections around them.

Masks are boolean, True where a query *may* look, as in torch. ``sdpa`` is the fast twin of ``plain``; a test holds them equal.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from underhood.base.config import get_part, part
from underhood.base.errors import ConfigError, ShapeError
from underhood.nn.dropout import Dropout
from underhood.nn.linear import Linear
from underhood.nn.norm import rms_norm


def average_past(x: Float[Tensor, "... T C"]) -> Float[Tensor, "... T C"]:
    """Stage 1: position t becomes the mean of positions 0 … t.

    How: a lower triangle of ones, each row divided by its sum, is a matrix of attention weights; multiply by it.
    """
    seen = causal_mask(x.shape[-2], device=x.device).to(x.dtype)
    weights = seen / seen.sum(-1, keepdim=True)
    return weights @ x


def causal_mask(T: int, S: int | None = None, *, device: torch.device | str | None = None) -> Bool[Tensor, "T S"]:
    """True where query t may look at key s: at itself and the past.

    ``S`` keys (default ``T``) end at the same position as the queries: with S > T the first S - T keys are a past that every query sees.

    How: ones on and below the diagonal that ends in the lower right corner.
    """
    S = T if S is None else S
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def require_visible(mask: Bool[Tensor, "... T S"]) -> None:
    """Raise ``ShapeError`` naming the first query that may look nowhere: softmax over nothing is 0/0."""
    nothing = ~mask.any(-1)
    if nothing.any():
        row = nothing.nonzero()[0].tolist()
        raise ShapeError(f"query {row[-1]} has nothing to attend to", where=f"mask row {row}", remedy="Let every query see at least one key: itself.")


def hide(scores: Float[Tensor, "... T S"], mask: Bool[Tensor, "... T S"] | None) -> Float[Tensor, "... T S"]:
    """``scores`` with -inf where the mask is False, so that softmax gives these exactly 0. A row with nothing left is a ``ShapeError`` that names it."""
    if mask is None:
        return scores
    require_visible(mask)
    return scores.masked_fill(~mask, -math.inf)


def attend(
    q: Float[Tensor, "... T D"],
    k: Float[Tensor, "... S D"],
    v: Float[Tensor, "... S E"],
    mask: Bool[Tensor, "... T S"] | None = None,
    dropout: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "... T E"], Float[Tensor, "... T S"]]:
    """Stages 2 and 3: each query's mixture of the values, and the weights it mixed them with (rows sum to 1).

    ``mask`` is True where a query may look; without it all keys are seen. ``dropout`` acts on the weights while training.

    How: score every key, scale by √d so that the scores' size does not grow with the head, hide, normalise, mix.
    """
    scores = q @ k.transpose(-2, -1)
    scores = scores / math.sqrt(q.shape[-1])
    scores = hide(scores, mask)
    weights = scores.softmax(dim=-1)
    kept = weights if dropout is None else dropout(weights)
    return kept @ v, weights


def split_heads(x: Float[Tensor, "B T C"], n_head: int) -> Float[Tensor, "B H T D"]:
    """Cut the width into ``n_head`` slices: head h holds columns hD … (h+1)D-1 of every position."""
    B, T, C = x.shape
    return x.view(B, T, n_head, C // n_head).transpose(1, 2)


def merge_heads(x: Float[Tensor, "B H T D"]) -> Float[Tensor, "B T C"]:
    """Lay the heads side by side again: the inverse of ``split_heads``."""
    B, H, T, D = x.shape
    return x.transpose(1, 2).reshape(B, T, H * D)


def entropy(weights: Float[Tensor, "... S"]) -> Float[Tensor, "..."]:
    """-Σ w ln w of each row in nats: 0 when it looks at one place, ln S when it looks everywhere alike."""
    return -torch.xlogy(weights, weights).sum(-1)


class LayerCache(Protocol):
    """Keys and values of earlier positions, kept by whoever generates."""

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append new keys and values (B H T D) and return all so far (B H S D)."""
        ...


Mixed = tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T S"] | None]


def plain(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, dropout: Dropout) -> Mixed:
    """``attend`` under the causal mask, the caller's mask, or both. It defines correct."""
    if causal:
        past = causal_mask(q.shape[-2], k.shape[-2], device=q.device)
        mask = past if mask is None else past & mask
    return attend(q, k, v, mask, dropout)


def sdpa(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, dropout: Dropout) -> Mixed:
    """The same through torch's fused kernel, which never holds the weights (so None stands for them).

    Its dropout draws from torch's global generator, so while dropout is active this is ``plain``.
    """
    T, S = q.shape[-2], k.shape[-2]
    if mask is not None:
        require_visible(mask)
    if dropout.training and dropout.p > 0:
        return plain(q, k, v, causal=causal, mask=mask, dropout=dropout)
    if causal and (mask is not None or T not in (1, S)):
        past = causal_mask(T, S, device=q.device)
        mask, causal = (past if mask is None else past & mask), False
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and T > 1), None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """The widths of latent attention (``underhood.nn.latent``), named as in DeepSeek-V2 (arXiv 2405.04434, §2.1)."""

    kv_rank: int  # d_c: the numbers that are cached for a position's keys and values
    rope_width: int  # d_h^R: numbers of each query, and of the one shared key, that are rotated; cached too
    nope_width: int  # d_h: numbers of each head's query and key that are not rotated
    value_width: int  # numbers of each head's value
    q_rank: int | None = None  # d_c': queries are made from so many numbers; none: from the whole width


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """One attention layer."""

    width: int  # C: what comes in and goes out
    n_head: int = 1  # H: heads of C/H numbers each; 64 per head is usual
    causal: bool = True  # hide the future; False for reading both ways and for looking at another sequence
    bias: bool = True  # GPT-2 has biases everywhere; newer models have none
    dropout: float = 0.0  # of the weights; small data wants some, large data none
    kernel: str = part("underhood.nn.attention", "plain")  # "sdpa" for speed; "plain" can be read, broken and asked for its weights
    fused_qkv: bool = True  # one matrix for q, k and v: one product instead of three; False to look at another sequence
    qk_norm: bool = False  # RMS norm of each head's queries and keys: bounds the scores (Henry et al. 2020, arXiv 2010.04245)
    # what ``underhood.nn.grouped`` and ``underhood.nn.latent`` understand besides
    n_kv_head: int | None = None  # G: heads of keys and values, each shared by H/G heads of queries; none: H
    head_dim: int | None = None  # D where it is not C/H
    qkv_bias: bool | None = None  # of what makes q, k and v where it is not ``bias`` (Qwen 2 has it there alone)
    output_bias: bool | None = None  # of the projection back where it is not ``bias``
    qk_gain: bool = False  # ``qk_norm`` with a learned gain (Qwen 3)
    epsilon: float = 1e-5  # of that norm
    window: int | None = None  # a query sees itself and the ``window`` - 1 positions before it; none: all the past
    latent: LatentConfig | None = None

    def __post_init__(self) -> None:
        if self.width < 1 or self.n_head < 1 or (self.head_dim is None and self.width % self.n_head):
            raise ConfigError(f"width {self.width} cannot be cut into {self.n_head} equal heads", where="n_head", expected="a divisor of the width")
        for field in ("n_kv_head", "head_dim", "window"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(f"found {value}", where=field, expected="at least 1")
        if self.n_head % self.kv_heads:
            raise ConfigError(f"{self.n_head} heads cannot share {self.kv_heads} equally", where="n_kv_head", expected="a divisor of n_head")

    @property
    def kv_heads(self) -> int:
        """G, given or H."""
        return self.n_kv_head or self.n_head

    @property
    def head_width(self) -> int:
        """D, given or C / H."""
        return self.head_dim or self.width // self.n_head

    @property
    def inner_bias(self) -> bool:
        """``qkv_bias``, given or ``bias``."""
        return self.bias if self.qkv_bias is None else self.qkv_bias

    @property
    def outer_bias(self) -> bool:
        """``output_bias``, given or ``bias``."""
        return self.bias if self.output_bias is None else self.output_bias


class MultiHeadAttention(nn.Module):
    """Stage 4: project to queries, keys and values, attend in each head, join the heads, project back.

    Its linear layers are called ``qkv`` (or ``query``, ``key`` and ``value``) and ``output``.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        C = config.width
        self.config, self.kernel = config, get_part(config, "kernel")
        if config.fused_qkv:
            self.qkv = Linear(C, 3 * C, bias=config.bias)
        else:
            self.query, self.key, self.value = (Linear(C, C, bias=config.bias) for _ in range(3))
        self.output = Linear(C, C, bias=config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        *,
        context: Float[Tensor, "B S C"] | None = None,
        mask: Bool[Tensor, "... T S"] | None = None,
        rotate: Callable[[Tensor], Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """What each position of ``x`` gathers from ``context`` (cross-attention) or from ``x`` itself.

        ``mask`` (broadcast to B H T S) narrows what may be seen, ``rotate`` turns queries and keys by their positions, ``cache.extend(k, v)`` puts
        earlier keys and values in front.
        """
        return self.look(x, context=context, mask=mask, rotate=rotate, cache=cache)[0]

    def look(
        self,
        x: Float[Tensor, "B T C"],
        *,
        context: Float[Tensor, "B S C"] | None = None,
        mask: Bool[Tensor, "... T S"] | None = None,
        rotate: Callable[[Tensor], Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B H T S"] | None]:
        """``forward``, and the weights of every head (None from a kernel that never holds them)."""
        q, k, v = (split_heads(p, self.config.n_head) for p in self._project(x, context))
        if self.config.qk_norm:
            q, k = rms_norm(q), rms_norm(k)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            k, v = cache.extend(k, v)
        mixed, weights = self.kernel(q, k, v, causal=self.config.causal, mask=mask, dropout=self.dropout)
        return self.output(merge_heads(mixed)), weights

    def _project(self, x: Float[Tensor, "B T C"], context: Float[Tensor, "B S C"] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries from ``x``, keys and values from ``context`` or from ``x``; each (B T C) or (B S C), heads side by side."""
        if not self.config.fused_qkv:
            source = x if context is None else context
            return self.query(x), self.key(source), self.value(source)
        if context is not None:
            raise ConfigError("one matrix for q, k and v cannot look at another sequence", where="fused_qkv", expected="False for cross-attention")
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return q, k, v
