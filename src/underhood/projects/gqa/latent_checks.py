"""What any correct latent attention satisfies. The oracle is DeepSeek's layer out of torch's functions."""

import dataclasses
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from underhood.base.errors import ConfigError
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, equal, holds
from underhood.lab.oracles import Ends, equals, noise, refused, tried
from underhood.nn.attention import AttentionConfig
from underhood.projects.gqa.oracles import WIDE, WIDTH, deepseek, halves, latent, latent_shapes, weights, whole

STEP = "6 · Latent attention"


LATENT_BIASES: tuple[dict[str, Any], ...] = (
    {"bias": True, "epsilon": 0.1},
    {"bias": False},
    {"bias": True, "output_bias": False},
    {"bias": False, "qkv_bias": True},
)


def still(x: Tensor) -> Tensor:
    """No turn at all."""
    return x


@check(
    STEP,
    hints=(
        "Compare the widths: how many numbers does `kv_down` give, and what becomes of each?",
        "kv_rank numbers are normalised and make keys and values of all heads; rope_width numbers are one key, turned, that every head appends to its own.",
        "q = [its own | turned], k = [from kv_up | the turned key expanded to H heads], v from `kv_up`; then the kernel, `merge_heads` and `output`.",
    ),
)
def check_latent_equals_deepseek(part: Part, rng: random.Random) -> None:
    numbers = noise(rng, 2, 3, 7)
    for found, expected in zip(tried("cut runs", part.cut, numbers, 5, given="7 numbers, cut at 5"), torch.split(numbers, [5, 2], dim=-1), strict=True):
        alike(found, expected, "cut gives the first numbers, then the rest", given="7 numbers, cut at 5")
    for wide in (WIDE, dataclasses.replace(WIDE, q_rank=4)):
        for settings in LATENT_BIASES:
            layer, config = latent(part, rng, wide, **settings)
            given, x = f"{wide}, {settings}", noise(rng, 2, 5, WIDTH).requires_grad_()
            w = weights(layer, latent_shapes(config), given)
            expected = deepseek(w, config, x, halves(0))
            found = whole(layer, x, given, rotate=halves(0))
            holds(not equals(found, deepseek(w, config, x, still)), "rotate is ignored: nothing tells the layer where its keys stand", given=given)
            alike(found, expected, "the layer is DeepSeek's, out of torch's functions", given=given, atol=1e-9)
            mine, theirs = (tried("the gradient reaches x", torch.autograd.grad, y.square().sum(), x)[0] for y in (found, expected))
            alike(mine, theirs, "the gradient at the input is that of DeepSeek's", given=given, atol=1e-9)
            alike(whole(layer, x, given), deepseek(w, config, x, still), "without rotate nothing is turned", given=given, atol=1e-9)


@check(
    STEP,
    hints=(
        "Count all positions from another number. What may change?",
        "Nothing: two turned vectors compare by their distance. A matrix between the turn and the product spoils that: turn what no matrix will touch again.",
        "`placed(q_turned, k_turned, latent, rotate, cache)`: the queries' last rope_width numbers and the shared key are turned, the latent is not.",
    ),
)
@torch.no_grad()
def check_only_the_distance_counts(part: Part, rng: random.Random) -> None:
    layer, _ = latent(part, rng, dataclasses.replace(WIDE, kv_rank=4))
    x, given = noise(rng, 2, 6, WIDTH), "6 positions counted from 0, and from 9"
    found = [tried("the layer runs", layer, x, rotate=halves(start), given=given) for start in (0, 9)]
    alike(found[1], found[0], "nothing changes when all positions are counted from another number", given=given, atol=1e-9)
    other = torch.cat([x[:, :-1].flip(1), x[:, -1:]], dim=1)
    ends = [tried("the layer runs", layer, y, rotate=halves(0))[:, -1] for y in (x, other)]
    holds(not equals(*ends), "the order of what came before is not felt: the numbers that carry the position are not turned", given="the past reversed")


