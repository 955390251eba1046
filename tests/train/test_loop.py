"""The trainer: exact resume, the same curve as transformers' GPT-2 with torch's AdamW, NaNs that are named, precision, callbacks."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.train.small import MODEL, TRAIN, Losses, Numbered, make
from underhood.base.errors import ConfigError, DataError, NonFinite
from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.train import loop, nonfinite
from underhood.train.loop import Callback, TrainConfig, Trainer
from underhood.train.loss import IGNORE
from underhood.train.optim_config import OptimConfig
from underhood.train.schedule import ScheduleConfig

FAST = "underhood.train.optim_fast"
RECIPES = {
    "adamw": TRAIN,
    "sgd": dataclasses.replace(TRAIN, optim=OptimConfig(kind="SGD", lr=0.1)),
    "lion": dataclasses.replace(TRAIN, optim=OptimConfig(kind="Lion", lr=3e-4)),
    "muon": dataclasses.replace(TRAIN, optim=OptimConfig(kind=f"{FAST}:Muon", lr=0.02)),
    "fast": dataclasses.replace(TRAIN, optim=OptimConfig(kind=f"{FAST}:AdamW"), loss_chunk=40),
    "bf16": dataclasses.replace(TRAIN, precision="bf16"),
    "accumulated": dataclasses.replace(TRAIN, accumulate=3),
    "wsd": dataclasses.replace(TRAIN, schedule=ScheduleConfig(shape="warmup_stable_decay", warmup=5)),
}


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


@pytest.mark.parametrize("recipe", RECIPES)
def test_resume_is_exact_over_40_steps(recipe: str, tmp_path: Path) -> None:
    train = RECIPES[recipe]
    whole, parts = Losses(), Losses()
    uninterrupted = make(tmp_path / "whole", train=train, callbacks=[whole])
    uninterrupted.run()
    first = make(tmp_path / "parts", train=train)
    for _ in range(20):
        first.step()
    first.save()
    second = make(tmp_path / "parts", train=train, callbacks=[parts], seed=5)
    second.resume()
    second.run()
    assert parts.seen == whole.seen[20:]
    assert all(torch.equal(a, b) for a, b in zip(weights(uninterrupted), weights(second), strict=True))


@pytest.mark.parametrize("forgotten", ["optimizer", "randomness", "data", "step"])
def test_without_any_part_of_the_state_it_is_not(forgotten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = Losses(), Losses()
    make(tmp_path / "whole", callbacks=[whole]).run()
    first = make(tmp_path / "parts")
    for _ in range(20):
        first.step()
    first.save()
    second = make(tmp_path / "parts", callbacks=[parts])
    if forgotten == "optimizer":
        monkeypatch.setattr(second.optimizer, "load_state_dict", lambda state: None)
    elif forgotten == "randomness":
        monkeypatch.setattr(loop, "restore_random_state", lambda model, state: None)
    elif forgotten == "data":
        monkeypatch.setattr(second.batches, "load_state", lambda state: None)
    second.resume()
    if forgotten == "step":
        second.steps_done = 0
    for _ in range(20):
        second.step()
    assert parts.seen != whole.seen[20:40]


@pytest.mark.slow
def test_200_steps_are_those_of_transformers_gpt2_and_torchs_adamw() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers import GPT2Config, GPT2LMHeadModel

    transformers.logging.set_verbosity_error()
    size = {"vocab_size": 61, "n_positions": 32, "n_embd": 48, "n_layer": 2, "n_head": 3}
    theirs = GPT2LMHeadModel(GPT2Config(**size, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0))
    model = build_gpt(GPTConfig(vocab_size=61, context=32, n_layer=2, n_head=3, width=48), 0)
    copy_into(theirs, model)
    train = TrainConfig(steps=200, optim=OptimConfig(lr=1e-3, weight_decay=0.1), schedule=ScheduleConfig(warmup=20))
    ours = Trainer(model, train, Numbered(61, 32))
    decayed = [p for p in theirs.parameters() if p.ndim >= 2]
    rest = [p for p in theirs.parameters() if p.ndim < 2]
    adamw = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.95))
    batches = Numbered(61, 32)
    worst = 0.0
    for step in range(200):
        for group in adamw.param_groups:
            group["lr"] = 1e-3 * train.schedule.share(step, 200)
        x, y = batches.next()
        loss = F.cross_entropy(theirs(x).logits.flatten(0, 1), y.flatten())
        adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adamw.step()
        worst = max(worst, abs(ours.step().loss - float(loss.detach())))
    assert worst < 1e-4


def copy_into(theirs: nn.Module, ours: nn.Module) -> None:
    """Our random weights in transformers' layout (its linear layers are transposed)."""
    state = dict(theirs.named_parameters())
    names = {
        "tokens": "wte",
        "positions.table": "wpe",
        "blocks": "h",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attention.qkv": "attn.c_attn",
        "attention.output": "attn.c_proj",
        "feedforward.up": "mlp.c_fc",
        "feedforward.down": "mlp.c_proj",
    }
    for name, p in ours.named_parameters():
        theirs_name = name.replace("norm.", "ln_f.") if name.startswith("norm.") else name
        for a, b in names.items():
            theirs_name = theirs_name.replace(a, b)
        linear = name.startswith("blocks") and p.ndim == 2
        with torch.no_grad():
            state[f"transformer.{theirs_name}"].copy_(p.T if linear else p)


