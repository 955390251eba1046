"""Healthy runs for texts beyond the trained length: exact properties of the frequencies and turns, and two small models that are trained short and read long.

One model reads tales, and its loss is looked at by position; the other keeps a ledger in which facts change, and is asked for the last of them.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from underhood.base.errors import ShapeError
from underhood.base.rng import stream_seed
from underhood.eval.needle import Ledger, loss_by_position
from underhood.infer.cache import KVCache
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.lab.baselines.gpt import CORPUS, EXACT, FLOOR, LOSSES, UNIFORM, VOCABULARY, Curve, random_batches, tales, windows
from underhood.lab.probe import at_rest, is_causal, paths_differ
from underhood.nn.attention import AttentionConfig
from underhood.nn.fast import fast
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.grouped import GroupedQueryAttention
from underhood.nn.init import fan_in, init_parameters
from underhood.nn.llama import llama
from underhood.nn.rope import RopeConfig, ScaledRotary, dynamic_factor, kept_by_turns, kept_by_wavelength, ntk_base, scaled_frequencies
from underhood.train.accumulate import Batch
from underhood.train.loop import TrainConfig, Trainer
from underhood.train.loss import cross_entropy
from underhood.train.optim_config import OptimConfig
from underhood.train.schedule import ScheduleConfig

Found = Mapping[str, float | bool | str]
NEAR = 1e-5  # float32 sums of a few dozen terms agree to this
TIMES = 4  # how much longer than the trained length
SHORT = 32  # the trained length, in tokens


def noise(seed: int, purpose: str, *shape: int) -> Tensor:
    """Independent numbers of mean 0 and variance 1."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(stream_seed(seed, purpose)))


# ── exact properties, nothing trained ─────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactConfig:
    """Sizes of what is looked at."""

    head: int = 32  # D
    heads: int = 2
    trained: int = 256
    factor: float = 4.0
    text: int = 24  # tokens of the texts that go through a layer, trained on a third of them


def properties(config: ExactConfig, seed: int, watch: Watch) -> Found:
    """What holds exactly for correct frequencies and turns."""
    watch(0)
    with torch.no_grad():
        return {**frequency_properties(config), **turn_properties(config, seed), **cache_properties(config, seed)}


def rope(config: ExactConfig, kind: str, **fields: Any) -> RopeConfig:
    """``kind`` at the config's factor."""
    values: dict[str, Any] = {"kind": kind, "factor": config.factor, "original_context": config.trained}
    return RopeConfig(**values | fields)


