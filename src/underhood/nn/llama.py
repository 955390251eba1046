"""Llama: the GPT with the parts that newer models share (Touvron et al. 2023, arXiv 2302.13971, §2.2).

RMSNorm before each branch, SwiGLU, rotated queries and keys, no biases, and a head of its own. ``LlamaBlock`` is ``Block`` with these parts written
in place; a test holds them equal, and both read the other's weights. ``llama`` is the whole model's configuration.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from underhood.base.config import get_part
from underhood.nn.attention import LayerCache
from underhood.nn.block import BlockConfig
from underhood.nn.feedforward import GatedFeedForward
from underhood.nn.gpt import GPTConfig
from underhood.nn.norm import RMSNorm


class LlamaBlock(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)), with RMSNorm and SwiGLU and no bias. Dropout, norm and activation of the config play no part."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width = config.attend.width
        self.norm1 = RMSNorm(width, epsilon=config.epsilon)
        self.attention = get_part(config, "attention")(config.attend)
        self.norm2 = RMSNorm(width, epsilon=config.epsilon)
        self.feedforward = GatedFeedForward(width, config.hidden)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        *,
        mask: Bool[Tensor, "... T S"] | None = None,
        rotate: Callable[[Tensor], Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """The residual stream after this block; ``mask``, ``rotate`` and ``cache`` go to the attention."""
        x = x + self.attention(self.norm1(x), mask=mask, rotate=rotate, cache=cache)
        return x + self.feedforward(self.norm2(x))  # type: ignore[no-any-return]


def llama(**changes: Any) -> GPTConfig:
    """A Llama-shaped configuration; ``vocab_size`` is needed, sizes and any other field of ``GPTConfig`` may be given."""
    parts: dict[str, Any] = {
        "norm": "RMSNorm",
        "feedforward": "GatedFeedForward",
        "activation": "silu",
        "positions": "Rotary",
        "block": "underhood.nn.llama:LlamaBlock",
    }
    return GPTConfig(**parts | {"bias": False, "tie": False, "epsilon": 1e-6, "fused_qkv": False} | changes)
