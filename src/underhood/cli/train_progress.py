"""Training as a person sees it: a bar on a terminal, a line at ten validations, three samples on the way; the end is told by who trains."""

from collections.abc import Mapping

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from underhood.base.rng import stream_seed
from underhood.infer.sample import SampleConfig, generate_batch
from underhood.train.loop import Callback, Figures, Trainer
from underhood.train.run import Metrics, Run

LINES, SAMPLES = 10, 4  # of a whole run, the end included


class TrainingProgress(Callback):
    """A live bar on a terminal; a line with both losses now and then, and after some of them what the model writes."""

    def __init__(self, run: Run, prompt: str, from_step: int) -> None:
        self.run, self.prompt = run, prompt
        self.metrics = Metrics(run.folder, from_step=from_step)
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.latest = ("", "")
        self.task = self.bar.add_task("training", total=run.config.train.steps, completed=from_step)

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def after_step(self, trainer: Trainer, figures: Figures) -> None:
        """Move the bar."""
        rate = figures.tokens / figures.seconds
        self.bar.update(self.task, completed=figures.step, description=f"loss {figures.loss:.3f} · {rate:,.0f} tokens/s")
        self.latest = (f"loss {figures.loss:.3f}", f"{rate:,.0f} tokens/s")

    def after_validation(self, trainer: Trainer, step: int, figures: Mapping[str, float]) -> None:
        """Print a line when the next tenth of the run is done, and what the model writes now after a quarter."""
        if step == self.run.config.train.steps:
            return
        sampled = self._passes(step, SAMPLES)
        if sampled or self._passes(step, LINES):
            (loss, rate), held_out = self.latest, f"held-out {figures['loss']:.3f} ({figures['bits_per_byte']:.3f} bits per byte)"
            self.console.print(f"step {step}/{self.run.config.train.steps}: {loss}, {held_out}, {rate}", highlight=False, soft_wrap=True)
        if sampled:
            text = self.sample(trainer)
            self.metrics.write(step, sample=text)
            self.console.print(f"    {' '.join(text.split())[:160]}", highlight=False, markup=False, style="dim")

    def _passes(self, step: int, parts: int) -> bool:
        """Whether another of ``parts`` equal parts of the run has been done since the validation before."""
        config = self.run.config.train
        return step * parts // config.steps > (step - config.validate_every) * parts // config.steps

    def sample(self, trainer: Trainer) -> str:
        """What the model writes now."""
        start = self.run.tokenizer.encode(self.prompt) if self.prompt else [int(self.run.val[0])]
        generator = torch.Generator().manual_seed(stream_seed(self.run.config.seed, f"sample/{trainer.steps_done}"))
        written = generate_batch(trainer.model, [start], SampleConfig(max_tokens=80, temperature=0.8), generator)  # type: ignore[arg-type]
        return self.run.text_of([*start, *written[0]]).strip()
