"""Healthy runs for the key-value cache: what must be exact on random weights, and a small trained model that reads and writes with its cache."""

import dataclasses
import random
import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from underhood.base.errors import ShapeError
from underhood.base.rng import stream_seed
from underhood.infer.cache import KVCache, RollingCache, StaticCache, cache_bytes
from underhood.infer.forward import hidden_static
from underhood.infer.session import Session, continue_greedily, decode, prefill
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.lab.baselines.gpt import CORPUS, UNIFORM, VOCABULARY, Curve, random_batches, tales, windows
from underhood.lab.probe import at_rest
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.llama import llama
from underhood.nn.rope import RopeConfig
from underhood.train.loop import TrainConfig, Trainer
from underhood.train.optim_config import OptimConfig
from underhood.train.schedule import ScheduleConfig

Found = Mapping[str, float | bool | str]
GROUPED: dict[str, Any] = {"attention": "underhood.nn.grouped:GroupedQueryAttention", "positions": "underhood.nn.rope:ScaledRotary", "rope": RopeConfig()}
LATE = RopeConfig(kind="dynamic", factor=2.0, original_context=64)  # up to the context it turns as any other
NEAR = 1e-9  # float64: rounding in another order

# ── exact ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

TINY = llama(vocab_size=64, context=1008, n_layer=2, n_head=4, width=32, init="fan_in", **GROUPED, n_kv_head=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactConfig:
    """A tiny model of random weights in float64; four heads of queries share two of keys."""

    model: GPTConfig = TINY
    written: int = 1000
    window: int = 9
    length: int = 40


def exact_run(config: ExactConfig, seed: int, watch: Watch) -> Found:
    """Every way through a cache beside the whole text at once."""
    model, narrow = (build_gpt(c, seed).double().eval() for c in (config.model, dataclasses.replace(config.model, window=config.window)))
    watch(0)
    ids = torch.randint(config.model.vocab_size, (2, config.length), generator=torch.Generator().manual_seed(stream_seed(seed, "ids")))
    with at_rest(model), at_rest(narrow):
        cached, static = KVCache(config.model.n_layer, config.length), StaticCache(config.model.n_layer, config.length + 3)
        rolling = RollingCache([config.window] * config.model.n_layer, config.length)
        return {
            "cached_error": far(stepped(model, ids, 7, cached), model(ids)),
            "static_error": far(statically(model, ids, 7, static), model(ids)),
            "rolling_error": far(stepped(narrow, ids, 7, rolling), narrow(ids)),
            "back_error": far(cut_back(model, ids), model(ids)[:, 20:]),
            "thousand_tokens_alike": thousand(model, ids[:1, :3], config.written),
            "prompts_alike": prompts_alike(model, seed),
            "bytes_counted": held_bytes(cached) == cache_bytes(config.model, config.length, itemsize=8, batch=2),
            "too_many_refused": refuses_more(model, ids),
        }


def far(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference."""
    return float((found - expected).abs().max())


def stepped(model: GPT, ids: Int[Tensor, "B T"], first: int, cache: KVCache | RollingCache) -> Float[Tensor, "B T V"]:
    """Logits at all positions: the ``first`` at once, then one by one through the cache."""
    parts = [model(ids[:, :first], cache), *(model(ids[:, t : t + 1], cache) for t in range(first, ids.shape[1]))]
    return torch.cat(parts, dim=1)


def statically(model: GPT, ids: Int[Tensor, "B T"], first: int, cache: StaticCache) -> Float[Tensor, "B T V"]:
    """As ``stepped``, in buffers of one shape."""
    ends = [(0, first), *((t, t + 1) for t in range(first, ids.shape[1]))]
    return torch.cat([model.logits(hidden_static(model, ids[:, a:b], cache)) for a, b in ends], dim=1)


def cut_back(model: GPT, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
    """Logits from position 20 on, by a cache that was led astray there and cut back."""
    cache = KVCache(model.config.n_layer, model.config.context)
    model(ids[:, :20], cache)
    model((ids[:, 20:30] + 1) % model.config.vocab_size, cache)
    cache.keep(20)
    logits: Tensor = model(ids[:, 20:], cache)
    return logits


def thousand(model: GPT, prompt: Int[Tensor, "1 T"], count: int) -> bool:
    """Whether each of ``count`` tokens that were written with the cache is the likeliest after all before it, recomputed."""
    written = torch.stack(list(continue_greedily(model, prompt, count)), dim=1)
    return bool(torch.equal(model(torch.cat([prompt, written], dim=1))[:, prompt.shape[1] - 1 : -1].argmax(-1), written))


def prompts_alike(model: GPT, seed: int) -> bool:
    """Whether a conversation's prompts get what they get alone, as they go on, back, and another way."""
    session, draw, text = Session(model), random.Random(seed), list[int]()
    for _ in range(20):
        text = text[: draw.randrange(len(text) + 1)] + [draw.randrange(64) for _ in range(draw.randrange(1, 6))]
        if far(session.logits(text), model(torch.tensor([text]))[0, -1]) > NEAR:
            return False
    return True


def held_bytes(cache: KVCache) -> int:
    """The memory behind the buffers."""
    return sum(x.untyped_storage().nbytes() for layer in cache.layers for x in (layer.keys, layer.values))


def refuses_more(model: GPT, ids: Int[Tensor, "B T"]) -> bool:
    """Whether a position beyond the capacity is an error."""
    cache = KVCache(model.config.n_layer, 4)
    model(ids[:, :4], cache)
    try:
        model(ids[:, 4:5], cache)
    except ShapeError:
        return True
    return False


# ── trained ───────────────────────────────────────────────────────────────────────────────────────────────────────────

SMALL = llama(vocab_size=VOCABULARY, context=64, n_layer=2, n_head=2, width=64, hidden=168, tie=True, init="fan_in")
SHORT = TrainConfig(steps=120, optim=OptimConfig(lr=8e-3), schedule=ScheduleConfig(warmup=15))
POISONED = 16  # the position whose key ``one_key_corrupted`` spoils
MOVED = 0.01  # a position is poisoned when this much probability, or more, lies elsewhere


@dataclasses.dataclass(frozen=True, kw_only=True)
class TalesConfig:
    """A small Llama trained on tales, which then reads and writes with its cache."""

    model: GPTConfig = SMALL
    train: TrainConfig = SHORT
    batch_size: int = 8
    check_windows: int = 24
    prompt: int = 8
    written: int = 48


def tales_run(config: TalesConfig, seed: int, watch: Watch) -> Found:
    """Train, then everything twice: through the cache and without it."""
    text, curve = tales(), Curve(watch)
    model = build_gpt(config.model, seed)
    trainer = Trainer(model, config.train, random_batches(text.train, config.model.context, config.batch_size, seed), callbacks=[curve])
    for _ in range(config.train.steps // 2):
        trainer.step()
    older = {name: p.detach().clone() for name, p in model.state_dict().items()}
    trainer.run()
    ((x, y),) = windows(text.val, config.model.context, config.check_windows)
    with at_rest(model):
        found = {"train_loss": curve.late(), **reading(model, x, y, config.prompt), **writing(model, x[:8, : config.prompt], config.written)}
        told = text.tokenizer.decode(torch.cat(list(continue_greedily(model, x[:1, : config.prompt], 40))).tolist())
        return {**found, **talking(model, x, y), **reloading(model, older, x), "text": text.tokenizer.decode(x[0, : config.prompt].tolist()) + told}


def reading(model: GPT, x: Int[Tensor, "B T"], y: Int[Tensor, "B T"], prompt: int) -> dict[str, float | bool]:
    """A held-out text read through the cache, and read whole."""
    cache, whole = KVCache(model.config.n_layer, x.shape[1]), model(x)
    through = torch.stack([prefill(model, x[:, :prompt], cache), *(decode(model, x[:, t], cache) for t in range(prompt, x.shape[1]))], dim=1)
    whole, targets = whole[:, prompt - 1 :], y[:, prompt - 1 :]
    moved = torch.cat([torch.zeros(len(x), prompt - 1), variation(through, whole)], dim=1)
    near, far_off = moved[:, POISONED + 1 : POISONED + 9], moved[:, -16:]
    before, after = (float(F.cross_entropy(z.flatten(0, 1), targets.flatten())) for z in (whole, through))
    return {
        "val_loss": before,
        "cached_loss": after,
        "cache_cost": after - before,
        "logit_error": far(through, whole),
        "moved": float(moved[:, prompt - 1 :].mean()),
        "same_choice": float((through.argmax(-1) == whole.argmax(-1)).float().mean()),
        "poisoned_near": float((near > MOVED).float().mean()),
        "poisoned_far": float((far_off > MOVED).float().mean()),
        "moved_near": float(near.mean()),
        "moved_far": float(far_off.mean()),
        "first_part_alike": float(moved[:, :POISONED].max()) <= 1e-4,
        "prompt_alike": float(moved[:, prompt - 1].max()) <= 1e-4,
    }


def variation(found: Float[Tensor, "... V"], expected: Float[Tensor, "... V"]) -> Float[Tensor, "..."]:
    """How much probability lies elsewhere: half the sum of |p - q|."""
    return (found.softmax(-1) - expected.softmax(-1)).abs().sum(-1) / 2


def writing(model: GPT, prompts: Int[Tensor, "B T"], count: int) -> dict[str, float]:
    """Greedy texts with the cache and without: how many tokens they begin with alike, and how fast each came."""
    start = time.perf_counter()
    cached = torch.stack(list(continue_greedily(model, prompts, count)), dim=1)
    middle, whole = time.perf_counter(), prompts
    for _ in range(count):
        whole = torch.cat([whole, model(whole)[:, -1:].argmax(-1)], dim=1)
    end = time.perf_counter()
    alike = (cached == whole[:, prompts.shape[1] :]).long().cumprod(-1).sum(-1)
    return {
        "alike_tokens": float(alike.float().mean()),
        "cached_tokens_per_s": cached.numel() / (middle - start),
        "whole_tokens_per_s": cached.numel() / (end - middle),
    }


def talking(model: GPT, x: Int[Tensor, "B T"], y: Int[Tensor, "B T"]) -> dict[str, float | bool]:
    """One session, prompts that have nothing to do with each other: what the token after each costs, beside a fresh start."""
    session, costs = Session(model), []
    for row, target in zip(x[:24, :40], y[:24, 39], strict=True):
        here, alone = session.logits(row.tolist()), model(row[None])[0, -1]
        costs.append(float(F.cross_entropy(here, target) - F.cross_entropy(alone, target)))
    return {"talk_cost": sum(costs) / len(costs), "talk_alike": max(map(abs, costs)) <= 1e-4}


def reloading(model: GPT, older: Mapping[str, Tensor], x: Int[Tensor, "B T"]) -> dict[str, float | bool]:
    """Sessions whose model gets the weights of half the training before the next token: how much probability lies elsewhere than after a fresh start."""
    newer, moved = {name: p.detach().clone() for name, p in model.state_dict().items()}, []
    for row in x[:24, :41]:
        model.load_state_dict(newer)
        session = Session(model)
        session.logits(row[:40].tolist())
        model.load_state_dict(older)
        moved.append(float(variation(session.logits(row.tolist()), model(row[None])[0, -1])))
    model.load_state_dict(newer)
    return {"reload_moved": sum(moved) / len(moved), "reload_alike": max(moved) <= 1e-4}


# ── what the figures mean ─────────────────────────────────────────────────────────────────────────────────────────────


def prop(says: str) -> Metric:
    """A property that holds or does not."""
    return Metric(says=says, better="neither")


def error(says: str) -> Metric:
    """A difference of float64 logits."""
    return Metric(says=f"largest difference of a logit, {says}", floor=0.0, smallest=1e-9, worst=1e3, tolerance=1e6)


def share(says: str, tolerance: float = 1e-4) -> Metric:
    """A share between 0 and 1, of which less is better."""
    return Metric(says=says, floor=0.0, ceiling=1.0, smallest=0.001, worst=1.0, tolerance=tolerance)


def speed(says: str) -> Metric:
    """Tokens a second: a time, and so never the same twice."""
    return Metric(says=says, smallest=1.0, better="higher", tolerance=1e3)


LOSS = Metric(says="loss on held-out tales (nats per token)", floor=0.714, ceiling=UNIFORM, smallest=0.01, worst=2 * UNIFORM)
TALES_METRICS = {
    "train_loss": dataclasses.replace(LOSS, says="mean training loss of the last steps (nats per token)", smallest=0.03),
    "val_loss": dataclasses.replace(LOSS, says="loss on held-out tales, read whole (nats per token)"),
    "cached_loss": dataclasses.replace(LOSS, says="loss on held-out tales, read through the cache (nats per token)"),
    "cache_cost": Metric(says="what reading through the cache adds to the loss (nats per token)", floor=0.0, smallest=0.001, worst=UNIFORM, tolerance=1e6),
    "logit_error": Metric(says="largest difference of a logit, cached against whole", floor=0.0, smallest=1e-4, worst=100.0, tolerance=1e6),
    "moved": share("share of the probability that lies elsewhere than without the cache, mean over positions", tolerance=1e6),
    "same_choice": Metric(says="share of positions with the same likeliest token", floor=1.0, ceiling=0.0, smallest=0.002, worst=0.0, better="higher"),
    "poisoned_near": share("share of positions 1 to 8 after the sixteenth where at least 0.01 of the probability lies elsewhere"),
    "poisoned_far": share("the same for the last 16 positions, 32 to 47 after it"),
    "moved_near": share("share of the probability that lies elsewhere, positions 1 to 8 after the sixteenth", tolerance=1e6),
    "moved_far": share("the same for the last 16 positions, 32 to 47 after it", tolerance=1e6),
    "alike_tokens": Metric(
        says="tokens of 48 that greedy texts begin with alike, with the cache and without", floor=48.0, ceiling=0.0, smallest=1.0, worst=0.0, better="higher"
    ),
    "talk_cost": Metric(
        says="what a session's earlier prompts add to the loss of the next token (nats)", floor=0.0, smallest=0.001, worst=UNIFORM, tolerance=1e6
    ),
    "reload_moved": share("share of the probability that lies elsewhere than after a fresh start, once the weights were exchanged", tolerance=1e6),
    "cached_tokens_per_s": speed("tokens a second written with the cache, eight texts at once"),
    "whole_tokens_per_s": speed("tokens a second written without it"),
    "first_part_alike": prop("the positions before the sixteenth get what they get without the cache"),
    "prompt_alike": prop("the token after the prompt gets what it gets without the cache"),
    "talk_alike": prop("every prompt of a session gets what it gets alone"),
    "reload_alike": prop("after the weights were exchanged a session gets what the new weights give"),
}

BASELINES = (
    Baseline(
        name="kv_cache.exact",
        says="Two blocks of random weights in float64, four query heads on two key heads: every kind of cache beside the whole text. Nothing is trained.",
        run=exact_run,
        config=ExactConfig(),
        metrics={
            "cached_error": error("cached against whole"),
            "static_error": error("buffers of one shape against whole"),
            "rolling_error": error("rolling window against whole"),
            "back_error": error("cut back to 20 positions and continued, against whole"),
            "thousand_tokens_alike": prop("a thousand tokens written with the cache are those of recomputation"),
            "prompts_alike": prop("prompts that go on, back and another way get what they get alone"),
            "bytes_counted": prop("the memory model counts the bytes that are there"),
            "too_many_refused": prop("a position beyond the capacity is an error"),
        },
        seconds=2,
    ),
    Baseline(
        name="kv_cache.tales",
        says="Two Llama blocks of width 64, trained on 64 tokens of tales (BPE of 1,024) for 120 steps of 8 windows; then it reads and writes with its cache.",
        run=tales_run,
        config=TalesConfig(),
        metrics=TALES_METRICS,
        seconds=4,
        corpus=CORPUS,
    ),
    Baseline(
        name="kv_cache.late",
        says="As kv_cache.tales, with a rotation that may change with the length: keys are cached before it, and turned when they are read.",
        run=tales_run,
        config=TalesConfig(model=dataclasses.replace(SMALL, **GROUPED | {"rope": LATE})),
        metrics=TALES_METRICS,
        seconds=5,
        corpus=CORPUS,
    ),
)
