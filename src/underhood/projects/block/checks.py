"""What any correct norm, activation, position and block satisfies. The oracles are torch's own functions, closed forms, and Llama composed of both."""

import functools
import math
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.lab.check import Check, Part, check, close, equal, refuses
from underhood.lab.oracles import noise, tried
from underhood.nn.attention import AttentionConfig
from underhood.nn.block import BlockConfig


def drawn(module: Any, rng: random.Random) -> Any:
    """``module`` in float64 with random weights, its gains around one."""
    module = module.double()
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(noise(rng, *p.shape) / 2 + (1 if p.ndim == 1 and name.endswith("weight") else 0))
    return module


def weights(module: Any, names: list[str]) -> dict[str, Tensor]:
    """The module's parameters by name, which must be these."""
    found = {name: p.detach() for name, p in module.named_parameters()}
    equal(sorted(found), sorted(names), "the names of the parameters")
    return found


# ── norms ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "1 · Layer norm",
    hints=(
        "After the norm, before gain and shift: what are the mean and the variance of a row?",
        "0 and 1. Centre first, then divide by √(variance + ε), where the variance is the mean of the centred squares: divided by C, not by C − 1.",
        "`centred = wide - wide.mean(-1, keepdim=True)`; `centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + epsilon)`.",
    ),
)
def check_layer_norm_equals_torch(part: Part, rng: random.Random) -> None:
    x = noise(rng, 3, 6) * 2 + 5
    close(tried("the norm runs", part.layer_norm, x, 1e-3), F.layer_norm(x, (6,), eps=1e-3), "layer norm is torch's", given=x)
    for bias in (True, False):
        module = drawn(tried("the module can be built", part.LayerNorm, 6, epsilon=1e-2, bias=bias), rng)
        w = weights(module, ["weight", "bias"] if bias else ["weight"])
        expected = F.layer_norm(x, (6,), w["weight"], w.get("bias"), 1e-2)
        close(tried("the module runs", module, x), expected, "gain and shift are applied after the norm", given=f"bias={bias}, epsilon=0.01")


@check(
    "2 · RMS norm",
    hints=(
        "What is 0 divided by 0? Some row of a batch will be all zeros.",
        "ε stands inside the square root, beside the mean of the squares, so that the divisor is never zero.",
        "`wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)`.",
    ),
)
def check_rms_norm_equals_torch(part: Part, rng: random.Random) -> None:
    for size in (1.0, 0.01, 0.0):
        x = noise(rng, 3, 6) * size
        close(tried("the norm runs", part.rms_norm, x, 1e-4), F.rms_norm(x, (6,), eps=1e-4), "RMS norm is torch's", given=x)
    x = noise(rng, 3, 6)
    module = drawn(tried("the module can be built", part.RMSNorm, 6, epsilon=1e-2), rng)
    w = weights(module, ["weight"])
    close(tried("the module runs", module, x), F.rms_norm(x, (6,), w["weight"], 1e-2), "a gain and no shift", given="epsilon=0.01")


@check(
    "2 · RMS norm",
    hints=(
        "300 squared is 90,000. What is the largest float16?",
        "65,504. And the square of 0.0001 is smaller than the smallest. Widen to float32 before you square, come back at the end.",
        "`wide = x.float() if x.dtype in HALF else x`, the sums on `wide`, then `.to(x.dtype)`; the same in `layer_norm`.",
    ),
)
def check_statistics_are_wide(part: Part, rng: random.Random) -> None:
    signs = noise(rng, 2, 8).sign()
    for name, norm, theirs in (("rms_norm", part.rms_norm, F.rms_norm), ("layer_norm", part.layer_norm, F.layer_norm)):
        for size in (300.0, 1.0, 1e-4):
            x = (signs * size).half()
            found = tried(f"{name} runs", norm, x, given=f"float16, size {size:g}")
            equal(str(found.dtype), "torch.float16", f"{name} returns the dtype that it was given")
            expected = theirs(x.double(), (8,), eps=1e-5)
            close(found, expected, f"{name} in float16 is what float64 says, up to rounding", given=f"numbers of ±{size:g} in float16", rtol=3e-3)


# ── activations and the gate ──────────────────────────────────────────────────────────────────────────────────────────