@check(
    STEP,
    hints=(
        "What is the least that a position must leave behind, so that keys and values of all heads can be made again?",
        "Its latent vector and its turned key: kv_rank + rope_width numbers. What `kv_up` makes of them is made anew.",
        "First `placed`, which caches, then `kv_up` on all that the cache returns.",
    ),
)
@torch.no_grad()
def check_cache_holds_the_latent(part: Part, rng: random.Random) -> None:
    layer, config = latent(part, rng)
    x, given, cache = noise(rng, 2, 7, WIDTH), f"{WIDE}; pieces of 3, 1 and 3 positions", Ends()
    w = weights(layer, latent_shapes(config), given)
    expected = deepseek(w, config, x, halves(0))
    pieces = [tried("the layer takes a cache", layer, x[:, a:b], cache=cache, rotate=halves(a), given=given) for a, b in ((0, 3), (3, 4), (4, 7))]
    alike(torch.cat(pieces, 1), expected, "with a cache, in pieces, it gives what all at once gives", given=given, atol=1e-9)
    numbers = sum(t.numel() for t in (*cache.keys, *cache.values))
    equal(numbers, 2 * 7 * (WIDE.kv_rank + WIDE.rope_width), "the cache is given kv_rank + rope_width numbers a position", given=given)
    low = F.linear(x, w["kv_down.weight"], w.get("kv_down.bias"))[..., : WIDE.kv_rank]
    normed = F.rms_norm(low, (WIDE.kv_rank,), w["kv_norm.weight"], config.epsilon)
    alike(torch.cat(cache.values, 2), normed.unsqueeze(1), "the latent is normed, and then cached in the place of the values", given=given, atol=1e-9)


@check(
    STEP,
    hints=(
        "Which settings has this layer in common with the others, and which has it not?",
        "Mask, causality, kernel and dropout it has. Heads that share, norms of queries and keys, a window it has not: they must not be ignored in silence.",
        "`for field in ('n_kv_head', 'head_dim', 'qk_norm', 'qk_gain', 'window'): if getattr(config, field): raise ConfigError(…, where=field)`.",
    ),
)
@torch.no_grad()
def check_latent_keeps_to_its_settings(part: Part, rng: random.Random) -> None:
    mask = torch.tensor([True, False, True, True, True]) | torch.eye(5, dtype=torch.bool)
    x = noise(rng, 2, 5, WIDTH)
    for causal in (True, False):
        layer, config = latent(part, rng, causal=causal)
        w, given = weights(layer, latent_shapes(config), str(WIDE)), f"causal={causal}, position 1 hidden by the caller"
        expected = deepseek(w, config, x, halves(0), mask)
        alike(whole(layer, x, given, mask=mask, rotate=halves(0)), expected, "a query sees what causality and the caller allow", given=given, atol=1e-9)
    even, _ = latent(part, rng, kernel="underhood.projects.gqa.oracles:even")
    out, maps = tried("look returns (out, weights)", even.look, x)
    holds(maps is None, "what the kernel returns as weights, look returns", given="a kernel that keeps no weights", found=maps)
    alike(out, out[:, :1].expand(2, 5, WIDTH), "the kernel is the config's", given="a kernel that looks everywhere alike", atol=1e-9)
    dropped, config = latent(part, rng, dropout=0.5)
    dropped.train()
    dropped.dropout.generator = torch.Generator().manual_seed(1)
    _, before = tried("the layer runs while training", dropped.look, x)
    says = "while training, dropout acts on the weights inside the kernel"
    holds(not equals(dropped(x), deepseek(weights(dropped, latent_shapes(config), ""), config, x, still)), says, given="dropout=0.5")
    alike(before.sum(-1), torch.ones(2, 3, 5), "look returns the weights of each head, before dropout", given="dropout=0.5", atol=1e-9)
    refused(lambda: part.LatentAttention(AttentionConfig(width=WIDTH, n_head=3)), ConfigError, "without its widths it is a ConfigError", given="latent=None")
    for field, value in (("n_kv_head", 1), ("head_dim", 4), ("qk_norm", True), ("qk_gain", True), ("window", 3)):
        config = AttentionConfig(**{"width": WIDTH, "n_head": 3, "latent": WIDE, field: value})  # type: ignore[arg-type]
        refused(lambda c=config: part.LatentAttention(c), ConfigError, "a setting that it does not know is a ConfigError", given=f"{field}={value}")  # type: ignore[misc]


LATENT_CHECKS: tuple[Check, ...] = (
    check_latent_equals_deepseek,
    check_only_the_distance_counts,
    check_cache_holds_the_latent,
    check_latent_keeps_to_its_settings,
)
