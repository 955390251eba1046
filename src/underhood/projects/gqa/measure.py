"""What each kind of attention costs while a model writes: parameters, bytes of cache, tokens a second, beside the memory traffic that cannot be avoided."""

import dataclasses
import math
from typing import Any

import torch
import torch.nn.functional as F

from underhood.infer.cache import KVCache, RollingCache, cache_bytes
from underhood.lab.timing import best_of
from underhood.nn.attention import LatentConfig
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.grouped import share_heads
from underhood.nn.llama import llama

SECONDS = 4  # about, on one thread
HELD, WIDTH, HEADS, LAYERS = 2048, 256, 8, 4
LATENT = LatentConfig(kv_rank=64, rope_width=16, nope_width=32, value_width=32)
MANY = llama(vocab_size=1024, context=2 * HELD, n_layer=LAYERS, n_head=HEADS, width=WIDTH, hidden=680, tie=True, kernel="sdpa", init="fan_in")
MANY = dataclasses.replace(MANY, attention="underhood.nn.grouped:GroupedQueryAttention")
KINDS: dict[str, GPTConfig] = {
    "many": MANY,
    "groups": dataclasses.replace(MANY, n_kv_head=2),
    "one": dataclasses.replace(MANY, n_kv_head=1),
    "latent": dataclasses.replace(MANY, attention="underhood.nn.latent:LatentAttention", latent=LATENT),
    "near": dataclasses.replace(MANY, window=128),
}


def measure() -> dict[str, Any]:
    """One token of one text after 2,048 others, four layers of width 256 with eight heads, float32. The limit is reading weights and cache once."""
    settle()
    copied = copy_gb_per_s()
    found = {name: of_kind(config, copied) for name, config in KINDS.items()}
    return {"held": HELD, "width": WIDTH, "heads": HEADS, "layers": LAYERS, "copy_gb_per_s": round(copied, 2), **found, "looking": of_looking()}


def settle() -> None:
    """Take 28 MB once and give them back: from then on the C library keeps what is freed, instead of asking the system for new pages at every step."""
    torch.empty(7 * 2**20)


def of_kind(config: GPTConfig, copied: float) -> dict[str, float]:
    """One kind of attention."""
    model = build_gpt(config, 0).eval()
    parameters, held = sum(p.numel() for p in model.parameters()), cache_bytes(config, HELD)
    seconds = step_seconds(model)
    return {
        "parameters": parameters,
        "cache_kb": round(held / 1024),
        "cache_bytes_per_token": held // HELD,
        "step_ms": round(1e3 * seconds, 3),
        "tokens_per_s": round(1 / seconds),
        "limit_ms": round(1e3 * (4 * parameters + held) / copied / 1e9, 3),
    }


def step_seconds(model: GPT) -> float:
    """Seconds for one more token behind ``HELD`` cached ones."""
    cache, ids = filled(model), torch.zeros(1, 1, dtype=torch.long)

    def step() -> None:
        model(ids, cache)
        if isinstance(cache, KVCache):
            cache.keep(HELD)

    with torch.no_grad():
        return best_of(step)


def filled(model: GPT) -> KVCache | RollingCache:
    """A cache that holds random keys and values of ``HELD`` positions."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    wide, G, D = config.latent, config.n_kv_head or config.n_head, config.head_width
    shapes = [(1, G, HELD, D)] * 2 if wide is None else [(1, 1, HELD, wide.rope_width), (1, 1, HELD, wide.kv_rank)]
    cache = KVCache(config.n_layer, HELD + 1) if config.window is None else RollingCache([config.window] * config.n_layer, HELD)
    for layer in cache.layers:
        layer.extend(*(torch.randn(shape, generator=generator) for shape in shapes))
    return cache


def of_looking() -> dict[str, float]:
    """One query of each head over ``HELD`` keys in microseconds: 8 heads of keys; 2 that are repeated first; 2 that are read where they lie.

    The last way folds the queries that share a head of keys into rows of one product, so that nothing is copied.
    """
    D, G = WIDTH // HEADS, 2
    q, k, few = torch.randn(1, HEADS, 1, D), torch.randn(1, HEADS, HELD, D), torch.randn(1, G, HELD, D)

    def repeated() -> object:
        shared = share_heads(few, HEADS), share_heads(few, HEADS)
        return F.scaled_dot_product_attention(q, *shared)

    def folded() -> object:
        rows = q.view(1, G, HEADS // G, D)
        return ((rows @ few.mT / math.sqrt(D)).softmax(-1) @ few).view(1, HEADS, 1, D)

    times = {"many_us": lambda: F.scaled_dot_product_attention(q, k, k), "repeated_us": repeated, "folded_us": folded}
    return {name: round(1e6 * best_of(call), 1) for name, call in times.items()}


def copy_gb_per_s() -> float:
    """Bytes read and written per second when a tensor too large for the processor's cache is copied."""
    x = torch.zeros(16 * 2**20)
    y = torch.empty_like(x)
    return 2 * x.numel() * 4 / best_of(lambda: y.copy_(x)) / 1e9
