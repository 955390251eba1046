"""Healthy runs for the training loop: a small GPT that shows what a bad recipe does, several small batches per update, and an exact resume."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from underhood.base.errors import DataError
from underhood.base.rng import stream_seed
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.lab.baselines.gpt import (
    CORPUS,
    EXACT,
    LOSSES,
    STEPS_AFTER,
    VOCABULARY,
    Curve,
    ResumeConfig,
    largest_gap,
    random_batches,
    refused,
    tales,
    windows,
)
from underhood.lab.baselines.gpt import stop_and_resume as resume
from underhood.lab.probe import at_rest
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.train.accumulate import Batch, accumulate_gradients
from underhood.train.groups import decay_groups, named_once
from underhood.train.loop import BatchSource, TrainConfig, Trainer, next_token
from underhood.train.loss import IGNORE
from underhood.train.optim_config import OptimConfig
from underhood.train.schedule import ScheduleConfig, warmup_stable_decay
from underhood.train.validate import validation_loss

Found = Mapping[str, float | bool | str]
SMALL = GPTConfig(vocab_size=VOCABULARY, context=64, n_layer=2, n_head=2, width=64, init="fan_in", activation="underhood.nn.fast:gelu_tanh")
SHORT = TrainConfig(steps=300, optim=OptimConfig(lr=6e-3), schedule=ScheduleConfig(warmup=30))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """A small GPT on tales; with ``ragged`` the targets of each batch are cut to a length of their own, as documents of different length are."""

    model: GPTConfig = SMALL
    train: TrainConfig = SHORT
    batch_size: int = 12
    ragged: bool = False
    check_windows: int = 96


def train_small(config: LoopConfig, seed: int, watch: Watch) -> Found:
    """Train; then the loss, the size of the steps and of the gains, how often a window came twice, and whether accumulation is exact."""
    text = tales()
    model = build_gpt(config.model, seed)
    batches = Recorded(random_batches(text.train, config.model.context, config.batch_size, seed), seed if config.ragged else None)
    curve = Curve(watch)
    trainer = Trainer(model, config.train, batches, callbacks=[curve])
    trainer.run()
    x, y = random_batches(text.train, config.model.context, 1, seed).next()
    return {
        "train_loss": curve.late(),
        "val_loss": validation_loss(model, windows(text.val, config.model.context, config.check_windows)),
        "largest_step": curve.largest_step(config.train.clip),
        "largest_norm": max(curve.norms),
        "gain": mean_gain(model),
        "stream_growth": stream_growth(build_gpt(config.model, seed), x),
        "repeats": batches.repeats / max(1, batches.count),
        "gains_are_not_decayed": gains_are_free(model),
        "accumulation_is_exact": accumulation_error(config, seed) <= 1e-5,
        "no_target_is_refused": refused(DataError, lambda: accumulate_gradients(next_token_of(model), [(x, torch.full_like(y, IGNORE))])),
        "targets_are_next": targets_are_next(random_batches(text.train, config.model.context, 4, seed)),
        "seeds_differ": largest_gap(build_gpt(config.model, seed), build_gpt(config.model, seed + 1)) > 0,
        "layers_differ": layers_differ(build_gpt(config.model, seed)),
        "plateau_is_kept": all(warmup_stable_decay(step, warmup=5, steps=100) == 1 for step in range(5, 80)),
    }


def targets_are_next(batches: BatchSource) -> bool:
    """Whether each target is the token after its input, in several rows: in a batch of one row no target can belong to another."""
    x, y = batches.next()
    return len(x) > 1 and torch.equal(x[:, 1:], y[:, :-1])


def layers_differ(model: nn.Module) -> bool:
    """Whether the first two blocks start with different weights."""
    weights = dict(model.named_parameters())
    return not torch.equal(weights["blocks.0.attention.qkv.weight"], weights["blocks.1.attention.qkv.weight"])


def next_token_of(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The summed loss of ``model`` on a batch."""
    loss_sum = next_token()
    return lambda x, y: loss_sum(model, x, y)


class Recorded:
    """Batches that count how many of their inputs came before, and cut their targets when ``ragged`` gives a seed."""

    def __init__(self, inner: BatchSource, ragged: int | None = None) -> None:
        self.inner, self.ragged = inner, ragged
        self.seen, self.repeats, self.count = set[bytes](), 0, 0

    def next(self) -> Batch:
        """The next batch; with ``ragged`` all targets after a drawn length are ignored."""
        x, y = self.inner.next()
        key = x.numpy().tobytes()
        self.repeats += key in self.seen
        self.seen.add(key)
        self.count += 1
        if self.ragged is not None:
            generator = torch.Generator().manual_seed(stream_seed(self.ragged, f"ragged/{self.count}"))
            length = int(torch.randint(2, y.shape[1] + 1, (), generator=generator))
            y = y.clone()
            y[:, length:] = IGNORE
        return x, y

    def state(self) -> Any:
        """Where the data is."""
        return self.inner.state()

    def load_state(self, state: Any) -> None:
        """Go there."""
        self.inner.load_state(state)


