"""The transformer block: gather from other positions, then think alone; each step adds to the residual stream instead of replacing it.

Pre-norm, as in GPT-2: the norm stands inside the branch, so that the stream itself runs from the embedding to the head untouched
(Xiong et al. 2020, arXiv 2002.04745, fig. 1b). ``PostNormBlock`` is the older order of the same parts (fig. 1a; Vaswani et al. 2017): the norm stands in the
stream, after each sum.
"""

import dataclasses
from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from underhood.base.config import get_part, part
from underhood.nn.attention import AttentionConfig, LayerCache
from underhood.nn.dropout import Dropout


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One block: which parts, and how wide."""

    attend: AttentionConfig  # width, heads, kernel
    hidden: int  # F: the feed-forward layer's inner width
    dropout: float = 0.0  # of what each branch adds
    epsilon: float = 1e-5  # of the norms; GPT-2's
    attention: str = part("underhood.nn.attention", "MultiHeadAttention")
    feedforward: str = part("underhood.nn.feedforward", "FeedForward")
    activation: str = part("underhood.nn.activation", "gelu_tanh")
    norm: str = part("underhood.nn.norm", "LayerNorm")


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width, bias = config.attend.width, config.attend.bias
        norm, feedforward = get_part(config, "norm"), get_part(config, "feedforward")
        self.norm1 = norm(width, epsilon=config.epsilon, bias=bias)
        self.attention = get_part(config, "attention")(config.attend)
        self.norm2 = norm(width, epsilon=config.epsilon, bias=bias)
        self.feedforward = feedforward(width, config.hidden, activation=get_part(config, "activation"), bias=bias)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        *,
        mask: Bool[Tensor, "... T S"] | None = None,
        rotate: Callable[[Tensor], Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """The residual stream after this block; ``mask``, ``rotate`` and ``cache`` go to the attention."""
        x = x + self.dropout(self.attention(self.norm1(x), mask=mask, rotate=rotate, cache=cache))
        x = x + self.dropout(self.feedforward(self.norm2(x)))
        return x


class PostNormBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + feedforward(x)): the stream itself is normalised twice a block. Parts and parameters are those of ``Block``.

    How: as ``Block``, with each norm around the sum instead of inside the branch.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width, bias = config.attend.width, config.attend.bias
        norm, feedforward = get_part(config, "norm"), get_part(config, "feedforward")
        self.norm1 = norm(width, epsilon=config.epsilon, bias=bias)
        self.attention = get_part(config, "attention")(config.attend)
        self.norm2 = norm(width, epsilon=config.epsilon, bias=bias)
        self.feedforward = feedforward(width, config.hidden, activation=get_part(config, "activation"), bias=bias)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        *,
        mask: Bool[Tensor, "... T S"] | None = None,
        rotate: Callable[[Tensor], Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """The residual stream after this block; ``mask``, ``rotate`` and ``cache`` go to the attention."""
        x = self.norm1(x + self.dropout(self.attention(x, mask=mask, rotate=rotate, cache=cache)))
        x = self.norm2(x + self.dropout(self.feedforward(x)))
        return x
