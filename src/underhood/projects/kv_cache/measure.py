"""What a token costs with the cache and without: time over the length, beside the time in which the weights and the cache can be read from memory at all."""

import time
from typing import Any

import torch
from torch import Tensor

from underhood.infer.cache import KVCache, cache_bytes
from underhood.infer.session import decode, prefill
from underhood.lab.probe import at_rest
from underhood.lab.timing import best_of
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.llama import llama

SECONDS = 8  # about, on one thread
MODEL = llama(vocab_size=4096, context=2048, n_layer=6, n_head=8, width=512, hidden=1376, tie=True, init="fan_in", kernel="sdpa")
LENGTHS = (64, 256, 1024)
STEPS = 60  # decoded at each length
BYTES = 4  # of a float32


def measure(config: GPTConfig = MODEL, lengths: tuple[int, ...] = LENGTHS, steps: int = STEPS) -> dict[str, Any]:
    """One text, random weights in float32; units are in the names."""
    model, read = build_gpt(config, 0), read_gb_per_s()
    with at_rest(model):
        found = {f"T={T}": at_length(model, T, steps, read) for T in lengths}
    weights = weight_bytes(model)
    position = cache_bytes(config, 1)
    return {
        "read_gb_per_s": round(read, 1),
        "weights_mib": round(weights / 2**20, 1),
        "limit_ms": round(1e3 * weights / read / 1e9, 2),
        "cache_kib_per_position": position / 1024,
        "positions_as_large_as_the_weights": weights // position,
        **found,
    }


def at_length(model: GPT, T: int, steps: int, read: float) -> dict[str, float]:
    """The prompt at once, then ``steps`` tokens through the cache one by one; and the last token by recomputing all T before it."""
    ids = torch.randint(model.config.vocab_size, (1, T), generator=torch.Generator().manual_seed(0))
    cache = KVCache(model.config.n_layer, T + steps)
    start = time.perf_counter()
    tokens = prefill(model, ids, cache).argmax(-1)
    first = time.perf_counter() - start
    times = decoded(model, tokens, cache, steps)
    whole = best_of(lambda: model.logits(model.hidden(ids)[:, -1]))
    middle = percentile(times, 50)
    touched = weight_bytes(model) + cache_bytes(model.config, T)
    return {
        "prefill_ms": round(1e3 * first, 1),
        "decode_p50_ms": round(1e3 * middle, 2),
        "decode_p99_ms": round(1e3 * percentile(times, 99), 2),
        "cached_tokens_per_s": round(1 / middle, 1),
        "recomputed_tokens_per_s": round(1 / whole, 2),
        "speedup": round(whole / middle, 1),
        "bandwidth_share": round(touched / middle / 1e9 / read, 2),
        "formula_kib": cache_bytes(model.config, T + steps) / 1024,
        "held_kib": held_bytes(cache) / 1024,
    }


def decoded(model: GPT, tokens: Tensor, cache: KVCache, steps: int) -> list[float]:
    """Seconds of each of ``steps`` tokens."""
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        tokens = decode(model, tokens, cache).argmax(-1)
        times.append(time.perf_counter() - start)
    return times


def percentile(times: list[float], percent: int) -> float:
    """The smallest time that at least ``percent`` of all do not exceed."""
    return sorted(times)[-(-len(times) * percent // 100) - 1]


def weight_bytes(model: GPT) -> int:
    """All weights, each once: the tied embedding is read whole, as the head."""
    return sum(p.nbytes for p in model.parameters())


def held_bytes(cache: KVCache) -> int:
    """The memory behind the buffers."""
    return sum(x.untyped_storage().nbytes() for layer in cache.layers for x in (layer.keys, layer.values))


def read_gb_per_s(n: int = 1 << 26) -> float:
    """The sum of 256 MiB of float32."""
    numbers = torch.ones(n)
    return BYTES * n / best_of(numbers.sum) / 1e9
