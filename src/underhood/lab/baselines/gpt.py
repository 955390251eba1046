"""Healthy runs for a whole GPT: four blocks that learn to write tales, and a small one that is stopped and resumed on the way."""

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from underhood.base.errors import DataError, NonFinite, ShapeError
from underhood.base.rng import stream_seed
from underhood.data.corpora import load_tales
from underhood.data.sampler import Batches, RandomSampler, SequentialSampler
from underhood.data.tales import VERSION
from underhood.data.tales_pairs import PAIR_SKILLS as SKILLS
from underhood.data.tales_pairs import minimal_pairs
from underhood.eval.tales import pair_accuracy
from underhood.infer.filters import keep_top_k, keep_top_p
from underhood.infer.sample import SampleConfig, generate_batch
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.lab.probe import at_rest, copied_share, is_causal
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.text.bpe_fast import FastBPE
from underhood.text.special import END_OF_TEXT
from underhood.train.accumulate import Batch
from underhood.train.clip import clip_gradients
from underhood.train.groups import Group
from underhood.train.loop import Callback, Figures, TrainConfig, Trainer
from underhood.train.loss import IGNORE, cross_entropy
from underhood.train.optim import AdamW
from underhood.train.optim_config import OptimConfig
from underhood.train.schedule import ScheduleConfig, warmup_cosine
from underhood.train.validate import validation_loss

Found = Mapping[str, float | bool | str]
VOCABULARY = 1024
STORIES = 4000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """Tales as ids: what is trained on, what is held out, and the tokenizer between."""

    tokenizer: FastBPE
    train: NDArray[np.uint16]
    val: NDArray[np.uint16]
    val_bytes: int
    stories: tuple[str, ...]  # trained on, as text
    floor: float  # nats per token that the source's entropy allows


@functools.cache
def tales(stories: int = STORIES, vocabulary: int = VOCABULARY) -> Text:
    """The same for every seed and arm, made once a process."""
    corpus = load_tales(stories)
    tokenizer = FastBPE.train(corpus.train, vocabulary, special=(END_OF_TEXT,))
    end = tokenizer.special[END_OF_TEXT]
    train, val = (np.array([i for text in part for i in (*tokenizer.encode(text), end)], dtype=np.uint16) for part in (corpus.train, corpus.val))
    n_bytes = sum(len(text.encode()) + 1 for text in corpus.val)
    assert corpus.floor is not None
    floor = corpus.floor * math.log(2) * n_bytes / len(val)
    return Text(tokenizer=tokenizer, train=train, val=val, val_bytes=n_bytes, stories=tuple(corpus.train), floor=floor)


FOUR_BLOCKS = GPTConfig(vocab_size=VOCABULARY, context=64, n_layer=4, n_head=4, width=64, init="fan_in", activation="underhood.nn.fast:gelu_tanh")
SHORT = TrainConfig(steps=400, optim=OptimConfig(lr=6e-3), schedule=ScheduleConfig(warmup=40))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TalesConfig:
    """A GPT trained on tales."""

    model: GPTConfig = FOUR_BLOCKS
    train: TrainConfig = SHORT
    batch_size: int = 12
    check_windows: int = 96  # validation windows, the same for every arm
    pairs: int = 40  # minimal pairs of each skill
    words: int = 60  # tokens written from each of eight prompts


def write_tales(config: TalesConfig, seed: int, watch: Watch) -> Found:
    """Train, then measure: the loss, exact properties, minimal pairs by skill, and what it writes."""
    text = tales()
    model = build_gpt(config.model, seed)
    curve = Curve(watch)
    trainer = Trainer(model, config.train, random_batches(text.train, config.model.context, config.batch_size, seed), callbacks=[curve])
    trainer.run()
    held_out = windows(text.val, config.model.context, config.check_windows)
    val_loss = validation_loss(model, held_out)
    written = sample(model, text, seed, config.words)
    return {
        "train_loss": curve.late(),
        "val_loss": val_loss,
        "bits_per_byte": val_loss * len(text.val) / text.val_bytes / math.log(2),
        "causal": is_causal(model, held_out[0][0][:4]),
        "largest_step": curve.largest_step(config.train.clip),
        "first_rate": config.train.schedule.share(0, config.train.steps),
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "copied_share": copied_share(" ".join(written), " ".join(text.stories)),
        "text": "\n".join(written[:3]),
        **pair_figures(model, text.tokenizer, config.pairs),
    }


