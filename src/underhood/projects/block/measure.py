"""What the parts of a block cost on this machine: arithmetic that is hardly any, and memory that is moved all the same."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from underhood.lab.timing import best_of, matmul_gflop_per_s
from underhood.nn import fast
from underhood.nn.activation import gelu_tanh, relu_squared, silu
from underhood.nn.attention import AttentionConfig
from underhood.nn.block import BlockConfig
from underhood.nn.feedforward import FeedForward, GatedFeedForward
from underhood.nn.init import fan_in, init_parameters
from underhood.nn.llama import LlamaBlock
from underhood.nn.norm import LayerNorm, RMSNorm
from underhood.nn.positions import Rotary

SECONDS = 4  # about, on one thread
TOKENS, WIDTH, HEADS, HIDDEN = 512, 256, 4, 680


def measure() -> dict[str, Any]:
    """One sequence of 512 tokens of width 256 in float32, forward. The limit is the copy of as many bytes, or the matmul peak."""
    peak, copied = matmul_gflop_per_s(), copy_gb_per_s()
    x = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    wide = torch.randn(1, TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
    return {
        "tokens": TOKENS,
        "width": WIDTH,
        "hidden": HIDDEN,
        "matmul_peak_gflop_per_s": round(peak, 1),
        "copy_gb_per_s": round(copied, 2),
        "norm": of_norms(x, copied),
        "activation": {f"{f.__name__}_us": micros(functools.partial(f, wide)) for f in (gelu_tanh, silu, relu_squared)} | {"limit_us": limit_us(wide, copied)},
        "rotation": of_rotation(x, copied),
        "block": of_blocks(x, peak),
    }


def of_norms(x: Tensor, copied: float) -> dict[str, float]:
    """Both norms, plain and fused, beside reading and writing the tensor once."""
    norms: dict[str, nn.Module] = {"layer": LayerNorm(WIDTH), "rms": RMSNorm(WIDTH), "layer_fused": fast.LayerNorm(WIDTH), "rms_fused": fast.RMSNorm(WIDTH)}
    for norm in norms.values():
        init_parameters(norm, 0)
    return {f"{name}_us": micros(functools.partial(norm, x)) for name, norm in norms.items()} | {"limit_us": limit_us(x, copied)}


def of_rotation(x: Tensor, copied: float) -> dict[str, float]:
    """The rotation of one layer's queries."""
    q = x.view(1, TOKENS, HEADS, -1).transpose(1, 2)
    rotate = Rotary(TOKENS, WIDTH, WIDTH // HEADS).rotation(x)
    return {"plain_us": micros(lambda: rotate(q)), "limit_us": limit_us(x, copied)}


def of_blocks(x: Tensor, peak: float) -> dict[str, float]:
    """A Llama block and the two kinds of feed-forward layer with as many parameters."""
    block = LlamaBlock(BlockConfig(attend=AttentionConfig(width=WIDTH, n_head=HEADS, bias=False), hidden=HIDDEN))
    gated, plain = GatedFeedForward(WIDTH, HIDDEN), FeedForward(WIDTH, 3 * HIDDEN // 2, bias=False)
    for module in (block, gated, plain):
        init_parameters(module, 0, fan_in)
    rotate = Rotary(TOKENS, WIDTH, WIDTH // HEADS).rotation(x)
    matrices = sum(p.numel() for p in block.parameters() if p.ndim == 2)
    flops = flops_of(matrices)
    ms = micros(lambda: block(x, rotate=rotate)) / 1e3
    return {
        "parameters": sum(p.numel() for p in block.parameters()),
        "norm_and_gain_parameters": 2 * WIDTH,
        "mflop": round(flops / 1e6, 1),
        "ms": round(ms, 3),
        "limit_ms": round(flops / peak / 1e6, 3),
        "tokens_per_s": round(1e3 * TOKENS / ms),
        "gated_ms": round(micros(lambda: gated(x)) / 1e3, 3),
        "ungated_ms": round(micros(lambda: plain(x)) / 1e3, 3),
    }


def flops_of(matrices: int) -> int:
    """2 a weight of every matrix for each token, and 4 · T² · C for scores and mixture; the masked half is counted, for the plain path computes it."""
    return 2 * TOKENS * matrices + 4 * TOKENS * TOKENS * WIDTH


def micros(call: Callable[[], Any]) -> float:
    """Microseconds of the best run, without gradients."""
    with torch.no_grad():
        return round(1e6 * best_of(call), 1)


def limit_us(x: Tensor, copied: float) -> float:
    """Microseconds to read ``x`` and write as much."""
    return round(2 * x.numel() * x.element_size() / copied / 1e3, 1)


def copy_gb_per_s() -> float:
    """Bytes read and written per second when a tensor of the norms' size is copied."""
    x = torch.zeros(TOKENS, WIDTH)
    y = torch.empty_like(x)
    return 2 * x.numel() * 4 / best_of(lambda: y.copy_(x)) / 1e9