def mean_gain(model: nn.Module) -> float:
    """The mean of the norms' gains, which start at one; zero when there are none."""
    gains = [p.detach().flatten() for name, p in model.named_parameters() if "norm" in name and name.endswith("weight")]
    return float(torch.cat(gains).mean()) if gains else 0.0


def stream_growth(model: GPT, x: Tensor) -> float:
    """How much larger the residual stream is after the last block than before the first."""
    sizes: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda m, i, out: sizes.append(out.square().mean().sqrt())) for module in (model.dropout, model.blocks[-1])]
    with at_rest(model):
        model(x)
    for hook in hooks:
        hook.remove()
    return float(sizes[-1] / sizes[0])


def gains_are_free(model: nn.Module) -> bool:
    """Whether the groups leave every gain and bias without weight decay."""
    groups = decay_groups(named_once(model), lr=1.0, weight_decay=0.1)
    return all(group.weight_decay == 0 for group in groups for p in group.parameters.values() if p.ndim < 2)


def accumulation_error(config: LoopConfig, seed: int) -> float:
    """How far the gradient of four ragged batches in turn is from that of all of them at once, relative to the largest entry."""
    text = tales()
    model = build_gpt(dataclasses.replace(config.model, dropout=0.0), seed)
    source = Recorded(random_batches(text.train, config.model.context, 2, seed), seed)
    batches = [source.next() for _ in range(4)]
    whole = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    gradients = []
    for parts in (batches, whole):
        model.zero_grad()
        accumulate_gradients(next_token_of(model), parts)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    apart: Tensor = (gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()
    return float(apart)


def _recipe(kind: str, lr: float, clip: float | None, *, ragged: bool = False) -> LoopConfig:
    """Four batches per update with the given optimizer."""
    train = TrainConfig(steps=100, accumulate=4, clip=clip, optim=OptimConfig(kind=kind, lr=lr, momentum=0.9), schedule=ScheduleConfig(warmup=10))
    return LoopConfig(train=train, batch_size=4, ragged=ragged)


METRICS = LOSSES | {
    "largest_step": Metric(says="the largest gradient norm that an update was made with", floor=0.0, smallest=0.1, worst=1e6),
    "largest_norm": Metric(says="the largest gradient norm before clipping", floor=0.0, smallest=0.1, worst=1e6),
    "gain": Metric(says="mean gain of the norms, which start at 1", smallest=0.005, worst=0.0, better="neither"),
    "repeats": Metric(says="share of the batches that had been seen before, window for window", floor=0.0, ceiling=1.0, smallest=0.01, worst=1.0),
    "gains_are_not_decayed": Metric(says="no gain and no bias has weight decay", better="neither"),
    "stream_growth": Metric(says="size of the residual stream after the blocks over that before them, untrained", smallest=0.02, better="neither"),
    "no_target_is_refused": Metric(says="batches without any target are a DataError", better="neither"),
    "targets_are_next": Metric(says="each target is the token after its input", better="neither"),
    "seeds_differ": Metric(says="two seeds give two models", better="neither"),
    "layers_differ": Metric(says="two layers of one shape start differently", better="neither"),
    "plateau_is_kept": Metric(says="the learning rate stays at its peak for four fifths of the steps", better="neither"),
    "accumulation_is_exact": Metric(says="four ragged batches in turn give the gradient of all at once", better="neither"),
}

BASELINES = (
    Baseline(
        name="loop.tales",
        says="Two blocks of width 64 on tales, 300 steps of 12 windows of 64 tokens with AdamW.",
        run=train_small,
        config=LoopConfig(),
        metrics=METRICS,
        seconds=6,
        corpus=CORPUS,
    ),
    Baseline(
        name="loop.sgd",
        says="Four batches of one length per update, SGD with momentum, no clipping, 100 updates.",
        run=train_small,
        config=_recipe("SGD", 0.03, None),
        metrics=METRICS,
        seconds=4,
        corpus=CORPUS,
    ),
    Baseline(
        name="loop.adamw",
        says="Four batches of one length per update, AdamW, no clipping, 100 updates.",
        run=train_small,
        config=_recipe("AdamW", 6e-3, None),
        metrics=METRICS,
        seconds=4,
        corpus=CORPUS,
    ),
    Baseline(
        name="loop.clipped",
        says="Four batches of one length per update, SGD with momentum, the gradient clipped to norm 1, 100 updates.",
        run=train_small,
        config=_recipe("SGD", 0.3, 1.0),
        metrics=METRICS,
        seconds=4,
        corpus=CORPUS,
    ),
    Baseline(
        name="loop.ragged",
        says="Four batches per update whose targets end at different lengths, AdamW, no clipping, 100 updates.",
        run=train_small,
        config=_recipe("AdamW", 6e-3, None, ragged=True),
        metrics=METRICS,
        seconds=4,
        corpus=CORPUS,
    ),
    Baseline(
        name="loop.resume",
        says="Two blocks of width 32 with dropout and batches drawn at random, trained for 160 steps, and again with a stop at step 60 and a resume.",
        run=resume,
        config=ResumeConfig(),
        metrics=LOSSES | STEPS_AFTER | {name: EXACT[name] for name in ("evaluation_repeats", "evaluation_is_exact", "resume_is_exact")},
        seconds=4,
        corpus=CORPUS,
    ),
)
