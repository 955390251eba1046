"""What any correct cache satisfies. The oracles are torch's own functions that recompute everything, closed forms and numbers worked by hand."""

import dataclasses
import random
from typing import Any

import torch
from torch import Tensor

from underhood.base.errors import ConfigError, ShapeError
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, equal, holds, refuses, runs
from underhood.lab.oracles import noise, tried
from underhood.nn.attention import LatentConfig
from underhood.nn.gpt import GPTConfig
from underhood.projects.kv_cache.oracles import AGREES, CONFIGS, SMALL, attention, model, pair, tokens, whole
from underhood.projects.kv_cache.session_checks import SESSION_CHECKS

CUTS = ((0, 3), (3, 4), (4, 19), (19, 20), (20, 24))  # pieces of a text of 24 positions


def fed(layer: Any, k: Tensor, v: Tensor, a: int, b: int, given: str) -> tuple[Tensor, Tensor]:
    """What a layer gives back when positions ``a`` … ``b`` - 1 come in."""
    found: tuple[Tensor, Tensor] = runs(lambda: layer.extend(k[:, :, a:b], v[:, :, a:b]), "extend takes new positions", given=given)
    return found


# ── one layer ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "1 · One layer's cache",
    hints=(
        "Three positions come, then one. What does the layer need to see the second time: one key or four?",
        "Buffers of the full capacity are made once, when nothing is held. New positions are written behind the old; what is filled is given back.",
        "`self.keys[:, :, self.length : end] = k`, the same for values, `self.length = end`, `return self.keys[:, :, :end], self.values[:, :, :end]`.",
    ),
)
def check_what_goes_in_comes_out(part: Part, rng: random.Random) -> None:
    for dtype, width in ((torch.float64, 4), (torch.float32, 6), (torch.bfloat16, 4)):
        k, v = noise(rng, 2, 3, 24, 4, dtype=dtype), noise(rng, 2, 3, 24, width, dtype=dtype)
        layer = runs(lambda: part.LayerCache(24), "a layer's cache can be made")
        for a, b in CUTS:
            given = f"positions {a} to {b - 1} of 24, {str(dtype).removeprefix('torch.')}, keys of width 4, values of width {width}"
            found = fed(layer, k, v, a, b, given)
            pair(found, k[:, :, :b], v[:, :, :b], "extend gives back all positions so far", given=given)
            equal(layer.length, b, "length counts the positions that are held", given=given)
        equal(tuple(layer.values.shape), (2, 3, 24, width), "the buffers have room for the capacity", given="capacity 24")


@check(
    "1 · One layer's cache",
    hints=(
        "The buffers have `capacity` places. What if one more comes?",
        "Count before you write: a refusal must leave the cache as it was.",
        '`if self.length + k.shape[2] > self.capacity: raise ShapeError(…, expected=f"at most {self.capacity}")`, as the first thing.',
    ),
)
def check_capacity_is_kept(part: Part, rng: random.Random) -> None:
    k, v = noise(rng, 1, 2, 6, 4), noise(rng, 1, 2, 6, 4)
    layer = part.LayerCache(5)
    runs(lambda: layer.extend(k[:, :, :4], v[:, :, :4]), "four positions fit into five")
    refuses(lambda: layer.extend(k[:, :, 4:], v[:, :, 4:]), ShapeError, "more positions than the capacity are an error", given="capacity 5, 4 held, 2 come")
    equal(layer.length, 4, "what was refused is not counted", given="capacity 5, 4 held, 2 refused")
    found = runs(lambda: layer.extend(k[:, :, 4:5], v[:, :, 4:5]), "the capacity itself is no error", given="capacity 5, 4 held, 1 comes")
    pair(found, k[:, :, :5], v[:, :, :5], "after a refusal all is as before", given="capacity 5, 4 held, 2 refused, 1 comes")
    refuses(lambda: part.LayerCache(5).extend(k, v), ShapeError, "a first piece beyond the capacity is an error too", given="capacity 5, 6 come at once")