class Curve(Callback):
    """Remembers losses and gradient norms, and passes them on."""

    def __init__(self, watch: Watch | None = None) -> None:
        self.watch, self.losses, self.norms = watch, list[float](), list[float]()

    def after_step(self, trainer: Trainer, figures: Figures) -> None:
        """Note one step."""
        self.losses.append(figures.loss)
        self.norms.append(figures.gradient_norm)
        if self.watch is not None:
            self.watch(figures.step, loss=figures.loss)

    def late(self) -> float:
        """The mean loss of the last twentieth of the steps."""
        return float(np.mean(self.losses[-max(1, len(self.losses) // 20) :]))

    def largest_step(self, clip: float | None) -> float:
        """The largest gradient norm that an update was made with."""
        return max(self.norms) if clip is None else min(clip, max(self.norms))


def random_batches(ids: NDArray[np.uint16], context: int, batch_size: int, seed: int) -> Batches:
    """Windows from anywhere."""
    return Batches(ids, RandomSampler(len(ids), context, batch_size, seed), context)


def windows(ids: NDArray[np.uint16], context: int, count: int) -> list[Batch]:
    """The first ``count`` windows side by side, as one batch."""
    return [Batches(ids, SequentialSampler(len(ids), context, count), context).next()]


PROMPTS = ("One day", "There was once", "In the", "It was", "Once upon a time", "The", "Early", "Last")


def sample(model: GPT, text: Text, seed: int, tokens: int) -> list[str]:
    """What the model makes of each prompt."""
    prompts = [text.tokenizer.encode(p) for p in PROMPTS]
    generator = torch.Generator().manual_seed(stream_seed(seed, "sample"))
    written = generate_batch(model, prompts, SampleConfig(max_tokens=tokens, temperature=0.8), generator)
    return [text.tokenizer.decode([*p, *w]) for p, w in zip(prompts, written, strict=True)]


def pair_figures(model: GPT, tokenizer: FastBPE, count: int) -> dict[str, float]:
    """Of ``count`` minimal pairs of each skill, the share where the right continuation is the likelier one."""
    found = pair_accuracy(model, tokenizer, minimal_pairs(count), context=model.config.context)
    by_skill = {f"pairs_{skill}": found[skill].share for skill in SKILLS}
    return by_skill | {"pairs": float(np.mean(list(by_skill.values())))}


# ── stopped and resumed ───────────────────────────────────────────────────────────────────────────────────────────────


TWO_BLOCKS = GPTConfig(vocab_size=VOCABULARY, context=32, n_layer=2, n_head=2, width=32, dropout=0.1, init="fan_in")
SHORTER = TrainConfig(steps=160, optim=OptimConfig(lr=3e-3), schedule=ScheduleConfig(warmup=20))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumeConfig:
    """A small GPT with dropout, trained twice: in one go, and stopped in the middle and resumed in a new trainer."""

    model: GPTConfig = TWO_BLOCKS
    train: TrainConfig = SHORTER
    batch_size: int = 8
    stop_at: int = 60  # while the learning rate is high
    check_windows: int = 64


def stop_and_resume(config: ResumeConfig, seed: int, watch: Watch) -> Found:
    """How far the resumed run is from the uninterrupted one: in the weights, and in the loss of the steps after the stop."""
    text = tales()

    def trainer(folder: Path, callback: Callback) -> Trainer:
        batches = random_batches(text.train, config.model.context, config.batch_size, seed)
        return Trainer(build_gpt(config.model, seed), config.train, batches, callbacks=[callback], folder=folder)

    with tempfile.TemporaryDirectory() as place:
        whole, first, second = Curve(watch), Curve(), Curve()
        uninterrupted = trainer(Path(place) / "whole", whole)
        uninterrupted.run()
        stopped = trainer(Path(place) / "parts", first)
        for _ in range(config.stop_at):
            stopped.step()
        stopped.save()
        resumed = trainer(Path(place) / "parts", second)
        resumed.model.load_state_dict(build_gpt(config.model, seed + 1).state_dict())  # nothing of it may survive the resuming
        resumed.resume()
        resumed.run()
    jump = float(np.mean(second.losses)) - float(np.mean(whole.losses[config.stop_at :]))
    gap = largest_gap(uninterrupted.model, resumed.model)
    held_out = windows(text.val, config.model.context, config.check_windows)
    twice = [validation_loss(uninterrupted.model, held_out) for _ in range(2)]
    return {
        "train_loss": whole.late(),
        "val_loss": twice[0],
        "first_difference": float(next((i + 1 for i, (a, b) in enumerate(zip(whole.losses[config.stop_at :], second.losses, strict=True)) if a != b), 0)),
        "resume_jump": jump,
        "resume_gap": gap,
        "resume_is_exact": gap == 0 and whole.losses[config.stop_at :] == second.losses,
        "evaluation_repeats": twice[0] == twice[1],
        "evaluation_is_exact": abs(twice[0] - plain_loss(uninterrupted.model, held_out)) <= 1e-5,
    }


def largest_gap(one: nn.Module, other: nn.Module) -> float:
    """max |Δw| over all parameters."""
    return max(float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def plain_loss(model: nn.Module, batches: Sequence[Batch]) -> float:
    """The loss in evaluation mode by torch's own functions: what ``validation_loss`` must give."""
    (x, y) = batches[0]
    with at_rest(model):
        logits: Tensor = model(x)
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()))


# ── parts, untrained ──────────────────────────────────────────────────────────────────────────────────────────────────


TINY = GPTConfig(vocab_size=16, context=8, n_layer=2, n_head=2, width=16, init="fan_in")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """A tiny model with random weights, and one update."""

    model: GPTConfig = TINY
    lr: float = 0.01
    weight_decay: float = 0.5  # large, so that one update shows it


def properties(config: PartsConfig, seed: int, watch: Watch) -> Found:
    """What holds exactly for correct parts, whatever the weights."""
    model = build_gpt(config.model, seed)
    ids = torch.full((1, config.model.context), 3)
    with torch.no_grad():
        logits, hidden = model(ids)[0], model.hidden(ids)
    watch(0)
    return {
        "positions_matter": not torch.allclose(logits[0], logits[-1], atol=1e-5),
        "hidden_is_normed": bool((hidden.square().mean(-1) - 1).abs().max() < 1e-2),
        "head_learns": model.head_weight.requires_grad,
        "too_long_is_refused": refused(ShapeError, lambda: model(torch.zeros(1, config.model.context + 1, dtype=torch.long))),
        **update_properties(config),
        **choice_properties(),
    }


def update_properties(config: PartsConfig) -> dict[str, bool]:
    """Of one update, the schedule, clipping and the loss."""
    weight, still = torch.ones(5), torch.ones(5)
    weight.grad, still.grad = torch.tensor([1e-3, -1e-2, 0.1, 1.0, -10.0]), torch.zeros(5)
    AdamW([Group(parameters={"moved": weight}, lr=config.lr)]).step()
    AdamW([Group(parameters={"still": still}, lr=config.lr, weight_decay=config.weight_decay)]).step()
    long, short = torch.zeros(2), torch.zeros(2)
    long.grad, short.grad = torch.tensor([30.0, 0.0]), torch.tensor([0.0, 0.3])
    clip_gradients([long, short], 1.0)
    poisoned = torch.zeros(2)
    poisoned.grad = torch.tensor([1.0, math.inf])
    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 9.0]]), torch.tensor([0, IGNORE])
    return {
        "first_update_is_lr": bool(((weight - 1).abs() - config.lr).abs().max() < 1e-4),
        "decay_is_decoupled": bool((still - (1 - config.lr * config.weight_decay)).abs().max() < 1e-6),
        "first_update_is_made": warmup_cosine(0, warmup=10, steps=100) > 0,
        "clip_keeps_direction": bool((long.grad[0] / short.grad[1] - 100).abs() < 0.1),
        "infinity_is_refused": refused(NonFinite, lambda: clip_gradients([poisoned], 1.0)),
        "ignored_targets_do_not_count": bool((cross_entropy(logits, targets) - math.log(1 + math.exp(-2))).abs() < 1e-5),
        "no_target_is_refused": refused(DataError, lambda: cross_entropy(logits, torch.full((2,), IGNORE))),
    }