class Poison(nn.Module):
    """Gives NaN from the ``at``-th call on."""

    def __init__(self, inner: nn.Module, at: int, value: float = float("nan")) -> None:
        super().__init__()
        self.inner, self.at, self.calls, self.value = inner, at, 0, value

    def forward(self, *args, **kwargs):
        self.calls += 1
        out = self.inner(*args, **kwargs)
        return out * self.value if self.calls >= self.at else out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_is_named_and_the_weights_are_left_as_they_were(value: float) -> None:
    trainer = make()
    trainer.model.blocks[1].feedforward.down = Poison(trainer.model.blocks[1].feedforward.down, 3, value)
    trainer.step()
    trainer.step()
    before, moments = weights(trainer), {n: t.clone() for n, t in trainer.optimizer.state_dict().items()}
    with pytest.raises(NonFinite, match=r"the loss is not finite at step 3; first born in blocks\.1\.feedforward\.down") as error:
        trainer.step()
    assert (error.value.step, error.value.module) == (3, "blocks.1.feedforward.down")
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))
    assert all(torch.equal(t, trainer.optimizer.state_dict()[n]) for n, t in moments.items())
    assert all(p.grad is None for p in trainer.model.parameters())
    assert not any(m._forward_hooks for m in trainer.model.modules()), "no hook stays"


def test_the_batch_is_repeated_with_the_same_draws() -> None:
    seen = []
    trainer = make()
    drop = trainer.model.dropout
    handle = drop.register_forward_hook(lambda m, i, out: seen.append(out.detach().clone()))
    trainer.model.norm = Poison(trainer.model.norm, 1)
    with pytest.raises(NonFinite, match="first born in norm"):
        trainer.step()
    handle.remove()
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])


def test_a_nan_in_the_gradient_alone_is_named() -> None:
    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + (x * 0).sqrt()  # forward 0; backward 1/(2·√0) · 0 = NaN

    trainer = make()
    trainer.model.blocks[0].dropout = Root()
    with pytest.raises(NonFinite, match=r"gradient norm is not finite at step 1; first born in blocks\.0\.dropout \(backward\)"):
        trainer.step()


def test_bad_weights_are_named_as_such() -> None:
    trainer = make()
    with torch.no_grad():
        trainer.model.norm.weight[0] = float("nan")
    with pytest.raises(NonFinite, match=r"the weights of norm\.weight"):
        trainer.step()


def test_without_the_check_every_weight_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the guard before the update."""
    trainer = make()
    trainer.model.norm = Poison(trainer.model.norm, 1)
    monkeypatch.setattr(loop.math, "isfinite", lambda x: True)
    trainer.step()
    assert all(torch.isnan(p).any() for p in trainer.parameters.values())


def test_finite_looks_into_everything() -> None:
    bad = torch.tensor([1.0, float("nan")])
    assert nonfinite.finite(({"a": [torch.ones(2)]}, None, 3, torch.tensor([1])))
    assert not nonfinite.finite(({"a": [torch.ones(2), bad]},))


def test_bf16_follows_fp32_and_keeps_small_steps() -> None:
    config = dataclasses.replace(MODEL, dropout=0.0)
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = make(model=config, train=dataclasses.replace(TRAIN, precision=precision))
        losses[precision] = [trainer.step().loss for _ in range(60)]
    assert max(abs(a - b) for a, b in zip(*losses.values(), strict=True)) < 0.05
    assert next(trainer.model.parameters()).dtype == torch.bfloat16
    assert trainer.parameters["tokens.weight"].dtype == torch.float32
    tiny = make(model=config, train=dataclasses.replace(TRAIN, precision="bf16", optim=OptimConfig(lr=1e-6)))
    start = {n: p.clone() for n, p in tiny.parameters.items()}
    tiny.step()
    gain = tiny.parameters["norm.weight"]
    assert not torch.equal(gain, start["norm.weight"]), "the master moves"
    assert torch.equal(tiny.model.norm.weight, torch.ones_like(tiny.model.norm.weight)), "a step that bf16 alone could not hold"


def test_chunked_loss_is_the_plain_one() -> None:
    plain, chunked = make(), make(train=dataclasses.replace(TRAIN, loss_chunk=7))
    for _ in range(10):
        assert plain.step().loss == pytest.approx(chunked.step().loss, abs=1e-5)
    capped = make(model=dataclasses.replace(MODEL, logit_cap=5.0), train=dataclasses.replace(TRAIN, loss_chunk=7))
    with pytest.raises(ConfigError, match=r"train\.loss_chunk"):
        capped.step()


def test_figures_and_callbacks() -> None:
    order = []

    class Spy(Callback):
        def before_update(self, trainer):
            order.append(("before", float(trainer.model.norm.weight.detach().sum())))

        def after_step(self, trainer, figures):
            order.append(("after", float(trainer.model.norm.weight.detach().sum())))
            assert figures.tokens == 64
            assert figures.lr == pytest.approx(3e-3 / 5)
            trainer.stop = True

    trainer = make(callbacks=[Spy()])
    assert trainer.run() == "stopped"
    assert [name for name, _ in order] == ["before", "after"]
    assert order[0][1] == 16
    assert order[1][1] != 16


def test_a_batch_without_targets_is_refused() -> None:
    class Empty(Numbered):
        def next(self):
            x, y = super().next()
            return x, torch.full_like(y, IGNORE)

    with pytest.raises(DataError, match="every target"):
        Trainer(build_gpt(MODEL, 0), TRAIN, Empty()).step()


def test_config_errors_name_the_field() -> None:
    for field, value in (("steps", -1), ("accumulate", 0), ("keep", 0), ("clip", 0.0)):
        with pytest.raises(ConfigError, match=rf"train\.{field}"):
            TrainConfig(**{field: value})
