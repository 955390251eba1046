"""Latent attention (MLA): keys and values of all heads are made from one short vector a position, and only that is cached
(DeepSeek-V2, arXiv 2405.04434, §2.1).

A rotation stands between a key's matrix and its query, so that neither could be multiplied out; hence each query has a few numbers of its own that are
rotated, beside one rotated key that all heads share (§2.1.3, "decoupled").
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from underhood.base.config import get_part
from underhood.base.errors import ConfigError
from underhood.nn.attention import AttentionConfig, LayerCache, merge_heads
from underhood.nn.dropout import Dropout
from underhood.nn.grouped import cut_heads, placed
from underhood.nn.linear import Linear
from underhood.nn.norm import RMSNorm


class LatentAttention(nn.Module):
    """Attention whose cache holds ``kv_rank`` + ``rope_width`` numbers a position, whatever the number of heads.

    Its parts: ``query_down``, ``query_norm`` and ``query_up`` (without ``q_rank`` only ``query_up``), ``kv_down``, ``kv_norm``, ``kv_up`` and ``output``;
    of these ``query_down`` and ``kv_down`` (``qkv_bias``) and ``output`` (``output_bias``) have biases where the config says so. Raises ``ConfigError``
    without ``latent``, and for settings that it does not know: ``n_kv_head``, ``head_dim``, ``qk_norm``, ``qk_gain``, ``window``.

    How: ``kv_down`` makes the latent and the one rotated key, ``placed`` turns that key and the queries' last numbers and caches, ``kv_up`` makes keys and
    values of all heads from what the cache returns. A head's query and key are its unturned numbers followed by the turned ones.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        if config.latent is None:
            raise ConfigError("the widths are not given", where="latent", expected="a LatentConfig")
        for field in ("n_kv_head", "head_dim", "qk_norm", "qk_gain", "window"):
            if getattr(config, field):
                raise ConfigError("latent attention has none", where=field, expected="left out")
        C, H, wide = config.width, config.n_head, config.latent
        self.config, self.wide, self.kernel = config, wide, get_part(config, "kernel")
        queries = H * (wide.nope_width + wide.rope_width)
        self.query_down = None if wide.q_rank is None else Linear(C, wide.q_rank, bias=config.inner_bias)
        self.query_norm = None if wide.q_rank is None else RMSNorm(wide.q_rank, epsilon=config.epsilon)
        self.query_up = Linear(wide.q_rank or C, queries, bias=False)
        self.kv_down = Linear(C, wide.kv_rank + wide.rope_width, bias=config.inner_bias)
        self.kv_norm = RMSNorm(wide.kv_rank, epsilon=config.epsilon)
        self.kv_up = Linear(wide.kv_rank, H * (wide.nope_width + wide.value_width), bias=False)
        self.output = Linear(H * wide.value_width, C, bias=config.outer_bias)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        *,
        mask: Bool[Tensor, "... T S"] | None = None,
        rotate: Callable[[Tensor], Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """As ``MultiHeadAttention``'s; ``rotate`` turns ``rope_width`` numbers."""
        return self.look(x, mask=mask, rotate=rotate, cache=cache)[0]

    def look(
        self,
        x: Float[Tensor, "B T C"],
        *,
        mask: Bool[Tensor, "... T S"] | None = None,
        rotate: Callable[[Tensor], Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B H T S"] | None]:
        """``forward``, and the weights of every head. The cache gets the shared rotated key as its keys and the latent as its values."""
        q, q_turned = cut(self._queries(x), self.wide.nope_width)
        latent, k_turned = self._latent(x)
        q_turned, k_turned, latent = placed(q_turned, k_turned, latent, rotate, cache)
        k, v = self._widened(latent)
        q = torch.cat([q, q_turned], dim=-1)
        k = torch.cat([k, k_turned.expand(-1, self.config.n_head, -1, -1)], dim=-1)
        mixed, weights = self.kernel(q, k, v, causal=self.config.causal, mask=mask, dropout=self.dropout)
        return self.output(merge_heads(mixed)), weights

    def _queries(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B H T D"]:
        if self.query_down is not None and self.query_norm is not None:
            x = self.query_norm(self.query_down(x))
        return cut_heads(self.query_up(x), self.config.n_head)

    def _latent(self, x: Float[Tensor, "B T C"]) -> tuple[Float[Tensor, "B 1 T R"], Float[Tensor, "B 1 T P"]]:
        """What is kept of each position: the normalised latent, and the key that will be turned."""
        latent, turned = cut(self.kv_down(x), self.wide.kv_rank)
        return self.kv_norm(latent).unsqueeze(1), turned.unsqueeze(1)

    def _widened(self, latent: Float[Tensor, "B 1 S R"]) -> tuple[Float[Tensor, "B H S N"], Float[Tensor, "B H S E"]]:
        """Keys (their unturned part) and values of all heads."""
        return cut(cut_heads(self.kv_up(latent.squeeze(1)), self.config.n_head), self.wide.nope_width)


def cut(x: Float[Tensor, "... W"], at: int) -> tuple[Float[Tensor, "... at"], Float[Tensor, "... rest"]]:
    """The first ``at`` numbers of the last axis, and the others."""
    return x[..., :at], x[..., at:]