def choice_properties() -> dict[str, bool]:
    """Of what may be drawn."""
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    return {
        "top_k_keeps_k": int(keep_top_k(logits, 2).isfinite().sum()) == 2,
        "top_p_reaches_p": float(logits.exp()[keep_top_p(logits, 0.6).isfinite()].sum()) >= 0.6,
    }


def refused(error: type[Exception], call: Callable[[], object]) -> bool:
    """Whether ``call()`` raises ``error``; another error is none."""
    try:
        call()
    except error:
        return True
    except Exception:
        return False
    return False


# ── what the figures mean ─────────────────────────────────────────────────────────────────────────────────────────────

FLOOR = 0.714  # nats per token: the entropy of the source, whole stories in sight; a window of 64 tokens cannot quite reach it
UNIFORM = math.log(VOCABULARY)
EXACT = {
    "causal": Metric(says="no logit moves when only a later token changes", better="neither"),
    "evaluation_repeats": Metric(says="the validation loss is the same twice", better="neither"),
    "evaluation_is_exact": Metric(says="the validation loss is what torch gives in evaluation mode", better="neither"),
    "positions_matter": Metric(says="one token at two places has different logits", better="neither"),
    "hidden_is_normed": Metric(says="hidden vectors have unit mean square", better="neither"),
    "head_learns": Metric(says="the gradient of the logits reaches the head's matrix", better="neither"),
    "too_long_is_refused": Metric(says="a text longer than the context is a ShapeError", better="neither"),
    "first_update_is_lr": Metric(says="Adam's first update moves every weight by the learning rate", better="neither"),
    "decay_is_decoupled": Metric(says="a weight without gradient shrinks by the factor 1 − lr·λ", better="neither"),
    "first_update_is_made": Metric(says="the first step's learning rate is not zero", better="neither"),
    "clip_keeps_direction": Metric(says="clipping scales all gradients by one factor", better="neither"),
    "infinity_is_refused": Metric(says="an infinite gradient norm is NonFinite", better="neither"),
    "ignored_targets_do_not_count": Metric(says="ignored targets count neither above nor below the line", better="neither"),
    "no_target_is_refused": Metric(says="a batch without a target is a DataError", better="neither"),
    "top_k_keeps_k": Metric(says="top-k leaves k tokens", better="neither"),
    "top_p_reaches_p": Metric(says="the tokens that top-p leaves reach p", better="neither"),
    "resume_is_exact": Metric(says="the resumed run and the uninterrupted one agree in every bit", better="neither"),
}
LOSSES = {
    "val_loss": Metric(says="loss on held-out tales (nats per token)", floor=FLOOR, ceiling=UNIFORM, smallest=0.03, worst=2 * UNIFORM),
    "train_loss": Metric(says="mean training loss of the last steps (nats per token)", floor=FLOOR, ceiling=UNIFORM, smallest=0.03, worst=2 * UNIFORM),
}
STEPS_AFTER = {
    "resume_jump": Metric(says="mean loss after the stop, resumed minus uninterrupted (nats)", floor=0.0, smallest=0.005, worst=UNIFORM, better="lower"),
    "resume_gap": Metric(says="largest difference of a weight at the end, resumed against uninterrupted", floor=0.0, smallest=1e-9, worst=1.0),
    "first_difference": Metric(says="the first step after the stop whose loss differs in any bit; 0: none", floor=0.0, better="neither"),
}
PAIRS = {
    f"pairs_{skill}": Metric(says=f"minimal pairs of {skill} got right", floor=1.0, ceiling=0.5, smallest=0.05, worst=0.0, better="higher") for skill in SKILLS
}
CORPUS = f"tales version {VERSION}, seed 0, {STORIES} stories, BPE of {VOCABULARY}"

