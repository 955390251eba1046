"""Healthy runs for heads that share keys and values: exact properties, small models of each kind, one with another implementation's weights,
and one that is converted after training."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from underhood.base.config import get_part, part
from underhood.base.errors import CheckpointError
from underhood.base.rng import stream_seed
from underhood.infer.cache import KVCache, LayerCache, RollingCache, RollingLayer
from underhood.infer.sample import SampleConfig, generate_batch
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.lab.baselines.block import NEAR, exact, fit, ignores_shift, noise
from underhood.lab.baselines.block import SmallConfig as Fit
from underhood.lab.baselines.gpt import CORPUS, EXACT, LOSSES, UNIFORM, VOCABULARY, Curve, random_batches, tales, windows
from underhood.lab.probe import at_rest, is_causal, paths_differ
from underhood.nn.attention import AttentionConfig, LatentConfig
from underhood.nn.convert import is_shared, load_exact, to_groups
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.grouped import GroupedQueryAttention, pool_heads, share_heads, window_mask
from underhood.nn.init import fan_in, init_parameters
from underhood.nn.llama import llama
from underhood.train.loop import TrainConfig, Trainer
from underhood.train.loss import cross_entropy
from underhood.train.optim_config import OptimConfig
from underhood.train.schedule import ScheduleConfig
from underhood.train.validate import validation_loss

Found = Mapping[str, float | bool | str]


# ── parts, untrained ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """A layer of four heads that share two, and how far it sees."""

    width: int = 32
    n_head: int = 4
    n_kv_head: int = 2
    length: int = 12
    window: int = 4


def properties(config: PartsConfig, seed: int, watch: Watch) -> Found:
    """What holds exactly for correct parts, whatever the weights."""
    watch(0)
    with torch.no_grad():
        return {**of_groups(config, seed), **of_windows(config, seed), **of_pooling(config, seed)}


def layer_of(config: PartsConfig, seed: int, **options: Any) -> GroupedQueryAttention:
    """A grouped layer with random weights."""
    made = GroupedQueryAttention(AttentionConfig(**{"width": config.width, "n_head": config.n_head, "fused_qkv": False} | options))
    init_parameters(made, seed, fan_in)
    return made


def of_groups(config: PartsConfig, seed: int) -> dict[str, bool]:
    """Which head of queries reads which head of keys, and what a cache is given."""
    T, H, G = config.length, config.n_head, config.n_kv_head
    layer, x, cache = layer_of(config, seed, n_kv_head=G), noise(seed, "x", 2, T, config.width), LayerCache(T)
    q, k, v = (p(x).view(2, T, n, -1).transpose(1, 2) for p, n in ((layer.query, H), (layer.key, G), (layer.value, G)))
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
    steps = torch.cat([layer(piece, cache=cache) for piece in torch.split(x, 1, dim=1)], dim=1)
    return {
        "neighbours_share": share_heads(torch.arange(G).view(1, G, 1, 1), H).flatten().tolist() == [h * G // H for h in range(H)],
        "groups_equal_torch": paths_differ(layer(x), layer.output(theirs)) <= NEAR,
        "cached_equals_whole": paths_differ(steps, layer(x)) <= NEAR,
        "cache_holds_groups": cache.keys.shape[1] == G,
    }


def of_windows(config: PartsConfig, seed: int) -> dict[str, bool]:
    """How far a query sees, alone, behind a cache that forgets, and together with the caller's mask."""
    T, W = config.length, config.window
    layer, x, rolling = layer_of(config, seed, window=W), noise(seed, "x", 2, T, config.width), RollingLayer(W)
    steps = torch.cat([layer(piece, cache=rolling) for piece in torch.split(x, 1, dim=1)], dim=1)
    near = torch.ones(T, T, dtype=torch.bool).tril() & torch.ones(T, T, dtype=torch.bool).triu(1 - W)
    real = torch.ones(T, T, dtype=torch.bool)
    real[2:, 1] = False  # position 1 is hidden from those behind it
    weights = layer.look(x, mask=real)[1]
    return {
        "window_counts_itself": int((window_mask(T, T, W) & torch.ones(T, T, dtype=torch.bool).tril())[-1].sum()) == W,
        "window_ends_with_keys": torch.equal(window_mask(3, T, W), window_mask(T, T, W)[-3:]),
        "rolling_equals_whole": paths_differ(steps, layer(x)) <= NEAR,
        "masks_are_joined": weights is not None and bool(((weights > 0) == (near & real)).all()),
    }


