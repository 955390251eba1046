"""A trainer small enough to run in milliseconds, whose batches are a function of their number; also run as a program by the fault tests."""

import sys
import time
from pathlib import Path

import torch

from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.train.loop import Callback, Figures, TrainConfig, Trainer
from underhood.train.optim_config import OptimConfig
from underhood.train.schedule import ScheduleConfig

MODEL = GPTConfig(vocab_size=17, context=16, n_layer=2, n_head=2, width=16, dropout=0.2)
TRAIN = TrainConfig(steps=60, save_every=20, optim=OptimConfig(lr=3e-3), schedule=ScheduleConfig(warmup=5))


class Numbered:
    """Batch i is made from the number i alone."""

    def __init__(self, vocab_size: int = 17, context: int = 16) -> None:
        self.i, self.vocab_size, self.context = 0, vocab_size, context

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.i)
        self.i += 1
        ids = torch.randint(0, 5, (4, self.context + 1), generator=generator).cumsum(1) % self.vocab_size
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def state(self) -> dict[str, int]:
        return {"i": self.i}

    def load_state(self, state: dict[str, int]) -> None:
        self.i = state["i"]


class Losses(Callback):
    """Remembers every loss."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def after_step(self, trainer: Trainer, figures: Figures) -> None:
        self.seen.append(figures.loss)


def make(folder: Path | None = None, *, model: GPTConfig = MODEL, train: TrainConfig = TRAIN, seed: int = 0, **options) -> Trainer:
    return Trainer(build_gpt(model, seed), train, Numbered(model.vocab_size, model.context), folder=folder, **options)


class Slow(Callback):
    """Says that a step is done, and takes its time."""

    def after_step(self, trainer: Trainer, figures: Figures) -> None:
        print(f"step {figures.step}", flush=True)
        time.sleep(0.02)


def main() -> None:
    """Train into a folder, for the tests that kill and interrupt: ``small.py FOLDER MODE``."""
    torch.set_num_threads(1)
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    if mode == "slow_steps":
        trainer = make(folder, callbacks=[Slow()], train=TrainConfig(steps=10_000))
        print(trainer.run(), trainer.steps_done, flush=True)
    elif mode == "save_without_end":
        big = GPTConfig(vocab_size=300, context=16, n_layer=2, n_head=2, width=128)
        trainer = make(folder, model=big, train=TrainConfig(steps=10_000, save_every=1, keep=2))
        print("ready", flush=True)
        trainer.run()
    elif mode == "limited":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        trainer = make(folder)
        trainer.step()
        trainer.save()


if __name__ == "__main__":
    main()