# ── all layers ────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "2 · A cache for the model",
    hints=(
        "The model asks its cache where the next token stands. Who knows?",
        "Every layer holds the same number of positions, so any layer's length will do, but they must be different layers.",
        "`self.layers = [LayerCache(capacity) for _ in range(n_layer)]`; `length` returns `self.layers[0].length`.",
    ),
)
def check_each_layer_has_its_own(part: Part, rng: random.Random) -> None:
    cache = runs(lambda: part.KVCache(3, 24), "a cache can be made", given="3 layers, capacity 24")
    layers = runs(lambda: list(cache.layers), "the cache has layers", given="3 layers, capacity 24")
    equal(len(layers), 3, "there is a cache for each layer", given="3 layers, capacity 24")
    kept = [(noise(rng, 1, 2, 24, 4), noise(rng, 1, 2, 24, 4)) for _ in range(3)]
    for a, b in CUTS:
        equal(cache.length, a, "length is the number of positions held: where the next token stands", given=f"{a} positions went into every layer")
        for i, (k, v) in enumerate(kept):
            given = f"layer {i} of 3, positions {a} to {b - 1}"
            found = fed(layers[i], k, v, a, b, given)
            pair(found, k[:, :, :b], v[:, :, :b], "a layer gives back its own positions", given=given)
    refuses(lambda: layers[2].extend(kept[0][0][:, :, :1], kept[0][1][:, :, :1]), ShapeError, "each layer has the given capacity", given="capacity 24, 24 held")


@check(
    "2 · A cache for the model",
    hints=(
        "A guess of five tokens turns out wrong after two. What must every layer forget?",
        "Nothing need be erased: what lies beyond `length` is not given back, and is written over.",
        "In the layer `self.length = min(length, self.length)`; in the cache, for every layer.",
    ),
)
def check_what_is_cut_back_is_forgotten(part: Part, rng: random.Random) -> None:
    cache, k, v = part.KVCache(3, 12), noise(rng, 1, 2, 12, 4), noise(rng, 1, 2, 12, 4)
    layers = list(cache.layers)
    for layer in layers:
        fed(layer, k, v, 0, 8, "positions 0 to 7")
    runs(lambda: cache.keep(20), "a cache can be asked to keep more than it holds", given="8 held, keep 20")
    equal([layer.length for layer in layers], [8, 8, 8], "keeping more than is held changes nothing", given="8 held, keep 20")
    runs(lambda: cache.keep(5), "a cache can be cut back", given="8 held, keep 5")
    equal([layer.length for layer in layers], [5, 5, 5], "every layer is cut back", given="3 layers, 8 held, keep 5")
    for i, layer in enumerate(layers):
        found = fed(layer, v, k, 8, 10, "8 held, 5 kept, 2 come")
        says = "what was cut off is gone, and the new stands in its place"
        pair(found, torch.cat([k[:, :, :5], v[:, :, 8:10]], 2), torch.cat([v[:, :, :5], k[:, :, 8:10]], 2), says, given=f"layer {i}: 8 held, 5 kept, 2 came")
    cache.keep(0)
    equal(cache.length, 0, "nothing need be kept", given="keep 0")
    for rows, heads, width, dtype in ((5, 2, 4, torch.float64), (5, 2, 4, torch.bfloat16), (5, 3, 4, torch.bfloat16), (5, 3, 6, torch.bfloat16)):
        given = f"keep(0), then {rows} texts, {heads} heads of {width} numbers, {str(dtype).removeprefix('torch.')}"
        other = noise(rng, rows, heads, 3, width, dtype=dtype)
        layers[0].keep(0)
        found = fed(layers[0], other, other, 0, 3, given)
        pair(found, other, other, "an emptied layer makes its buffers anew, for whatever comes first", given=given)


