"""What a training loop is worth: the time to one validation loss with a plain recipe and with a quick one, and what its safety costs. Nothing is printed."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from underhood.lab.baselines.gpt import VOCABULARY, random_batches, tales, windows
from underhood.lab.timing import best_of
from underhood.nn.fast import fast
from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.train.checkpoint import load_checkpoint
from underhood.train.loop import TrainConfig, Trainer
from underhood.train.optim_config import OptimConfig
from underhood.train.recipes import speedrun
from underhood.train.schedule import ScheduleConfig
from underhood.train.validate import validation_loss

SECONDS = 60  # about, on one thread
CONTEXT, CHECK_WINDOWS, CHECK_EVERY = 64, 96, 20
ADAMW = "underhood.train.optim_fast:AdamW"


def measure(target: float = 1.4) -> dict[str, Any]:
    """Steps and seconds until tales are predicted with ``target`` nats a token, validation not counted; an update accumulated; a checkpoint."""
    plain, quick = until(target, *plain_recipe()), until(target, *quick_recipe())
    return {
        "target_nats_per_token": target,
        "floor_nats_per_token": tales().floor,
        "plain": plain,
        "quick": quick,
        "quick_share_of_plain_time": quick["training_s"] / plain["training_s"],
        **accumulation(),
        **checkpoints(),
    }


def plain_recipe() -> tuple[GPTConfig, TrainConfig, int]:
    """What nanoGPT's README gives for a CPU, on tales: 4 layers of width 128, AdamW 1e-3 → 1e-4 by a cosine over 2,000 steps, 12 windows of 64."""
    optim = OptimConfig(kind=ADAMW, lr=1e-3, weight_decay=0.1, beta2=0.99)
    train = TrainConfig(steps=2000, optim=optim, schedule=ScheduleConfig(shape="warmup_cosine", warmup=100, floor=0.1))
    return fast(GPTConfig(vocab_size=VOCABULARY, context=CONTEXT)), train, 12


def quick_recipe() -> tuple[GPTConfig, TrainConfig, int]:
    """``speedrun``'s parts, over 200 steps."""
    recipe = speedrun(200)
    return dataclasses.replace(recipe.model, vocab_size=VOCABULARY, context=CONTEXT), recipe.train, recipe.batch_size


def until(target: float, model: GPTConfig, train: TrainConfig, batch_size: int) -> dict[str, float]:
    """Train from seed 0 until the first check at or below ``target``, or to the end of the recipe."""
    text = tales()
    trainer = Trainer(build_gpt(model, 0), train, random_batches(text.train, CONTEXT, batch_size, 0))
    held_out, seconds, loss = windows(text.val, CONTEXT, CHECK_WINDOWS), 0.0, float("inf")
    while loss > target and trainer.steps_done < train.steps:
        seconds += sum(trainer.step().seconds for _ in range(CHECK_EVERY))
        loss = validation_loss(trainer.model, held_out)
    steps = trainer.steps_done
    return {"steps": steps, "training_s": seconds, "ms_per_step": 1e3 * seconds / steps, "tokens": steps * batch_size * CONTEXT, "val_nats_per_token": loss}


def accumulation() -> dict[str, float]:
    """An update of 16 windows at once and of 4 times 4: the same gradient, and a quarter of the activations held."""
    model, train, _ = plain_recipe()
    found = {}
    for name, batch_size, accumulate in (("whole", 16, 1), ("accumulated", 4, 4)):
        config = dataclasses.replace(train, accumulate=accumulate)
        trainer = Trainer(build_gpt(model, 0), config, random_batches(tales().train, CONTEXT, batch_size, 0))
        found[f"ms_per_update_{name}"] = 1e3 * best_of(trainer.step)
    return found


def checkpoints() -> dict[str, float]:
    """Saving everything that the next step depends on, and reading it back with its checksums."""
    model, train, batch_size = plain_recipe()
    with tempfile.TemporaryDirectory() as place:
        trainer = Trainer(build_gpt(model, 0), train, random_batches(tales().train, CONTEXT, batch_size, 0), folder=place)

        def save() -> None:
            trainer.steps_done += 1  # a checkpoint is never written over
            trainer.save()

        trainer.step()  # the moments exist from the first step on
        saving = best_of(save)
        saved = sorted(Path(place).iterdir())[-1]
        size = sum(p.stat().st_size for p in saved.iterdir())
        loading = best_of(lambda: load_checkpoint(saved))
    return {"checkpoint_mb": size / 1e6, "checkpoint_bytes_per_parameter": size / _parameters(model), "save_ms": 1e3 * saving, "load_ms": 1e3 * loading}


def _parameters(config: GPTConfig) -> int:
    return sum(p.numel() for p in build_gpt(config, 0).parameters())