@check(
    "3 · Activations",
    hints=(
        "Which of the two GELUs is exact, and what is GELU at 1?",
        "0.8413447, the normal distribution's share below 1. The tanh formula is another function, up to 0.0005 away: keep them apart.",
        "`0.5 * x * (1 + torch.erf(x / math.sqrt(2)))`; `x * torch.sigmoid(x)`; `x.clamp(min=0).square()`.",
    ),
)
def check_activations_equal_torch(part: Part, rng: random.Random) -> None:
    x = torch.cat([torch.linspace(-6, 6, 25, dtype=torch.float64), noise(rng, 10)])
    close(tried("relu_squared runs", part.relu_squared, x), F.relu(x) ** 2, "relu_squared is the square of torch's relu", given=x)
    close(tried("silu runs", part.silu, x), F.silu(x), "silu is torch's", given=x)
    close(tried("gelu runs", part.gelu, x), F.gelu(x), "gelu is torch's exact one", given=x)
    close(tried("gelu_tanh runs", part.gelu_tanh, x), F.gelu(x, approximate="tanh"), "gelu_tanh is torch's approximation", given=x)


@check(
    "4 · SwiGLU",
    hints=(
        "Two projections go up. Which of them is bent?",
        "The gate. The other is multiplied with it as it is. Swap them, and a model that you train is as good; one that you load is not.",
        "`self.down(self.activation(self.gate(x)) * self.up(x))`.",
    ),
)
def check_gated_equals_torch(part: Part, rng: random.Random) -> None:
    for bias in (False, True):
        layer = drawn(tried("the layer can be built", part.GatedFeedForward, 4, 6, bias=bias), rng)
        kinds = ("weight", "bias") if bias else ("weight",)
        w = weights(layer, [f"{n}.{kind}" for n in ("gate", "up", "down") for kind in kinds])
        x = noise(rng, 2, 3, 4)
        gate, up = (F.linear(x, w[f"{n}.weight"], w.get(f"{n}.bias")) for n in ("gate", "up"))
        expected = F.linear(F.silu(gate) * up, w["down.weight"], w.get("down.bias"))
        close(tried("the layer runs", layer, x), expected, "down(silu(gate(x)) · up(x)), by torch's functions", given=f"bias={bias}")


# ── positions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "5 · Tables",
    hints=(
        "How many positions does the slowest pair of columns need for one turn?",
        "About 2π · 10,000: the exponent runs over 0, 2, 4 … C − 2, divided by C, so it ends just below 1.",
        "`base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)`; sines in even columns, cosines in odd ones.",
    ),
)
def check_sinusoids_follow_the_formula(part: Part, rng: random.Random) -> None:
    slow = [10_000 ** (-2 * i / 8) for i in range(4)]
    close(tried("the frequencies can be made", part.frequencies, 8), slow, "frequency i is 10000^(-2i/width)", given="width 8", rtol=1e-9)
    for width in (8, 6):
        expected = [[(math.cos if c % 2 else math.sin)(p / 10_000 ** ((c - c % 2) / width)) for c in range(width)] for p in range(9)]
        close(tried("the table can be made", part.sinusoids, 9, width), expected, "entry (p, c) of the table", given=f"9 positions, width {width}", atol=1e-6)
    table = tried("the positions can be built", part.Sinusoidal, 9, 6, 3)
    x = noise(rng, 1, 4, 6)
    close(tried("they are added", table.add, x, 5), x + torch.tensor(expected[5:9]), "rows 5 … 8 are added", given="T = 4, start = 5", atol=1e-6)
    equal(len(list(table.parameters())), 0, "fixed positions have nothing to learn")


@check(
    "5 · Tables",
    hints=(
        "What does a slice do that reaches past the end of a table?",
        "It returns fewer rows without a word, and one row is then broadcast over all positions. Take the rows so that a missing one is an error.",
        "`x + self.table.weight.narrow(0, start, x.shape[1])`.",
    ),
)
def check_learned_table_ends(part: Part, rng: random.Random) -> None:
    learned = drawn(tried("the positions can be built", part.Learned, 6, 4, 2), rng)
    (table,) = (p.detach() for p in learned.parameters())
    equal(tuple(table.shape), (6, 4), "one learned vector for each position")
    x = noise(rng, 2, 3, 4)
    close(tried("they are added", learned.add, x, 2), x + table[2:5], "rows 2, 3 and 4 are added", given="T = 3, start = 2")
    for start in (4, 5, 6):
        refuses(
            functools.partial(learned.add, x, start), Exception, "a position that the table does not have is an error", given=f"6 rows, T = 3, start = {start}"
        )


