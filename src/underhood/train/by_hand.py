"""A run on the plain path alone: every part that a project of the course owns, none of its fast twins. What a learner's own layers are plugged into."""

import dataclasses

from underhood.nn.gpt import GPTConfig
from underhood.train.optim_config import OptimConfig
from underhood.train.recipes import RunConfig
from underhood.train.run import READABLE
from underhood.train.schedule import ScheduleConfig

CONTEXT = 64


def by_hand(recipe: RunConfig, depth: int) -> RunConfig:
    """``recipe`` with GPT-2's parts, the readable tokenizer, windows drawn anywhere, and AdamW under warm-up and cosine.

    Width is 16 a block: the readable path is slow, and a model that finishes teaches more than a larger one that does not.
    """
    width = 16 * max(2, depth)
    model = GPTConfig(
        vocab_size=recipe.model.vocab_size,
        context=min(CONTEXT, recipe.model.context),
        n_layer=depth,
        n_head=max(2, depth),
        width=width,
        init="fan_in",
    )
    optim = OptimConfig(lr=6e-3 * 64 / width)
    schedule = ScheduleConfig(warmup=max(1, min(40, recipe.train.steps // 10)))
    return dataclasses.replace(
        recipe,
        model=model,
        tokenizer=recipe.tokenizer if recipe.tokenizer != "bpe" else READABLE,
        sampler="RandomSampler",
        batch_size=12,
        train=dataclasses.replace(recipe.train, optim=optim, schedule=schedule, loss_chunk=0),
    )


def in_words(config: RunConfig) -> str:
    """What a run is made of: ``"context 64, AdamW, LayerNorm, Learned positions, RandomSampler"``."""
    model = config.model
    optimizer, norm, positions, sampler = (name.rpartition(":")[2] for name in (config.train.optim.kind, model.norm, model.positions, config.sampler))
    return f"context {model.context}, {optimizer}, {norm}, {positions} positions, {sampler}"