def of_pooling(config: PartsConfig, seed: int) -> dict[str, bool]:
    """Of conversion: what survives it, and what is refused."""
    model = build_gpt(small(n_layer=1, n_head=config.n_head, width=config.width), seed)
    for name, weight in model.state_dict().items():
        if is_shared(name):
            heads = weight.view(config.n_kv_head, -1, config.width // config.n_head, config.width)
            heads.copy_(heads[:, :1].clone().expand_as(heads))
    ids = torch.arange(config.length).unsqueeze(0)
    few = GPT(dataclasses.replace(model.config, n_kv_head=config.n_kv_head))
    numbers = torch.arange(4.0).repeat_interleave(2).view(8, 1)  # head h is made of h
    return {
        "equal_heads_survive": paths_differ(to_groups(model, config.n_kv_head)(ids), model(ids)) <= NEAR,
        "pooled_is_the_mean": pool_heads(numbers, 4, 2).flatten().tolist() == [0.5, 0.5, 2.5, 2.5],
        "foreign_heads_are_refused": refused(few, model.state_dict()),
    }


def refused(model: GPT, state: Mapping[str, Tensor]) -> bool:
    """Whether weights of other shapes are a ``CheckpointError`` and leave the model as it was."""
    try:
        load_exact(model, state)
    except CheckpointError:
        return bool(model.tokens.weight.isnan().all())
    except Exception:
        return False
    return False


# ── trained on tales ──────────────────────────────────────────────────────────────────────────────────────────────────


def small(**changes: Any) -> GPTConfig:
    """Two Llama-shaped blocks of width 64 with four heads of 16."""
    sizes = {"vocab_size": VOCABULARY, "context": 64, "n_layer": 2, "n_head": 4, "width": 64, "hidden": 168, "tie": True, "init": "fan_in"}
    return llama(**sizes | {"attention": "underhood.nn.grouped:GroupedQueryAttention"} | changes)


LATENT = LatentConfig(kv_rank=16, rope_width=16, nope_width=16, value_width=16)  # 32 numbers a position: as many as one shared head has
KINDS: dict[str, dict[str, Any]] = {
    "many": {"n_kv_head": 4},
    "groups": {"n_kv_head": 2},
    "one": {"n_kv_head": 1},
    "latent": {"attention": "underhood.nn.latent:LatentAttention", "latent": LATENT},
}
SHORT = TrainConfig(steps=300, optim=OptimConfig(lr=6e-3), schedule=ScheduleConfig(warmup=30))


@dataclasses.dataclass(frozen=True, kw_only=True)
class KindConfig:
    """A small model of one kind of attention, trained on windows of half its context."""

    kind: Literal["many", "groups", "one", "latent"] = "many"
    near: int | None = None  # the sliding window, in positions
    hidden: int = 168
    train: TrainConfig = SHORT
    window: int = 32
    batch_size: int = 16
    check_windows: int = 128

    @property
    def model(self) -> GPTConfig:
        """The model's configuration."""
        return small(**KINDS[self.kind], window=self.near, hidden=self.hidden)

    @property
    def fit(self) -> Fit:
        """The same as the training of project 7 takes it."""
        return Fit(model=self.model, train=self.train, window=self.window, batch_size=self.batch_size)


def train_kind(config: KindConfig, seed: int, watch: Watch) -> Found:
    """Train, then measure the loss inside and beyond the trained length, exact properties, and what a cache holds."""
    model, late = fit(config.fit, seed, watch)
    (inside,) = windows(tales().val, config.window, config.check_windows)
    x, y = windows(tales().val, config.model.context, config.check_windows // 2)[0]
    with at_rest(model):
        beyond = cross_entropy(model(x)[:, config.window :], y[:, config.window :])
        return {
            "train_loss": late,
            "val_loss": validation_loss(model, [inside]),
            "beyond_loss": float(beyond),
            "causal": is_causal(model, x[:4]),
            "only_distance_counts": ignores_shift(model, x[:4, : config.window]),
            "order_is_felt": feels_order(model, x[:4, : config.window]),
            "cached_equals_whole": steps_equal_whole(model, x[:2, : config.window]),
            "cache_bytes": float(held_bytes(model, x[:1, : config.window])) / config.window,
            "parameters": float(sum(p.numel() for p in model.parameters())),
        }


def feels_order(model: GPT, ids: Int[Tensor, "B T"]) -> bool:
    """Whether the first layer's last output moves when all positions before it are put in reverse order."""
    with at_rest(model):
        x = model.tokens(ids)
        other = torch.cat([x[:, :-1].flip(1), x[:, -1:]], dim=1)
        rotate = model.positions.rotation(x)
        block: Any = model.blocks[0]
        ends = [block.attention(block.norm1(stream), rotate=rotate)[:, -1] for stream in (x, other)]
        return paths_differ(*ends) > 100 * NEAR


def cache_of(model: GPT, capacity: int) -> KVCache | RollingCache:
    """An empty cache that forgets what no window can see."""
    windows_of = [c.attend.window for c in model.config.block_configs]
    return RollingCache(windows_of, capacity) if any(windows_of) else KVCache(model.config.n_layer, capacity)


def steps_equal_whole(model: GPT, ids: Int[Tensor, "B T"]) -> bool:
    """Whether one token at a time with a cache gives the logits of all at once."""
    cache = cache_of(model, ids.shape[1])
    with at_rest(model):
        steps = torch.cat([model(piece, cache) for piece in torch.split(ids, 1, dim=1)], dim=1)
        return paths_differ(steps, model(ids)) <= 10 * NEAR


def held_bytes(model: GPT, ids: Int[Tensor, "B T"]) -> int:
    """The bytes that the caches of all layers hold after ``ids``."""
    cache = cache_of(model, ids.shape[1])
    with at_rest(model):
        model(ids, cache)
    return sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))