# ── prefill and decode ────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "3 · Prefill and decode",
    hints=(
        "The model takes a cache beside its ids. What does it give for a prompt of five tokens, and how much of that is needed?",
        "`model.hidden(ids, cache)` works through the new positions and leaves their keys and values in the cache. The head is for the last one only.",
        "`model.logits(model.hidden(ids, cache)[:, -1])`; for one token of each row, `ids` is `tokens.unsqueeze(-1)`.",
    ),
)
def check_cached_equals_recomputed(part: Part, rng: random.Random) -> None:
    for words, config in CONFIGS.items():
        given_model, ids = model(rng, config), tokens(rng, 2, 24)
        expected, cache = whole(given_model, ids), part.KVCache(config.n_layer, 24)
        for a, b in ((0, 7), (7, 12)):
            given = f"{words}, two texts, ids {a} to {b - 1}"
            found = tried("prefill runs", part.prefill, given_model, ids[:, a:b], cache, given=given)
            alike(found, expected[:, b - 1], "prefill gives the logits after the last id, as if all were recomputed", given=given, atol=AGREES)
            equal(cache.length, b, "prefill leaves the positions in the cache", given=given)
            holds(not found.requires_grad, "nothing is kept for a backward pass", given=given)
        for t in range(12, 24):
            given = f"{words}, two texts, the token of position {t}"
            found = tried("decode runs", part.decode, given_model, ids[:, t], cache, given=given)
            alike(found, expected[:, t], "decode gives the logits after one more token, as if all were recomputed", given=given, atol=AGREES)
        equal(cache.length, 24, "decode adds one position", given=f"{words}, after 12 steps")
        holds(not found.requires_grad, "nothing is kept for a backward pass", given=words)


@check(
    "3 · Prefill and decode",
    hints=(
        "Which token comes first: one from the prompt's logits, or one from decode?",
        "The prompt's logits already choose the first new token. After the last one nothing need be computed.",
        "`count` times: logits by `prefill(model, ids, cache)` at first, by `decode(model, tokens, cache)` later; yield `tokens = logits.argmax(-1)`.",
    ),
)
def check_a_thousand_tokens_are_exact(part: Part, rng: random.Random) -> None:
    long = model(rng, dataclasses.replace(CONFIGS["three Llama blocks"], context=1004, n_layer=2))
    prompt = tokens(rng, 1, 5)
    written = runs(lambda: list(part.continue_greedily(long, prompt, 1000)), "a thousand tokens can be written", given="context 1004, a prompt of 5")
    equal(len(written), 1000, "there are as many tokens as were asked for, and none is computed after the last", given="context 1004, a prompt of 5")
    text = torch.cat([prompt, torch.stack(written, dim=1)], dim=1)
    likeliest = whole(long, text[:, :-1])[:, 4:].argmax(-1)
    wrong = (likeliest != text[:, 5:])[0].nonzero()
    says = "each token is the likeliest after all before it, recomputed from nothing"
    holds(
        len(wrong) == 0,
        says,
        given="1,000 tokens after 5",
        expected="no other",
        found=f"the first other one is token {int(wrong[0]) + 1}" if len(wrong) else "",
    )
    for rows, count in ((2, 0), (3, 1), (2, 6)):
        small, few = model(rng, CONFIGS["three Llama blocks"]), tokens(rng, rows, 4)
        given = f"{rows} texts, {count} tokens each"
        found = runs(lambda: list(part.continue_greedily(small, few, count)), "several texts can be written at once", given=given)  # noqa: B023
        equal([tuple(t.shape) for t in found], [(rows,)] * count, "count times there is one token of each row, and for a count of 0 never", given=given)
        text = torch.cat([few, *(t[:, None] for t in found)], dim=1)
        every = whole(small, text)[:, 3:-1].argmax(-1)
        equal(text[:, 4:].tolist(), every.tolist(), "every row gets its own likeliest tokens", given=given)


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "4 · What it costs",
    hints=(
        "How many numbers does one position leave in one layer?",
        "A key and a value for each of G heads, D numbers each. Times positions, layers, texts, bytes. A window keeps window - 1 positions at most.",
        "Sum `min(length, window - 1)` (or `length`) over `config.block_configs`, times 2·G·D (latent: kv_rank + rope_width), times batch, times itemsize.",
    ),
)
def check_bytes_are_counted(part: Part, rng: random.Random) -> None:
    grouped: dict[str, Any] = {"attention": "underhood.nn.grouped:GroupedQueryAttention", "positions": "underhood.nn.rope:ScaledRotary", "fused_qkv": False}
    wide = LatentConfig(kv_rank=12, rope_width=6, nope_width=8, value_width=5)
    plain = GPTConfig(**SMALL)
    rolling = dataclasses.replace(plain, **grouped, n_kv_head=2, window=9, window_from=1)
    latent = dataclasses.replace(plain, attention="underhood.nn.latent:LatentAttention", fused_qkv=False, latent=wide)
    cases: tuple[tuple[str, GPTConfig, dict[str, Any], int], ...] = (
        ("3 layers, 4 heads of 8, 10 positions, float32", plain, {"length": 10}, 3 * 10 * 2 * 4 * 8 * 4),
        ("the same in 2 bytes a number, 5 texts", plain, {"length": 10, "itemsize": 2, "batch": 5}, 5 * 3 * 10 * 2 * 4 * 8 * 2),
        ("2 heads of keys and values", dataclasses.replace(plain, **grouped, n_kv_head=2), {"length": 10}, 3 * 10 * 2 * 2 * 8 * 4),
        ("1 head of keys and values, of width 20", dataclasses.replace(plain, **grouped, n_kv_head=1, head_dim=20), {"length": 10}, 3 * 10 * 2 * 20 * 4),
        ("2 heads of keys, a window of 9 in 2 of 3 layers, 30 positions", rolling, {"length": 30}, (30 + 8 + 8) * 2 * 2 * 8 * 4),
        ("the same, 5 positions", rolling, {"length": 5}, 15 * 2 * 2 * 8 * 4),
        ("latent attention, 12 + 6 numbers a position", latent, {"length": 10}, 3 * 10 * 18 * 4),
    )
    for given, config, options, expected in cases:
        equal(
            tried("the bytes can be counted", part.cache_bytes, config, given=given, **options),
            expected,
            "the bytes are those of what is kept",
            given=given,
        )


