"""The training loop: take batches, add up gradients, clip, set the learning rate, update; validate, save and stop when it is time.

``Trainer.step`` is the whole algorithm on one page; everything else here is about surviving: exact resume, NaNs that are named, signals that are obeyed.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from underhood.base.config import to_plain
from underhood.base.errors import CheckpointError, ConfigError, NonFinite
from underhood.train import checkpoint as files
from underhood.train.accumulate import Batch, accumulate_gradients
from underhood.train.clip import clip_gradients
from underhood.train.groups import named_once
from underhood.train.loss import chunked_cross_entropy, cross_entropy
from underhood.train.nonfinite import first_nonfinite
from underhood.train.optim_config import OptimConfig, build_optimizer
from underhood.train.precision import MasterWeights
from underhood.train.randomness import random_state, restore_random_state
from underhood.train.schedule import ScheduleConfig
from underhood.train.signals import graceful_stop


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run, apart from the model and the data."""

    steps: int = 1000  # updates, not batches
    accumulate: int = 1  # batches per update
    clip: float | None = 1.0  # the largest global gradient norm; GPT-3's
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16 keeps fp32 master weights; worth it only where the machine multiplies bf16 fast
    loss_chunk: int = 0  # rows of logits held at a time; 0: all of them, the plain path
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    validate_every: int = 0  # steps; 0: never
    save_every: int = 0  # steps; 0: only at the end, and when interrupted
    keep: int = 2  # checkpoints besides the best: the one before the last is there when the last is damaged

    def __post_init__(self) -> None:
        for field, least in (("steps", 0), ("accumulate", 1), ("loss_chunk", 0), ("validate_every", 0), ("save_every", 0), ("keep", 1)):
            if getattr(self, field) < least:
                raise ConfigError(f"found {getattr(self, field)}", where=f"train.{field}", expected=f"at least {least}")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"found {self.clip}", where="train.clip", expected="more than 0, or none")


MAY_CHANGE = ("steps", "validate_every", "save_every", "keep")  # on resume: they change no step that has been made