def turned(x: Tensor, start: int) -> Tensor:
    """The rotation of halves in complex numbers: a pair (i, i + D/2) is one number, multiplied by e^(i·angle)."""
    T, D = x.shape[-2:]
    angles = torch.outer(torch.arange(start, start + T, dtype=torch.float64), 10_000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D))
    z = torch.complex(x[..., : D // 2], x[..., D // 2 :]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], dim=-1)


@check(
    "6 · Rotation",
    hints=(
        "Which two numbers of a head form the pair that is turned: neighbours, or one from each half?",
        "One from each half: number i goes with number i + D/2. Both ways can be trained, but weights fit only one.",
        "`first, second = x.chunk(2, dim=-1)`; `torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)`.",
    ),
)
def check_halves_are_turned(part: Part, rng: random.Random) -> None:
    x = noise(rng, 2, 5, 8)
    angles = tried("the angles can be made", part.rotary_angles, 5, 8)
    expected = [[p * 10_000 ** (-2 * i / 8) for i in range(4)] for p in range(5)]
    close(angles, expected, "angle (p, i) is p · 10000^(-2i/D)", given="5 positions, D = 8")
    angles = torch.tensor(expected, dtype=torch.float64)
    close(tried("rotate runs", part.rotate, x, angles.cos(), angles.sin()), turned(x, 0), "rotate turns the pair (i, i + D/2)", given="T = 5, D = 8", atol=1e-9)
    rotary = tried("the positions can be built", part.Rotary, 20, 16, 8)
    rotate = tried("the rotation can be asked for", rotary.rotation, noise(rng, 1, 5, 16))
    found = tried("the rotation runs", rotate, x)
    close(found, turned(x, 0), "pair (i, i + D/2) is turned by p · 10000^(-2i/D)", given="x of T = 5, D = 8", atol=1e-5)
    close(found.norm(dim=-1), x.norm(dim=-1), "turning keeps the length", atol=1e-5)


@check(
    "6 · Rotation",
    hints=(
        "When the model writes token by token, which position does the only token of the batch have?",
        "`start`, not 0: take the angles from there.",
        "`angles = self.angles.narrow(0, start, x.shape[1])`.",
    ),
)
def check_rotation_starts_where_told(part: Part, rng: random.Random) -> None:
    rotary = tried("the positions can be built", part.Rotary, 20, 16, 8)
    for start in (0, 1, 7):
        x = noise(rng, 1, 3, 8)
        rotate = tried("the rotation can be asked for", rotary.rotation, noise(rng, 1, 3, 16), start)
        found = tried("the rotation runs", rotate, x)
        close(found, turned(x, start), "positions start … start + T - 1 are turned", given=f"T = 3, start = {start}", atol=1e-5)


# ── scores ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "7 · ALiBi",
    hints=(
        "Is the bias of a key far away larger or smaller than that of a near one?",
        "Smaller: minus the distance times the head's slope, and 0 at the query's own place. The queries are the last T of S positions.",
        "`distance = torch.arange(S) - torch.arange(S - T, S).unsqueeze(-1)`; `slopes.view(-1, 1, 1) * distance`.",
    ),
)
def check_alibi_falls_with_distance(part: Part, rng: random.Random) -> None:
    close(tried("the slopes can be made", part.alibi_slopes, 8), [2.0**-i for i in range(1, 9)], "the slopes of eight heads, as in the paper")
    close(tried("the slopes can be made", part.alibi_slopes, 2), [2.0**-4, 2.0**-8], "the slopes of two heads")
    for T, S in ((4, 4), (2, 5)):
        found = tried("the bias can be made", part.alibi_bias, 2, T, S)[:, :, : S - T + 1]
        expected = [[[m * (s - (S - T + t)) for s in range(S - T + 1)] for t in range(T)] for m in (2.0**-4, 2.0**-8)]
        close(found, expected, "minus slope · distance, of the keys that every query sees", given=f"{T} queries at the end of {S} keys")


@check(
    "8 · Soft cap",
    hints=(
        "A score far beyond the cap: what is the derivative there?",
        "Small, but not zero, so that it can still come back. A clamp has none.",
        "`cap * torch.tanh(x / cap)`.",
    ),
)
def check_cap_is_smooth(part: Part, rng: random.Random) -> None:
    x = torch.tensor([-90.0, -3.0, 0.0, 0.5, 60.0, 1e6], dtype=torch.float64, requires_grad=True)
    found = tried("the cap runs", part.soft_cap, x, 30.0)
    numbers = x.tolist()
    close(found, [30 * math.tanh(v / 30) for v in numbers], "cap · tanh(x / cap)", given=x)
    (slope,) = torch.autograd.grad(found.sum(), x)
    close(slope, [1 - math.tanh(v / 30) ** 2 for v in numbers], "the slope at each x: it fades, and is not cut off", given=x, rtol=1e-4)


# ── blocks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "9 · Post-norm",
    hints=(
        "Of what is the norm taken: of the branch, or of the sum?",
        "Of the sum. What leaves the block has just been normalised.",
        "`x = self.norm1(x + self.dropout(self.attention(x, …)))`, then the same with `norm2` and `feedforward`.",
    ),
)
def check_post_norm_equals_torch(part: Part, rng: random.Random) -> None:
    config = BlockConfig(attend=AttentionConfig(width=8, n_head=2), hidden=12, activation="gelu")
    block = drawn(tried("the block can be built", part.PostNormBlock, config), rng)
    theirs = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu", batch_first=True, dtype=torch.float64)
    names = {"self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.output.", "linear1.": "feedforward.up.", "linear2.": "feedforward.down."}
    names |= {"norm1.": "norm1.", "norm2.": "norm2."}
    w = weights(block, [f"{ours}{kind}" for ours in names.values() for kind in ("weight", "bias")])
    theirs.load_state_dict({f"{name}{kind}": w[f"{ours}{kind}"] for name, ours in names.items() for kind in ("weight", "bias")})
    x = noise(rng, 2, 5, 8)
    expected = theirs(x, src_mask=torch.ones(5, 5, dtype=torch.bool).triu(1), is_causal=True)
    close(tried("the block runs", block, x), expected, "the block is torch's TransformerEncoderLayer with norm_first=False", given="B 2, T 5, C 8", atol=1e-9)


