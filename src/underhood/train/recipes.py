"""Recipes: functions that turn one dial and the size of a text into a whole run. Everything they decide can be changed by TOML and ``--set``."""

import dataclasses

from underhood.base.config import part
from underhood.base.errors import ConfigError
from underhood.nn.fast import fast
from underhood.nn.gpt import GPTConfig
from underhood.train.loop import TrainConfig
from underhood.train.optim_config import OptimConfig
from underhood.train.schedule import ScheduleConfig

HEAD_WIDTH = 32  # numbers per head; 64 is usual in large models, small ones want several heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run on one text: what `underhood train` writes into ``config.json``."""

    data: str = "tales"  # a corpus by name, a file or a folder
    seed: int = 0
    vocab_size: int = 1024  # of the tokenizer that is trained on the text
    tokenizer: str = "bpe"  # "bpe" (the fast one), "bpe-readable", "chars", or the path of a tokenizer.json to use as it is
    pattern: str = "gpt2"  # how the text is cut before merging
    sampler: str = part("underhood.data.sampler", "ShuffledSampler")  # each window once an epoch; RandomSampler draws them anywhere
    batch_size: int = 8  # sequences per batch; small batches learn more from each token
    model: GPTConfig  # its vocab_size follows the tokenizer's
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


def modern(depth: int, *, vocab_size: int, context: int = 256) -> GPTConfig:
    """A model of ``depth`` blocks, 32 · depth wide, of the parts that small models learn fastest with.

    Rotary positions, RMS norm, normalised queries and keys, squared ReLU, no biases; the branches start at zero.
    ``bench/shakespeare.py`` measures what each is worth.
    """
    if depth < 1:
        raise ConfigError(f"found {depth}", where="depth", expected="at least 1")
    width = HEAD_WIDTH * max(2, depth)
    return fast(
        GPTConfig(
            vocab_size=vocab_size,
            context=context,
            n_layer=depth,
            n_head=width // HEAD_WIDTH,
            width=width,
            bias=False,
            norm="RMSNorm",
            positions="Rotary",
            qk_norm=True,
            activation="relu_squared",
            residual_init="zero",
        )
    )


SHORT_TEXT = 20_000  # characters; below this a text cannot fill a vocabulary of merges, so its characters are the tokens
CONTEXT = 256


def small(depth: int = 4, *, data: str = "tales", characters: int = 2_000_000, steps: int = 1000) -> RunConfig:
    """What `underhood train` does with a text of ``characters``: a vocabulary and a context that the text can fill, ``depth`` blocks, Muon, a cosine."""
    short = characters < SHORT_TEXT
    vocab_size = vocabulary_for(characters)
    held_out = characters // 10 // (1 if short else 4)  # tokens, at least, to validate on
    context = max(8, min(CONTEXT, 1 << max(3, held_out.bit_length() - 1)))
    width = HEAD_WIDTH * max(2, depth)
    optim = OptimConfig(kind="underhood.train.optim_fast:Muon", lr=0.02, other_lr=0.02 * 128 / width, momentum=0.85, weight_decay=0.0)
    return RunConfig(
        data=data,
        vocab_size=vocab_size,
        tokenizer="chars" if short else "bpe",
        model=modern(depth, vocab_size=vocab_size, context=context),
        train=TrainConfig(steps=steps, optim=optim, schedule=ScheduleConfig(warmup=max(1, min(100, steps // 10))), loss_chunk=1024),
    )


def vocabulary_for(characters: int) -> int:
    """A power of two from 512 to 32,768: about one token for every 2,000 characters, so that each is seen often enough to be learned."""
    wanted = max(512, min(32_768, characters // 2_000))
    return 1 << (wanted.bit_length() - 1)


def speedrun(steps: int = 400) -> RunConfig:
    """The quickest way that we know to a validation loss of 1.88 on the characters of Shakespeare, on a CPU.

    ``modern``'s parts in two wide blocks, with a head of its own; small batches; Muon in four rounds on the blocks' matrices and AdamW on the rest, at high
    rates that fall straight to zero, because a short run has no time for cautious ones. Nothing is clipped: neither optimizer's step grows with the gradient.
    ``bench/shakespeare.py`` measures it beside a plain recipe, and what each part is worth.
    """
    parts = modern(5, vocab_size=65, context=64)
    model = fast(dataclasses.replace(parts, n_layer=2, tie=False, norm="LayerNorm"))
    optim = OptimConfig(kind="underhood.train.optim_fast:MuonMinimax", lr=0.022, other_lr=0.018, momentum=0.85, weight_decay=0.0)
    train = TrainConfig(steps=steps, clip=None, optim=optim, schedule=ScheduleConfig(shape="warmup_linear", warmup=10, floor=0.0))
    return RunConfig(data="shakespeare", tokenizer="chars", batch_size=8, model=model, train=train)