# ── static and rolling ────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "5 · One shape for all steps",
    hints=(
        "A compiler wants the same shape at every step. Where do the newest keys stand, so that the causal mask still fits?",
        "Always at the end: drop as many places in front as come in. What is not filled must be masked, since a key of zero has score 0, not -inf.",
        "`torch.cat([old[:, :, T:], new], dim=2)`; filled: `torch.arange(capacity) >= capacity - length - coming`.",
    ),
)
def check_one_shape_for_all_steps(part: Part, rng: random.Random) -> None:
    cache, k, v = part.StaticCache(2, 9), noise(rng, 2, 3, 9, 4), noise(rng, 2, 3, 9, 6)
    layers = runs(lambda: list(cache.layers), "the static cache has layers")
    equal(len(layers), 2, "there is a layer for each layer", given="2 layers, capacity 9")
    layers.append(part.StaticLayer(9))
    for a, b in ((0, 4), (4, 5), (5, 7), (7, 9)):
        given = f"capacity 9, positions {a} to {b - 1}"
        equal(cache.length, a, "length is the number of positions held", given=f"{a} positions went in")
        seen = tried("the cache says what will be filled", cache.filled, b - a, given=given)
        equal(seen.tolist(), [False] * (9 - b) + [True] * b, "what is held, and what comes, stands at the end", given=given)
        q = noise(rng, 2, 3, 1, 4)
        for layer in layers:
            keys, values = fed(layer, k, v, a, b, given)
            equal((tuple(keys.shape), tuple(values.shape)), ((2, 3, 9, 4), (2, 3, 9, 6)), "the shape is that of the capacity, always", given=given)
            says = "a query that sees what is filled gets what it gets from the positions alone"
            alike(attention(q, keys, values, seen), attention(q, k[:, :, :b], v[:, :, :b]), says, given=given, atol=AGREES)
            pair((keys[:, :, 9 - b :], values[:, :, 9 - b :]), k[:, :, :b], v[:, :, :b], "positions stand in order, the newest last", given=given)
            holds(not keys[:, :, : 9 - b].any() and not values[:, :, : 9 - b].any(), "what is not filled is zero", given=given)
    refuses(
        lambda: layers[0].extend(k[:, :, :1], v[:, :, :1]), ShapeError, "more positions than the capacity are an error", given="capacity 9, 9 held, 1 comes"
    )
    equal(layers[0].length, 9, "what was refused is not counted", given="capacity 9, 9 held, 1 refused")
    layer, k, v = part.StaticLayer(9), k.bfloat16(), v.bfloat16()
    for a, b in ((0, 4), (4, 5)):
        given = f"capacity 9, positions {a} to {b - 1}, bfloat16"
        keys, values = fed(layer, k, v, a, b, given)
        pair((keys[:, :, 9 - b :], values[:, :, 9 - b :]), k[:, :, :b], v[:, :, :b], "positions stand in order, the newest last", given=given)