LINEAR = ["attention.query", "attention.key", "attention.value", "attention.output", "feedforward.gate", "feedforward.up", "feedforward.down"]


def torch_llama_block(x: Tensor, w: dict[str, Tensor], heads: int, epsilon: float, start: int) -> Tensor:
    """Llama's block from torch's functions."""

    def norm(h: Tensor, name: str) -> Tensor:
        return F.rms_norm(h, (h.shape[-1],), w[f"{name}.weight"], epsilon)

    def linear(h: Tensor, name: str) -> Tensor:
        return F.linear(h, w[f"{name}.weight"])

    h = norm(x, "norm1")
    q, k, v = (linear(h, f"attention.{n}").view(*h.shape[:2], heads, -1).transpose(1, 2) for n in ("query", "key", "value"))
    mixed = F.scaled_dot_product_attention(turned(q, start), turned(k, start), v, is_causal=True)
    x = x + linear(mixed.transpose(1, 2).flatten(2), "attention.output")
    h = norm(x, "norm2")
    return x + linear(F.silu(linear(h, "feedforward.gate")) * linear(h, "feedforward.up"), "feedforward.down")


@check(
    "10 · The Llama block",
    hints=(
        "Compare with GPT-2's block. What is different, and what is the same?",
        "The order is the same: norm, branch, add, twice. The norm is RMSNorm, the feed-forward layer is gated, and queries and keys, not values, are turned.",
        "`x = x + self.attention(self.norm1(x), mask=mask, rotate=rotate, cache=cache)`; `return x + self.feedforward(self.norm2(x))`.",
    ),
)
def check_llama_block_equals_llama(part: Part, rng: random.Random) -> None:
    config = BlockConfig(attend=AttentionConfig(width=8, n_head=2, bias=False, fused_qkv=False), hidden=12, epsilon=1e-2)
    block = drawn(tried("the block can be built", part.LlamaBlock, config), rng)
    w = weights(block, [f"{name}.weight" for name in (*LINEAR, "norm1", "norm2")])
    rotary = tried("the positions can be built", part.Rotary, 20, 8, 4)
    for start in (0, 9):
        x = noise(rng, 2, 5, 8)
        rotate = tried("the rotation can be asked for", rotary.rotation, x, start)
        expected = torch_llama_block(x, w, 2, 1e-2, start)
        found = tried("the block runs", block, x, rotate=rotate)
        close(found, expected, "the block equals Llama's, made of torch's own functions", given=f"B 2, T 5, C 8, start = {start}", atol=1e-5)
    with torch.no_grad():
        for name, p in block.named_parameters():
            if name in ("attention.output.weight", "feedforward.down.weight"):
                p.zero_()
    close(tried("the block runs", block, x, rotate=rotate), x, "with both branches silenced the residual stream passes unchanged", atol=1e-12)


CHECKS: tuple[Check, ...] = (
    check_layer_norm_equals_torch,
    check_rms_norm_equals_torch,
    check_statistics_are_wide,
    check_activations_equal_torch,
    check_gated_equals_torch,
    check_sinusoids_follow_the_formula,
    check_learned_table_ends,
    check_halves_are_turned,
    check_rotation_starts_where_told,
    check_alibi_falls_with_distance,
    check_cap_is_smooth,
    check_post_norm_equals_torch,
    check_llama_block_equals_llama,
)
