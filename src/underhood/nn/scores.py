"""Scores: what may be done to them between q · k / √d and softmax. Each is a kernel of the attention layer (``GPTConfig.kernel``).

``alibi`` subtracts what grows with the distance, so that a model needs no position vectors (Press, Smith, Lewis 2021, arXiv 2108.12409, §3).
``capped`` keeps every score within ±50 by a smooth bend (Gemma 2, arXiv 2408.00118, §2). Both write out softmax, as ``plain`` does.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from underhood.nn.attention import Mixed, causal_mask, hide
from underhood.nn.dropout import Dropout

SCORE_CAP = 50.0  # Gemma 2's


def alibi_slopes(n_head: int) -> Float[Tensor, "H"]:
    """How much a step of distance costs each head: 2^(-8/H), 2^(-16/H) … 2^-8. The authors' code differs where H is no power of two."""
    return 2.0 ** (-8.0 / n_head * torch.arange(1, n_head + 1))


def alibi_bias(n_head: int, T: int, S: int) -> Float[Tensor, "H T S"]:
    """-slope · distance for T queries that stand at the end of S keys: 0 at a query's own position, the more negative the further back.

    How: key position minus query position, both counted from the first key, times each head's slope.
    """
    distance = torch.arange(S) - torch.arange(S - T, S).unsqueeze(-1)
    return alibi_slopes(n_head).view(-1, 1, 1) * distance


def alibi(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, dropout: Dropout) -> Mixed:
    """Attention with ``alibi_bias`` added to the scores; takes the place of positions. (B H T D), (B H S D), (B H S D) → (B H T D) and the weights."""
    H, T, S = q.shape[-3], q.shape[-2], k.shape[-2]
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return mix(scores + alibi_bias(H, T, S).to(q), v, causal=causal, mask=mask, dropout=dropout)


def soft_cap(x: Float[Tensor, "..."], cap: float) -> Float[Tensor, "..."]:
    """cap · tanh(x / cap): ``x`` where it is small, never beyond ±cap, and with a slope everywhere."""
    return cap * torch.tanh(x / cap)


def capped(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, dropout: Dropout) -> Mixed:
    """Attention whose scores pass ``soft_cap``. Shapes as ``alibi``'s."""
    scores = soft_cap(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), SCORE_CAP)
    return mix(scores, v, causal=causal, mask=mask, dropout=dropout)


def mix(scores: Float[Tensor, "B H T S"], v: Float[Tensor, "B H S D"], *, causal: bool, mask: Tensor | None, dropout: Dropout) -> Mixed:
    """Hide what may not be seen, softmax, mix the values: the second half of ``attend``."""
    if causal:
        past = causal_mask(scores.shape[-2], scores.shape[-1], device=scores.device)
        mask = past if mask is None else past & mask
    weights = hide(scores, mask).softmax(dim=-1)
    return dropout(weights) @ v, weights