@check(
    "6 · A window that rolls",
    hints=(
        "With a window of 4 a query sees itself and three before it. How many must be kept for it?",
        "window - 1: with the new one they are the window. A prompt that comes at once needs all its keys, so give back all, and keep the end.",
        "Join kept and new; `first = max(0, S - (window - 1))`; keep a copy from `first` on (a view would hold all in memory); return what was joined.",
    ),
)
def check_the_window_rolls(part: Part, rng: random.Random) -> None:
    k, v = noise(rng, 2, 3, 24, 4), noise(rng, 2, 3, 24, 6)
    for window in (5, 1, 40):
        cache = runs(lambda: part.RollingCache([None, window], 24), "a rolling cache can be made", given=f"windows (none, {window})")  # noqa: B023
        layers = list(cache.layers)
        equal(len(layers), 2, "there is a layer for each layer", given=f"windows (none, {window})")
        lone = part.RollingLayer(window)
        for a, b in ((0, 7), *((t, t + 1) for t in range(7, 20)), (20, 24)):
            given = f"window {window}, positions {a} to {b - 1}"
            full = fed(layers[0], k, v, a, b, given)
            pair(full, k[:, :, :b], v[:, :, :b], "a layer without a window keeps everything", given=given)
            first = max(0, a - (window - 1))
            for rolling in (layers[1], lone):
                says = "a rolling layer gives back the window's past and all that is new"
                pair(fed(rolling, k, v, a, b, given), k[:, :, first:b], v[:, :, first:b], says, given=given)
            equal((cache.length, layers[1].length), (b, b), "length counts all that have been through, kept or not", given=given)
            kept = min(b, window - 1)
            equal((layers[1].keys.shape[2], layers[1].values.shape[2]), (kept, kept), "no more is kept than the next query can see", given=given)
    rolling, prompt, more = part.RollingLayer(4), noise(rng, 1, 1, 20, 4), noise(rng, 1, 1, 1, 4)
    given, end = "window 4, 20 positions of one head; their tensor is overwritten, and one position comes", prompt[:, :, 17:].clone()
    fed(rolling, prompt, prompt, 0, 20, given)
    prompt.zero_()
    found, joined = fed(rolling, more, more, 0, 1, given), torch.cat([end, more], dim=2)
    pair(found, joined, joined, "the end is kept as a copy, for a view holds the whole tensor in memory", given=given)
    refuses(lambda: part.RollingCache([None, None], 8), ConfigError, "where no layer has a window nothing rolls", given="windows (none, none)")
    full = next(iter(part.RollingCache([None, 3], 4).layers))
    refuses(lambda: full.extend(k[:, :, :5], v[:, :, :5]), ShapeError, "a layer without a window has the given capacity", given="capacity 4, 5 come")


CHECKS: tuple[Check, ...] = (
    check_what_goes_in_comes_out,
    check_capacity_is_kept,
    check_each_layer_has_its_own,
    check_what_is_cut_back_is_forgotten,
    check_cached_equals_recomputed,
    check_a_thousand_tokens_are_exact,
    check_bytes_are_counted,
    check_one_shape_for_all_steps,
    check_the_window_rolls,
    *SESSION_CHECKS,
)