class BatchSource(Protocol):
    """Where batches come from, and at what place in the data."""

    def next(self) -> Batch: ...
    def state(self) -> Any: ...
    def load_state(self, state: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one step was like."""

    step: int  # 1 for the first
    loss: float  # nats per token, before the update
    gradient_norm: float  # before clipping
    lr: float
    tokens: int
    seconds: float


class Callback:
    """Called by the trainer; override what is needed."""

    def before_update(self, trainer: "Trainer") -> None:
        """The gradients are ready and clipped, the weights are still the old ones."""

    def after_step(self, trainer: "Trainer", figures: Figures) -> None:
        """An update has been made."""

    def after_validation(self, trainer: "Trainer", step: int, figures: Mapping[str, float]) -> None:
        """``validate`` has been run."""

    def after_save(self, trainer: "Trainer", path: Path) -> None:
        """A checkpoint is on the disk."""


Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Trainer:
    """Trains ``model`` in place. ``validate(model)`` returns figures, of which ``"loss"`` picks the best checkpoint; ``folder`` is where checkpoints go.

    ``objective(model, x, y)`` gives the loss summed over the targets that count; by default next-token cross-entropy. ``facts`` (JSON values, such as the
    tokenizer's checksum) are stored with each checkpoint and must agree on resume.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        batches: BatchSource,
        validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        callbacks: Sequence[Callback] = (),
        *,
        folder: Path | str | None = None,
        objective: Objective | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.config, self.batches, self.validate, self.callbacks = model, config, batches, validate, list(callbacks)
        self.folder = None if folder is None else Path(folder)
        self.objective = objective or next_token(config.loss_chunk)
        self.facts = dict(facts or {})
        self.masters = MasterWeights(model) if config.precision == "bf16" else None
        self.parameters: dict[str, Tensor] = dict(self.masters.weights if self.masters else named_once(model))
        self.optimizer = build_optimizer(self.parameters, config.optim)
        self.device = next(model.parameters()).device
        self.steps_done, self.tokens_seen = 0, 0
        self.best: tuple[int, float] | None = None  # step and validation loss
        self.stop = False  # a callback sets it to end the run after the step at hand

    def step(self) -> Figures:
        """One update. Raises ``NonFinite`` naming the module where a NaN or infinity was born; the weights are then as before."""
        started = time.perf_counter()
        if not self.model.training:
            self.model.train()
        batches = [self._next_batch() for _ in range(self.config.accumulate)]
        drawn = random_state(self.model)
        try:
            loss = float(accumulate_gradients(self._loss_sum, batches, self.masters.collect if self.masters else None))
            if not math.isfinite(loss):
                raise NonFinite("the loss")
            norm = clip_gradients(self.parameters.values(), self.config.clip)
        except NonFinite as error:
            raise NonFinite(error.what, step=self.steps_done + 1, module=self._trace(batches, drawn)) from None
        self.optimizer.scale = self.config.schedule.share(self.steps_done, self.config.steps)
        for callback in self.callbacks:
            callback.before_update(self)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.masters:
            self.masters.publish()
        tokens = sum(y.numel() for _, y in batches)
        self.steps_done += 1
        self.tokens_seen += tokens
        lr = self.optimizer.groups[0].lr * self.optimizer.scale
        figures = Figures(self.steps_done, loss, norm, lr, tokens, time.perf_counter() - started)
        for callback in self.callbacks:
            callback.after_step(self, figures)
        return figures

    def run(self) -> Literal["finished", "stopped"]:
        """Step until the config's ``steps``; validate and save on the way. SIGINT or SIGTERM: finish the step, save, return ``"stopped"``."""
        with graceful_stop() as request:
            while self.steps_done < self.config.steps and not (request.asked or self.stop):
                self.step()
                last = self.steps_done == self.config.steps
                figures = self._validated() if self.validate and (last or _due(self.steps_done, self.config.validate_every)) else None
                if self.folder and (last or _due(self.steps_done, self.config.save_every)):
                    self.save(None if figures is None else figures.get("loss"))
            if self.folder and self.steps_done < self.config.steps:
                self.save()
        return "finished" if self.steps_done >= self.config.steps else "stopped"

    def _validated(self) -> Mapping[str, float]:
        assert self.validate is not None
        figures = self.validate(self.model)
        for callback in self.callbacks:
            callback.after_validation(self, self.steps_done, figures)
        return figures

    def _next_batch(self) -> Batch:
        x, y = self.batches.next()
        return x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)

    def _loss_sum(self, x: Tensor, y: Tensor) -> Tensor:
        return self.objective(self.model, x, y)

    def _trace(self, batches: Sequence[Batch], drawn: dict[str, Tensor]) -> str:
        """Repeat the batches as they were, watched; leave no gradient and the random state as it was before the step."""
        self.optimizer.zero_grad()
        self.model.zero_grad(set_to_none=True)
        restore_random_state(self.model, drawn)
        try:
            return first_nonfinite(self.model, lambda: accumulate_gradients(self._loss_sum, batches))
        finally:
            self.optimizer.zero_grad()
            self.model.zero_grad(set_to_none=True)
            restore_random_state(self.model, drawn)

    def save(self, validation_loss: float | None = None) -> Path:
        """Write a checkpoint of now, unless there is one already; keep the last ``keep`` and the best. Raises ``FileSystemError``."""
        assert self.folder is not None, "a trainer without a folder cannot save"
        if validation_loss is not None and (self.best is None or validation_loss < self.best[1]):
            self.best = (self.steps_done, validation_loss)
        final = self.folder / f"step-{self.steps_done:06d}"
        if not final.exists():
            files.save_checkpoint(self.folder, self.steps_done, self._checkpoint())
            for callback in self.callbacks:
                callback.after_save(self, final)
        files.prune(self.folder, keep=self.config.keep, best=self.best[0] if self.best else None)
        return final

    def _checkpoint(self) -> files.Checkpoint:
        """Everything that the next step depends on."""
        state = {f"optim/{name}": t for name, t in self.optimizer.state_dict().items()}
        state |= {f"random/{name}": t for name, t in random_state(self.model).items()}
        state |= {f"master/{name}": t for name, t in (self.masters.state_dict() if self.masters else {}).items()}
        facts = {"config": self._config(), "facts": self.facts, "data": self.batches.state(), "tokens": self.tokens_seen, "best": self.best}
        return files.Checkpoint(model=files.model_tensors(self.model), state=state, facts=facts)

    def _config(self) -> dict[str, Any]:
        model = getattr(self.model, "config", None)
        return {"model": to_plain(model) if dataclasses.is_dataclass(model) else None, "train": to_plain(self.config)}

    def resume(self) -> list[str]:
        """Go on from the highest whole checkpoint of the folder; returns a message for each damaged one passed over.

        Raises ``CheckpointError`` when none is whole, or naming every field in which its config differs; nothing has been changed then.
        """
        assert self.folder is not None, "a trainer without a folder cannot resume"
        files.clean_stale(self.folder)
        found, problems = files.latest_checkpoint(self.folder)
        self.load(found)
        return problems

    def load(self, found: files.Checkpoint) -> None:
        """Take over a checkpoint."""
        self._check_config(found)
        files.load_model(self.model, found.model, str(found.path or ""))
        if self.masters:
            self.masters.load_state_dict(_under("master/", found.state))
        self.optimizer.load_state_dict(_under("optim/", found.state))
        self.batches.load_state(found.facts["data"])
        self.steps_done, self.tokens_seen = found.facts["step"], found.facts["tokens"]
        best = found.facts["best"]
        self.best = None if best is None else (best[0], best[1])
        restore_random_state(self.model, _under("random/", found.state))

    def _check_config(self, found: files.Checkpoint) -> None:
        facts, where = found.facts, str(found.path or "")
        if missing := [name for name in ("config", "facts", "data", "tokens", "best") if name not in facts]:
            raise CheckpointError(f"no {missing[0]!r} in {files.INDEX}", where=where)
        free = {f"train.{name}" for name in MAY_CHANGE}
        fields = files.differences(facts["config"], self._config()) + files.differences(facts["facts"], self.facts)
        fields = [f for f in fields if f.partition(":")[0] not in free]
        if fields:
            raise CheckpointError(
                f"another configuration: {'; '.join(fields)}", where=where, remedy="Resume with the checkpoint's own values, or start in another folder."
            )


def next_token(chunk: int = 0) -> Objective:
    """Cross-entropy of the next token, summed: over whole logits, or ``chunk`` rows at a time."""

    def whole(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model(x), y, reduction="sum")

    def chunked(model: Any, x: Tensor, y: Tensor) -> Tensor:
        if getattr(model.config, "logit_cap", None) is not None:
            raise ConfigError("logits that are capped cannot be made a few rows at a time", where="train.loss_chunk", expected="0")
        return chunked_cross_entropy(model.hidden(x), model.head_weight, y, chunk=chunk, reduction="sum")

    return chunked if chunk else whole


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
