"""Grouped-query attention: several heads of queries share one head of keys and values, so that the cache is smaller (Ainslie et al. 2023, arXiv 2305.13245).

With as many groups as heads it is multi-head attention, with one group multi-query attention (Shazeer 2019, arXiv 1911.02150). The layer also knows what
newer models add: heads of any width, biases on q, k and v alone (Qwen 2), normalised queries and keys with a gain (Qwen 3), a sliding window (Mistral).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from underhood.base.config import get_part
from underhood.base.errors import ConfigError
from underhood.nn.attention import AttentionConfig, LayerCache, merge_heads
from underhood.nn.dropout import Dropout
from underhood.nn.linear import Linear
from underhood.nn.norm import RMSNorm, rms_norm
from underhood.nn.rope import LateTurn


def cut_heads(x: Float[Tensor, "B T W"], count: int) -> Float[Tensor, "B count T D"]:
    """Cut the last axis into ``count`` heads of W / ``count`` numbers; W need not be the model's width."""
    B, T, W = x.shape
    return x.view(B, T, count, W // count).transpose(1, 2)


def share_heads(x: Float[Tensor, "B G S D"], n_head: int) -> Float[Tensor, "B H S D"]:
    """Each of G heads for its H/G heads of queries: query head h reads head h // (H/G), so neighbours share.

    How: repeat each head in place (0 0 1 1 …); repeating the row of heads (0 1 0 1 …) has the same shape and is another model.
    """
    return x if x.shape[1] == n_head else x.repeat_interleave(n_head // x.shape[1], dim=1)


def window_mask(T: int, S: int, window: int, *, device: torch.device | str | None = None) -> Bool[Tensor, "T S"]:
    """True where query t may look within a window: itself and the ``window`` - 1 positions before it. Queries and keys end at the same position.

    How: the distance from key to query is less than ``window``; the future is the causal mask's business.
    """
    queries = torch.arange(S - T, S, device=device).unsqueeze(-1)
    return queries - torch.arange(S, device=device) < window


def pool_heads(weight: Float[Tensor, "HD C"], n_head: int, n_kv_head: int) -> Float[Tensor, "GD C"]:
    """A key or value matrix (or bias) of ``n_head`` heads as one of ``n_kv_head``: the mean of the heads that will share (Ainslie et al. 2023, §2.1).

    Raises ``ConfigError`` where the heads cannot be shared out equally.

    How: rows (head, D) as (group, member, D): neighbours are one group, as in ``share_heads``. Take the mean over members and join the groups again.
    """
    if n_head % n_kv_head:
        raise ConfigError(f"{n_head} heads cannot become {n_kv_head} equally", where="n_kv_head", expected=f"a divisor of {n_head}")
    heads = weight.view(n_kv_head, n_head // n_kv_head, weight.shape[0] // n_head, *weight.shape[1:])
    return heads.mean(1).flatten(0, 1)


class GroupedQueryAttention(nn.Module):
    """Project to H heads of queries and G of keys and values, attend, join, project back.

    Its linear layers are ``query`` (H·D), ``key`` and ``value`` (G·D) and ``output``; with ``qk_gain`` it has the norms ``query_norm`` and ``key_norm`` over D.
    The kernel gets as many heads of keys and values as of queries, and the caller's mask narrowed by the window; the cache gets G heads. What a cache returns
    that is no tensor (pages) goes to the kernel as it is. Raises ``ConfigError`` for ``fused_qkv``.

    How: cut, norm, ``placed`` (which turns and caches), and only then share; then the kernel, ``merge_heads`` and the way back.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        C, D, H, G = config.width, config.head_width, config.n_head, config.kv_heads
        if config.fused_qkv:
            raise ConfigError("queries and keys of different widths cannot be one matrix", where="fused_qkv", expected="False")
        self.config, self.kernel = config, get_part(config, "kernel")
        self.query, self.key, self.value = (Linear(C, heads * D, bias=config.inner_bias) for heads in (H, G, G))
        self.output = Linear(H * D, C, bias=config.outer_bias)
        self.query_norm = RMSNorm(D, epsilon=config.epsilon) if config.qk_gain else None
        self.key_norm = RMSNorm(D, epsilon=config.epsilon) if config.qk_gain else None
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
        """As ``MultiHeadAttention``'s."""
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
        H, G = self.config.n_head, self.config.kv_heads
        source = x if context is None else context
        q, k, v = cut_heads(self.query(x), H), cut_heads(self.key(source), G), cut_heads(self.value(source), G)
        q, k = self._normalised(q, k)
        q, k, v = placed(q, k, v, rotate, cache)
        if isinstance(k, Tensor):  # a paged cache gives no tensors: its kernel reads the pages
            mask = self._narrowed(mask, q.shape[-2], k.shape[-2], q.device)
            k, v = share_heads(k, H), share_heads(v, H)
        mixed, weights = self.kernel(q, k, v, causal=self.config.causal, mask=mask, dropout=self.dropout)
        return self.output(merge_heads(mixed)), weights

    def _normalised(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if self.query_norm is not None and self.key_norm is not None:
            return self.query_norm(q), self.key_norm(k)
        return (rms_norm(q), rms_norm(k)) if self.config.qk_norm else (q, k)

    def _narrowed(self, mask: Tensor | None, T: int, S: int, device: torch.device) -> Tensor | None:
        """``mask`` and the window; a window that hides nothing makes no mask."""
        window = self.config.window
        if window is None or window >= S:
            return mask
        near = window_mask(T, S, window, device=device)
        return near if mask is None else near & mask


def placed(q: Tensor, k: Tensor, v: Tensor, rotate: Callable[[Tensor], Tensor] | None, cache: LayerCache | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries turned, keys turned and put behind those in the cache. Where the turn changes with the length, keys are cached before it and all turned after."""
    if isinstance(rotate, LateTurn):
        if cache is not None:
            k, v = cache.extend(k, v)
        return rotate(q), rotate.keys(k), v
    if rotate is not None:
        q, k = rotate(q), rotate(k)
    if cache is not None:
        k, v = cache.extend(k, v)
    return q, k, v