# ── weights of another implementation ─────────────────────────────────────────────────────────────────────────────────


FOREIGN = small(context=32, width=32, hidden=88, n_kv_head=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignConfig:
    """A model with shared heads written with torch's own functions, trained with torch's optimizer; ours then gets its weights."""

    model: GPTConfig = FOREIGN
    steps: int = 250
    batch_size: int = 12
    lr: float = 6e-3
    check_windows: int = 96


def load_foreign(config: ForeignConfig, seed: int, watch: Watch) -> Found:
    """Train the other implementation, load its weights into ours, and compare."""
    text = tales()
    weights = {name: p.detach().clone().requires_grad_() for name, p in build_gpt(config.model, seed).state_dict().items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=config.lr, weight_decay=0.0)
    batches = random_batches(text.train, config.model.context, config.batch_size, seed)
    for step in range(config.steps):
        x, y = batches.next()
        loss = F.cross_entropy(torch_grouped(x, weights, config.model).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        watch(step, loss=loss.item())
    model = GPT(config.model)
    load_exact(model, {name: w.detach() for name, w in weights.items()})
    ((x, y),) = windows(text.val, config.model.context, config.check_windows)
    with at_rest(model):
        theirs, ours = torch_grouped(x, weights, config.model), model(x)
    written = generate_batch(model, [text.tokenizer.encode("One day")], SampleConfig(max_tokens=24, temperature=0.0), torch.Generator().manual_seed(0))
    return {
        "their_loss": float(F.cross_entropy(theirs.flatten(0, 1), y.flatten())),
        "val_loss": float(cross_entropy(ours, y)),
        "logits_equal": paths_differ(ours, theirs) <= 1e-4,
        "same_choice": float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
        "causal": is_causal(model, x[:4]),
        "text": "One day" + text.tokenizer.decode(written[0]),
    }


def torch_grouped(ids: Int[Tensor, "B T"], w: Mapping[str, Tensor], config: GPTConfig) -> Float[Tensor, "B T V"]:
    """A Llama with shared heads from torch's own functions: its kernel shares them (``enable_gqa``), its rotation is in complex numbers of halves."""
    x = w["tokens.weight"][ids]
    T, D = ids.shape[1], config.head_width
    angles = torch.outer(torch.arange(T), 10_000.0 ** (-torch.arange(0, D, 2) / D))
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotated(h: Tensor) -> Tensor:
        turned = torch.complex(h[..., : D // 2], h[..., D // 2 :]) * turn
        return torch.cat([turned.real, turned.imag], dim=-1)

    for i in range(config.n_layer):
        at = {name.removeprefix(f"blocks.{i}."): p for name, p in w.items() if name.startswith(f"blocks.{i}.")}
        h = F.rms_norm(x, (config.width,), at["norm1.weight"], config.epsilon)
        q, k, v = (F.linear(h, at[f"attention.{n}.weight"]).view(*h.shape[:2], -1, D).transpose(1, 2) for n in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
        x = x + F.linear(mixed, at["attention.output.weight"])
        h = F.rms_norm(x, (config.width,), at["norm2.weight"], config.epsilon)
        bent = F.silu(F.linear(h, at["feedforward.gate.weight"])) * F.linear(h, at["feedforward.up.weight"])
        x = x + F.linear(bent, at["feedforward.down.weight"])
    return F.rms_norm(x, (config.width,), w["norm.weight"], config.epsilon) @ w["tokens.weight"].T


# ── converted after training ──────────────────────────────────────────────────────────────────────────────────────────


MORE = TrainConfig(steps=30, optim=OptimConfig(lr=3e-3), schedule=ScheduleConfig(warmup=3))  # a tenth of the training


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """A model with four heads of keys and values is trained, converted to ``n_kv_head``, and trained on for a short while."""

    small: KindConfig = KindConfig()
    n_kv_head: int = 2
    pool: str = part("underhood.nn.grouped", "pool_heads")
    more: TrainConfig = MORE


def convert(config: ConvertConfig, seed: int, watch: Watch) -> Found:
    """The held-out loss before conversion, right after it, and after the short training; and of the unconverted model after the same training."""
    model, late = fit(config.small.fit, seed, watch)
    text, T = tales(), config.small.window
    held_out = windows(text.val, T, config.small.check_windows)
    few = to_groups(model, config.n_kv_head, get_part(config, "pool"))
    before, after, size = validation_loss(model, held_out), validation_loss(few, held_out), key_size(few) / key_size(model)
    for one in (model, few):
        batches = random_batches(text.train, T, config.small.batch_size, stream_seed(seed, "more"))
        Trainer(one, config.more, batches, callbacks=[Curve()]).run()
    healed = validation_loss(few, held_out)
    return {
        "train_loss": late,
        "before_loss": before,
        "converted_loss": after,
        "val_loss": healed,
        "unconverted_loss": validation_loss(model, held_out),
        "conversion_cost": after - before,
        "size_kept": size,
        "causal": is_causal(few, held_out[0][0][:4]),
        "cached_equals_whole": steps_equal_whole(few, held_out[0][0][:2]),
        "parameters": float(sum(p.numel() for p in few.parameters())),
    }


def key_size(model: GPT) -> float:
    """The root mean square of all numbers in the matrices of keys."""
    return float(torch.cat([w.flatten() for name, w in model.state_dict().items() if name.endswith("attention.key.weight")]).square().mean().sqrt())


def first_head(weight: Float[Tensor, "HD C"], n_head: int, n_kv_head: int) -> Float[Tensor, "GD C"]:
    """The first head of each group, in place of their mean."""
    heads = weight.view(n_kv_head, n_head // n_kv_head, len(weight) // n_head, *weight.shape[1:])
    return heads[:, 0].flatten(0, 1)


def random_heads(weight: Float[Tensor, "HD C"], n_head: int, n_kv_head: int) -> Float[Tensor, "GD C"]:
    """New heads with numbers of the same deviation: nothing of the old ones is kept."""
    generator = torch.Generator().manual_seed(stream_seed(weight.numel(), "random heads"))
    like = first_head(weight, n_head, n_kv_head)
    return torch.randn(like.shape, generator=generator).to(like) * weight.std()


# ── what the figures mean ─────────────────────────────────────────────────────────────────────────────────────────────


PARTS = {
    "neighbours_share": exact("query head h reads key head h // (H/G)"),
    "groups_equal_torch": exact("a layer with shared heads is torch's kernel with enable_gqa"),
    "cached_equals_whole": exact("one position at a time with a cache gives what all at once gives"),
    "cache_holds_groups": exact("the cache holds G heads, not H"),
    "window_counts_itself": exact("a query sees itself and window - 1 positions before it"),
    "window_ends_with_keys": exact("the last queries see what they would see among all queries"),
    "rolling_equals_whole": exact("with a cache that keeps window - 1 positions the layer gives what it gives without"),
    "masks_are_joined": exact("a query sees what both the window and the caller's mask allow"),
    "equal_heads_survive": exact("where the heads that will share are equal, conversion changes no logit"),
    "pooled_is_the_mean": exact("a pooled head is the mean of neighbouring heads"),
    "foreign_heads_are_refused": exact("weights of another number of heads are a CheckpointError, and nothing is copied"),
}
SIZE = {
    "cache_bytes": Metric(says="bytes of cache a position, both layers, float32", floor=0.0, smallest=1, worst=1e6),
    "parameters": Metric(says="numbers that are learned", smallest=1, better="neither"),
}
KIND_METRICS = (
    LOSSES
    | SIZE
    | {
        "beyond_loss": Metric(
            says="loss at positions 33 to 64 after training on 32 (nats per token)", floor=0.714, ceiling=UNIFORM, smallest=0.05, worst=2 * UNIFORM
        ),
        "causal": EXACT["causal"],
        "only_distance_counts": exact("nothing changes when all positions are counted from another number"),
        "order_is_felt": exact("the first layer's last output moves when what came before is reversed"),
        "cached_equals_whole": exact("one token at a time with a cache gives the logits of all at once"),
    }
)
SAYS = "Two Llama-shaped blocks of width 64 and four heads, trained on 32 tokens of tales (BPE of 1,024) for 300 steps of 16 windows"

BASELINES = (
    Baseline(
        name="gqa.parts",
        says="Exact properties of shared heads, windows and conversion on random numbers. Nothing is trained.",
        run=properties,
        config=PartsConfig(),
        metrics=PARTS,
        seconds=0.1,
    ),
    Baseline(
        name="gqa.kinds",
        says=f"{SAYS}, each head with keys and values of its own.",
        run=train_kind,
        config=KindConfig(),
        metrics=KIND_METRICS,
        seconds=7,
        corpus=CORPUS,
    ),
    Baseline(
        name="gqa.tales",
        says=f"{SAYS}, two heads of queries to each head of keys and values.",
        run=train_kind,
        config=KindConfig(kind="groups"),
        metrics=KIND_METRICS,
        seconds=7,
        corpus=CORPUS,
    ),
    Baseline(
        name="gqa.latent",
        says=f"{SAYS}, with latent attention: 16 cached numbers for keys and values, and 16 rotated ones.",
        run=train_kind,
        config=KindConfig(kind="latent"),
        metrics=KIND_METRICS,
        seconds=8,
        corpus=CORPUS,
    ),
    Baseline(
        name="gqa.foreign",
        says="Two blocks of width 32 made of torch's own functions, four heads that share two, trained on tales for 250 steps; ours then runs on them.",
        run=load_foreign,
        config=ForeignConfig(),
        metrics={
            "val_loss": LOSSES["val_loss"],
            "their_loss": LOSSES["val_loss"],
            "logits_equal": exact("our logits are those of the other implementation"),
            "same_choice": Metric(
                says="share of positions where both think the same token likeliest", floor=1.0, ceiling=0.0, smallest=0.02, worst=0.0, better="higher"
            ),
            "causal": EXACT["causal"],
        },
        seconds=4,
        corpus=CORPUS,
    ),
    Baseline(
        name="gqa.converted",
        says=f"{SAYS}, each head with its own keys and values; then neighbours share one, the mean of the two, and 30 more steps are made.",
        run=convert,
        config=ConvertConfig(),
        metrics=LOSSES
        | {
            "before_loss": LOSSES["val_loss"],
            "converted_loss": Metric(
                says="held-out loss right after conversion (nats per token)", floor=0.714, ceiling=UNIFORM, smallest=0.05, worst=2 * UNIFORM
            ),
            "unconverted_loss": LOSSES["val_loss"],
            "conversion_cost": Metric(says="what conversion adds to the loss (nats per token)", floor=0.0, smallest=0.05, worst=UNIFORM),
            "size_kept": Metric(says="size of the numbers in the key matrices after conversion, over that before", smallest=0.02, better="neither"),
            "causal": EXACT["causal"],
            "cached_equals_whole": KIND_METRICS["cached_equals_whole"],
            "parameters": SIZE["parameters"],
        },
        seconds=9,
        corpus=CORPUS,
    ),
)