BASELINES = (
    Baseline(
        name="gpt.tales",
        says="Four blocks, width 64, four heads, 64 tokens of tales (BPE of 1,024), 400 steps of 12 windows with AdamW, warm-up and cosine.",
        run=write_tales,
        config=TalesConfig(),
        metrics=LOSSES
        | PAIRS
        | {
            "pairs": Metric(says="minimal pairs of all skills got right", floor=1.0, ceiling=0.5, smallest=0.02, worst=0.0, better="higher"),
            "bits_per_byte": Metric(says="bits per byte of held-out tales", floor=0.26, smallest=0.01, worst=8.0),
            "largest_step": Metric(says="the largest gradient norm that an update was made with", floor=0.0, smallest=0.1, worst=1e6),
            "first_rate": Metric(
                says="the share of the peak learning rate that the first update gets", floor=0.0, ceiling=1.0, smallest=0.01, better="neither"
            ),
            "parameters": Metric(says="numbers that are learned", smallest=1, better="neither"),
            "copied_share": Metric(says="share of the written 8-word sequences that were trained on", floor=0.0, ceiling=1.0, smallest=0.05, worst=1.0),
            "causal": EXACT["causal"],
        },
        seconds=13,
        corpus=CORPUS,
    ),
    Baseline(
        name="gpt.parts",
        says="Exact properties of the model, one update, the loss and the sampling filters on random weights. Nothing is trained.",
        run=properties,
        config=PartsConfig(),
        metrics={name: metric for name, metric in EXACT.items() if name not in ("causal", "evaluation_repeats", "evaluation_is_exact", "resume_is_exact")},
        seconds=0.2,
    ),
    Baseline(
        name="gpt.resume",
        says="Two blocks of width 32 with dropout, trained for 160 steps, and again with a stop at step 60 and a resume in a new trainer.",
        run=stop_and_resume,
        config=ResumeConfig(),
        metrics=LOSSES | STEPS_AFTER | {name: EXACT[name] for name in ("evaluation_repeats", "evaluation_is_exact", "resume_is_exact")},
        seconds=4,
        corpus=CORPUS,
    ),
)
