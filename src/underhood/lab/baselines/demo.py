"""The healthy run behind ``underhood demo``: a four-block GPT on tales or on any other text, for a quarter of a minute."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from underhood.base.rng import stream_seed
from underhood.data.corpora import load_corpus
from underhood.data.sampler import Batches, RandomSampler, SequentialSampler
from underhood.data.tales_score import score
from underhood.data.tokens import end_id, join
from underhood.eval.tales import whole_sentences
from underhood.infer.sample import SampleConfig, generate_batch
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.lab.probe import at_rest, is_causal
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.text.bpe_fast import FastBPE
from underhood.text.special import END_OF_TEXT
from underhood.text.tokenizer import Tokenizer
from underhood.train.loop import Callback, Figures, TrainConfig, Trainer
from underhood.train.loss import cross_entropy
from underhood.train.optim_config import OptimConfig
from underhood.train.recipes import small
from underhood.train.run import make_tokenizer
from underhood.train.schedule import ScheduleConfig

VOCABULARY = 512
STORIES, WRITTEN = 64, 56  # so many texts of so many tokens: some 200 sentences from a model that writes any


FOUR_BLOCKS = GPTConfig(vocab_size=VOCABULARY, context=64, n_layer=4, n_head=4, width=64, init="fan_in", activation="underhood.nn.fast:gelu_tanh")
SHORT = TrainConfig(steps=300, optim=OptimConfig(lr=6e-3), schedule=ScheduleConfig(warmup=30))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A small GPT with parts as in GPT-2, trained for a short while."""

    data: str = "tales"  # a corpus by name, a file or a folder
    model: GPTConfig = FOUR_BLOCKS
    train: TrainConfig = SHORT
    batch_size: int = 12
    check_windows: int = 48  # validation windows, the same for every arm
    words: int = 60  # tokens of the sample


@functools.cache
def prepared(data: str) -> tuple[FastBPE, NDArray[np.int64], NDArray[np.int64]]:
    """Tokenizer, training ids and validation ids; made once a process, the same for every seed."""
    corpus = load_corpus(data)
    recipe = dataclasses.replace(small(data=data, characters=sum(map(len, corpus.train))), vocab_size=VOCABULARY)
    tokenizer = make_tokenizer(recipe, corpus, fit=True)
    return tokenizer, join(corpus.train, tokenizer), join(corpus.val, tokenizer)  # type: ignore[return-value]


def write_text(config: TextConfig, seed: int, watch: Watch) -> Mapping[str, float | bool | str]:
    """Train; measure the loss on held-out text with and without the future in sight; let the model write, and score it where it wrote tales."""
    tokenizer, train_ids, val_ids = prepared(config.data)
    model = build_gpt(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size), seed)
    T = config.model.context
    trainer = Trainer(model, config.train, Batches(train_ids, RandomSampler(len(train_ids), T, config.batch_size, seed), T), callbacks=[_Report(watch)])
    trainer.run()
    windows = min(config.check_windows, (len(val_ids) - 1) // T)
    x, y = Batches(val_ids, SequentialSampler(len(val_ids), T, windows), T).next()
    with at_rest(model):
        figures = {"val_loss": float(cross_entropy(model(x), y)), "writing_loss": writing_loss(model, x, y)}
    scores = tale_figures(model, tokenizer, seed) if config.data.partition(":")[0] == "tales" else {}
    return {**figures, **scores, "causal": is_causal(model, x[:4]), "text": sample(model, tokenizer, seed, config.words)}


OVERHEAD_SECONDS = 4.0  # of an arm besides its steps: reading the text, measuring, writing


def seconds_per_step(config: TextConfig) -> float:
    """The fastest of a few steps, on as many threads as torch has now."""
    tokenizer, train_ids, _ = prepared(config.data)
    model = build_gpt(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size), 0)
    T = config.model.context
    trainer = Trainer(model, config.train, Batches(train_ids, RandomSampler(len(train_ids), T, config.batch_size, 0), T))
    return min(trainer.step().seconds for _ in range(config.train.steps))


class _Report(Callback):
    """Passes losses on."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def after_step(self, trainer: Trainer, figures: Figures) -> None:
        """Note one step."""
        self.watch(figures.step, loss=figures.loss)


def writing_loss(model: GPT, x: Tensor, y: Tensor) -> float:
    """The loss at the last position of prefixes: no future to look at, as when the model writes."""
    ends = range(7, x.shape[1], 8)
    return float(torch.stack([cross_entropy(model(x[:, : end + 1])[:, -1], y[:, end]) for end in ends]).mean())


def tale_figures(model: GPT, tokenizer: FastBPE, seed: int) -> dict[str, float]:
    """How often the model is right in the tales that it makes up; a broken one may write no sentence at all."""
    scores = score(made_up(model, tokenizer, seed))
    return {name: scores[name].share or 0.0 for name in ("parsed", "agreement", "recall")}


def made_up(model: GPT, tokenizer: Tokenizer, seed: int, *, stories: int = STORIES, tokens: int = WRITTEN, temperature: float = 0.8) -> list[str]:
    """Texts from the start of a document: one prompt for all, the end mark, so that they are written in one batch. A last sentence cut off is left out."""
    end = end_id(tokenizer)
    start = [0 if end is None else end]
    generator = torch.Generator().manual_seed(stream_seed(seed, "sample/tales"))
    config = SampleConfig(max_tokens=tokens, temperature=temperature, end_ids=() if end is None else (end,))
    written = generate_batch(model, [start] * stories, config, generator)
    return [whole_sentences(tokenizer.decode(ids)) if len(ids) == tokens else tokenizer.decode(ids) for ids in written]


def sample(model: GPT, tokenizer: FastBPE, seed: int, tokens: int) -> str:
    """What the model writes from the start of a document; ¶ stands for an end mark."""
    end = end_id(tokenizer)
    generator = torch.Generator().manual_seed(stream_seed(seed, "sample"))
    (written,) = generate_batch(model, [[0 if end is None else end]], SampleConfig(max_tokens=tokens, temperature=0.8), generator)
    return tokenizer.decode(written).replace(END_OF_TEXT, " ¶ ").strip()


def share(says: str) -> Metric:
    """A share of what could be right."""
    return Metric(says=says, floor=1.0, ceiling=0.0, smallest=0.05, worst=0.0, better="higher")


UNIFORM = math.log(VOCABULARY)
BASELINES = (
    Baseline(
        name="demo.text",
        says="Four blocks, width 64, four heads, 64 tokens (BPE of 512), 300 steps of 12 windows with AdamW, warm-up and cosine.",
        run=write_text,
        config=TextConfig(),
        metrics={
            "val_loss": Metric(says="loss on held-out text (nats per token)", floor=0.0, ceiling=UNIFORM, smallest=0.03, worst=2 * UNIFORM),
            "writing_loss": Metric(
                says="loss where no future is in sight, as when writing (nats per token)", floor=0.0, ceiling=UNIFORM, smallest=0.03, worst=2 * UNIFORM
            ),
            "parsed": share("share of some 200 generated sentences that are sentences of tales"),
            "agreement": share("share of generated verbs that agree with their subject, in sentences that parse"),
            "recall": share("share of generated references to an earlier fact that are right, in sentences that parse"),
            "causal": Metric(says="no logit moves when only a later token changes", better="neither"),
        },
        seconds=12,
        corpus="tales, or the text that is given",
    ),
)