def frequency_properties(config: ExactConfig) -> dict[str, bool]:
    """Of each kind's frequencies, beside the plain ones: base^(-2i/D)."""
    D, L, s = config.head, config.trained, config.factor
    f = 10_000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    linear, ntk = scaled_frequencies(D, rope(config, "linear"), L), scaled_frequencies(D, rope(config, "ntk"), L)
    turns = L * f / (2 * math.pi)
    by_wave, by_turns = kept_by_wavelength(f, rope(config, "llama3")), kept_by_turns(D, rope(config, "yarn"))
    short, edge = (scaled_frequencies(D, rope(config, "dynamic"), n) for n in (L // 2, L + 1))
    return {
        "new_positions_fall_between": paths_differ(linear * s, f) <= NEAR,
        "slowest_is_divided": abs(float(f[-1] / ntk[-1]) / s - 1) <= NEAR and abs(ntk_base(10_000.0, s, D) / 10_000.0 - s ** (D / (D - 2))) <= 1e-6 * s * s,
        "fastest_is_kept": float(ntk[0]) == 1,
        "short_texts_are_plain": paths_differ(short, f) == 0,
        "dynamic_begins_gently": paths_differ(edge / f, torch.ones_like(f)) <= 2 * s / L and dynamic_factor(s, L, L) == 1,
        "llama_keeps_short_waves": bool((by_wave[turns >= 4] == 1).all() and (by_wave[turns <= 1] == 0).all()),
        "yarn_keeps_fast_pairs": float(by_turns[0]) == 1 and float(by_turns[-1]) == 0 and bool((by_turns.diff() <= 0).all()),
    }


def turn_properties(config: ExactConfig, seed: int) -> dict[str, bool]:
    """Of the rotation that a layer gets."""
    D, L = config.head, config.trained
    q, x = noise(seed, "q", 1, config.heads, 8, D), torch.zeros(1, 8, D)
    sharp = ScaledRotary(4 * L, D, D, rope(config, "yarn"))
    half = ScaledRotary(4 * L, D, D, RopeConfig()).rotation(torch.zeros(1, 2, D, dtype=torch.bfloat16), L)
    late = ScaledRotary(4 * L, D, D, rope(config, "linear")).rotation(x, 8)(q)
    forward = ScaledRotary(4 * L, D, D, RopeConfig()).rotation(x)(q)
    unit = torch.polar(torch.ones(8, D // 2), torch.outer(torch.arange(8.0), 10_000.0 ** (-torch.arange(0, D, 2) / D)))
    spun = torch.complex(q[..., : D // 2], q[..., D // 2 :]) * unit
    whole = ScaledRotary(4 * L, D, D, rope(config, "linear")).rotation(torch.zeros(1, 16, D))(torch.cat([torch.zeros_like(q), q], dim=2))
    grown = float((sharp.rotation(x)(q).norm() / q.norm()).square())
    return {
        "scores_get_sharper": grown > 1,
        "scores_grow_as_published": abs(grown - (0.1 * math.log(config.factor) + 1) ** 2) <= NEAR,
        "turns_as_trained": paths_differ(forward, torch.cat([spun.real, spun.imag], dim=-1)) <= NEAR,
        "rotation_starts_where_told": paths_differ(late, whole[:, :, 8:]) <= NEAR,
        "half_precision_tells_neighbours": bool((half.cos[0] != half.cos[1]).any()),
    }


def cache_properties(config: ExactConfig, seed: int) -> dict[str, float | bool]:
    """One layer, and two, fed token by token with a cache, against the whole text at once; and too long a text."""
    C, trained = config.heads * config.head, config.text // 3
    dynamic, yarn = rope(config, "dynamic", original_context=trained), rope(config, "yarn", original_context=trained)
    model = GPTConfig(vocab_size=16, context=config.text, n_layer=1, n_head=config.heads, width=C, fused_qkv=False)
    return {
        "cached_equals_whole": one_layer_gap(config, dynamic, seed) <= NEAR,
        "cached_equals_whole_yarn": one_layer_gap(config, yarn, seed) <= NEAR,
        "two_layer_gap": two_layer_gap(config, dynamic, seed),
        "too_long_is_refused": refuses(build_gpt(model, seed), config.text + 1),
    }


def one_layer_gap(config: ExactConfig, scaled: RopeConfig, seed: int) -> float:
    """How far the last position's output with a cache is from the whole text's, in one attention layer."""
    C = config.heads * config.head
    layer = GroupedQueryAttention(AttentionConfig(width=C, n_head=config.heads, fused_qkv=False))
    init_parameters(layer, seed, fan_in)
    x, cache = noise(seed, "text", 1, config.text, C), KVCache(1, config.text).layers[0]
    positions = ScaledRotary(config.text, C, config.head, scaled)
    for at in range(config.text):
        out = layer(x[:, at : at + 1], rotate=positions.rotation(x[:, at : at + 1], at), cache=cache)
    return paths_differ(out, layer(x, rotate=positions.rotation(x))[:, -1:])


def two_layer_gap(config: ExactConfig, scaled: RopeConfig, seed: int) -> float:
    """The same for the logits of a model of two layers: the second layer's cached keys come from outputs that an earlier rotation made."""
    C = config.heads * config.head
    sizes: dict[str, Any] = {"context": config.text, "n_layer": 2, "n_head": config.heads, "width": C, "hidden": 2 * C, "init": "fan_in"}
    parts = {"attention": "underhood.nn.grouped:GroupedQueryAttention", "positions": "underhood.nn.rope:ScaledRotary"}
    model = build_gpt(llama(vocab_size=16, rope=scaled, **sizes, **parts), seed)
    ids = torch.randint(16, (1, config.text), generator=torch.Generator().manual_seed(seed))
    cache = KVCache(2, config.text)
    with at_rest(model):
        for at in range(config.text):
            out = model(ids[:, at : at + 1], cache)
        return paths_differ(out, model(ids)[:, -1:])


def refuses(model: GPT, length: int) -> bool:
    """Whether a text of ``length`` is a ``ShapeError``."""
    try:
        model(torch.zeros(1, length, dtype=torch.long))
    except ShapeError:
        return True
    return False


# ── trained short, read long ──────────────────────────────────────────────────────────────────────────────────────────


LEDGER = Ledger()
ANSWER_UNIFORM = math.log(LEDGER.vocabulary)
READER = fast(llama(vocab_size=VOCABULARY, context=SHORT, n_layer=2, n_head=2, width=64, hidden=168, tie=True, init="fan_in"))
KEEPER = fast(llama(vocab_size=LEDGER.vocabulary, context=SHORT, n_layer=2, n_head=2, width=48, hidden=96, tie=True, init="fan_in"))

YARN = RopeConfig(kind="yarn", factor=TIMES, original_context=SHORT)
READING = TrainConfig(steps=200, optim=OptimConfig(lr=6e-3), schedule=ScheduleConfig(warmup=20))
KEEPING = TrainConfig(steps=200, optim=OptimConfig(lr=6e-3), schedule=ScheduleConfig(warmup=30))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongConfig:
    """Two models of plain rotary positions, trained on ``SHORT`` tokens; then both read ``times`` as many, turned as ``extend`` says."""

    positions: str = "underhood.nn.fast:Rotary"
    extend: RopeConfig | None = YARN  # none: the models as they were trained
    times: int = TIMES
    reader: TrainConfig = READING
    keeper: TrainConfig = KEEPING
    tuning: int = 0  # steps at the new length after the change of positions
    check_windows: int = 48
    check_ledgers: int = 192


def read_long(config: LongConfig, seed: int, watch: Watch) -> Found:
    """Train both models short, change their positions, tune them where asked, and measure both at every length."""
    reader, late = trained_reader(config, seed, watch)
    keeper = trained_keeper(config, seed)
    ((x, y),) = windows(tales().val, SHORT, 2 * config.check_windows)
    short_loss = float(cross_entropy(run(reader, x), y))
    reader, keeper = longer(reader, config), longer(keeper, config)
    if config.tuning:
        tune(reader, keeper, config, seed)
    return {
        "train_loss": late,
        "short_loss": short_loss,
        "attention_factor": float(getattr(reader.positions, "attention_factor", 1.0)),
        **reading(reader, config),
        **answering(keeper, config),
        "causal": is_causal(reader, windows(tales().val, config.times * SHORT, 2)[0][0]),
    }


def trained_reader(config: LongConfig, seed: int, watch: Watch) -> tuple[GPT, float]:
    """The model of tales, and its late training loss."""
    model, curve = build_gpt(dataclasses.replace(READER, positions=config.positions), seed), Curve(watch)
    Trainer(model, config.reader, random_batches(tales().train, SHORT, 16, seed), callbacks=[curve]).run()
    return model, curve.late()


def trained_keeper(config: LongConfig, seed: int) -> GPT:
    """The model of the ledger."""
    model = build_gpt(dataclasses.replace(KEEPER, positions=config.positions), seed)
    Trainer(model, config.keeper, Ledgers(SHORT, 32, seed)).run()
    return model


class Ledgers:
    """Batches of new ledgers without end."""

    def __init__(self, length: int, count: int, seed: int) -> None:
        self.length, self.count = length, count
        self.generator = torch.Generator().manual_seed(stream_seed(seed, f"ledgers/{length}"))

    def next(self) -> Batch:
        """The next batch."""
        return LEDGER.texts(self.count, self.length, self.generator)

    def state(self) -> Any:
        """Where the stream is."""
        return self.generator.get_state()

    def load_state(self, state: Any) -> None:
        """Go on from ``state``."""
        self.generator.set_state(state)


def longer(model: GPT, config: LongConfig) -> GPT:
    """The same weights in a model of ``times`` the context, turned as ``extend`` says; as it is, where there is no extension."""
    if config.extend is None:
        return model
    changes: dict[str, Any] = {"context": config.times * SHORT, "positions": "underhood.nn.rope:ScaledRotary", "rope": config.extend}
    new = GPT(dataclasses.replace(model.config, **changes))
    new.load_state_dict(model.state_dict())
    return new


def tune(reader: GPT, keeper: GPT, config: LongConfig, seed: int) -> None:
    """A few steps at the new length, at a third of the rate."""
    T, steps = config.times * SHORT, config.tuning
    train = TrainConfig(steps=steps, optim=OptimConfig(lr=2e-3), schedule=ScheduleConfig(warmup=max(1, steps // 10)))
    Trainer(reader, train, random_batches(tales().train, T, 4, seed + 1)).run()
    Trainer(keeper, train, Ledgers(T, 8, seed + 1)).run()


def run(model: GPT, x: Tensor) -> Tensor:
    """Logits, at rest."""
    with at_rest(model):
        return model(x)  # type: ignore[no-any-return]


def reading(model: GPT, config: LongConfig) -> dict[str, float]:
    """The loss by position on held-out tales: inside the trained length, beyond it, and in the last quarter."""
    losses = position_losses(model, config)
    return {
        "inside_loss": float(losses[:SHORT].mean()),
        "beyond_loss": float(losses[SHORT:].mean()),
        "last_loss": float(losses[-SHORT:].mean()),
    }


def position_losses(model: GPT, config: LongConfig) -> Float[Tensor, "T"]:
    """Nats at each position of held-out windows of the new length."""
    ((x, y),) = windows(tales().val, config.times * SHORT, config.check_windows)
    return loss_by_position(model, x, y)


@functools.cache
def ledgers(length: int, count: int) -> Batch:
    """Ledgers to be asked about, the same for every arm."""
    return LEDGER.texts(count, length, torch.Generator().manual_seed(length))


def answering(model: GPT, config: LongConfig) -> dict[str, float]:
    """The share of right answers in ledgers of the trained length, twice it, and the new one; and the nats of an answer in the last."""
    found = {}
    for name, length in (("found_short", SHORT), ("found_middle", config.times * SHORT // 2), ("found_long", config.times * SHORT)):
        x, y = ledgers(length, config.check_ledgers)
        logits = run(model, x)
        found[name] = float((logits.argmax(-1) == y)[y >= 0].float().mean())
    return found | {"answer_loss": float(cross_entropy(logits, y))}


# ── what the figures mean ─────────────────────────────────────────────────────────────────────────────────────────────


def exact(says: str) -> Metric:
    """A property that holds or does not."""
    return Metric(says=says, better="neither")


PROPERTIES = {
    "new_positions_fall_between": exact("interpolation turns position 4 p as position p was turned"),
    "slowest_is_divided": exact("the NTK base divides the slowest frequency by the factor"),
    "fastest_is_kept": exact("the NTK base leaves the fastest frequency at 1"),
    "short_texts_are_plain": exact("dynamic scaling leaves texts of the trained length alone"),
    "dynamic_begins_gently": exact("one token beyond the trained length changes dynamic frequencies hardly"),
    "llama_keeps_short_waves": exact("Llama 3 keeps pairs that turn four times in the trained length, and interpolates those that do not turn once"),
    "yarn_keeps_fast_pairs": exact("YaRN keeps the fastest pair and interpolates the slowest, and never the other way round"),
    "scores_get_sharper": exact("YaRN makes scores larger"),
    "scores_grow_as_published": exact("YaRN multiplies scores by (0.1 ln(factor) + 1)², once"),
    "turns_as_trained": exact("without extension the turn is that of plain rotary positions, in its direction"),
    "rotation_starts_where_told": exact("position p is turned alike, whether it comes first or not"),
    "half_precision_tells_neighbours": exact("in bfloat16, positions 256 and 257 are turned differently"),
    "cached_equals_whole": exact("in one layer under dynamic scaling, token by token gives what the whole text gives"),
    "cached_equals_whole_yarn": exact("in one layer under YaRN, token by token gives what the whole text gives"),
    "too_long_is_refused": exact("a text longer than a learned table is a ShapeError"),
}


def loss(says: str) -> Metric:
    """Nats per token of tales."""
    return Metric(says=f"{says} (nats per token)", floor=FLOOR, ceiling=UNIFORM, smallest=0.02, worst=2 * UNIFORM)


def share(says: str) -> Metric:
    """Right answers of a ledger."""
    return Metric(says=says, floor=1.0, ceiling=1 / LEDGER.values, smallest=0.02, worst=0.0, better="higher")


LONG = {
    "train_loss": LOSSES["train_loss"],
    "short_loss": loss("held-out tales, the trained length, before anything is changed"),
    "inside_loss": loss("positions 1 to 32, which were trained, after the change"),
    "beyond_loss": loss("positions 33 to 128"),
    "last_loss": loss("positions 97 to 128"),
    "found_short": share("right answers from ledgers of 32 tokens, the trained length"),
    "found_middle": share("right answers from ledgers of 64 tokens"),
    "found_long": share("right answers from ledgers of 128 tokens"),
    "answer_loss": Metric(says="an answer from a ledger of 128 tokens (nats)", floor=0.0, ceiling=ANSWER_UNIFORM, smallest=0.05, worst=2 * ANSWER_UNIFORM),
    "attention_factor": Metric(says="what sines and cosines are multiplied with", smallest=1e-3, better="neither"),
    "causal": EXACT["causal"],
}

BASELINES = (
    Baseline(
        name="long_context.exact",
        says="Exact properties of scaled frequencies, of the turns made of them, and of one layer with a cache. Nothing is trained.",
        run=properties,
        config=ExactConfig(),
        metrics=PROPERTIES
        | {"two_layer_gap": Metric(says="two layers under dynamic scaling: logits token by token against all at once", floor=0.0, smallest=1e-4, worst=10.0)},
        seconds=0.2,
    ),
    Baseline(
        name="long_context.read",
        says="Two small models trained on 32 tokens, one on tales, one on ledgers of changing facts; both then read 128 with YaRN at factor 4.",
        run=read_long,
        config=LongConfig(),
        metrics=LONG,
        seconds=7,
        corpus=CORPUS,
    ),
    Baseline(
        name="long_context.tuned",
        says="The same two models, and 24 steps of training at 128 tokens after the change.",
        run=read_long,
        config=LongConfig(tuning=24),
        metrics=LONG,
        seconds=8,
        corpus=CORPUS,
    ),
)
