"""What any correct training loop satisfies. The oracles are torch's gradients of the big batch, closed forms and stored values."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.base.errors import DataError
from underhood.lab.check import Check, Part, check, close, equal, holds, refuses, runs
from underhood.nn.dropout import Dropout, seed_dropout
from underhood.nn.init import fan_in
from underhood.train.loss import IGNORE


def noise(rng: random.Random, *shape: int) -> Tensor:
    """Float64 numbers of mean 0 and variance 1."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.getrandbits(63)), dtype=torch.float64)


def tried(says: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """``function(*args, **options)``; an exception in it is a failed check."""
    return runs(lambda: function(*args, **options), says)


# ── what is decayed ───────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "1 · Parameter groups",
    hints=(
        "Which weights should be pulled towards zero, and for which is zero the wrong place to be?",
        "A gain of zero switches its layer off. Decay matrices and embeddings; leave gains and biases alone.",
        "Two dimensions or more: with decay. Fewer: without. Every parameter in exactly one group.",
    ),
)
def check_only_matrices_decay(part: Part, rng: random.Random) -> None:
    shapes = {"tokens.weight": (9, 4), "norm.weight": (4,), "up.weight": (8, 4), "up.bias": (8,), "scale": ()}
    parameters = {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    groups = tried("the groups can be made", part.decay_groups, parameters, lr=0.5, weight_decay=0.1)
    found = {name: group.weight_decay for group in groups for name in group.parameters}
    equal(sorted(found), sorted(shapes), "every parameter stands in a group")
    equal(sum(len(group.parameters) for group in groups), len(shapes), "no parameter stands in two groups")
    equal(found, {name: (0.1 if len(shape) >= 2 else 0.0) for name, shape in shapes.items()}, "matrices decay; gains, biases and numbers do not")
    equal({group.lr for group in groups}, {0.5}, "all groups have the given learning rate")


# ── how it starts ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Branches(nn.Module):
    """Parameters called like those of a GPT."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"output": nn.Linear(64, 64)})
        self.feedforward = nn.ModuleDict({"up": nn.Linear(64, 64), "down": nn.Linear(64, 64)})


@check(
    "2 · Scaled residual init",
    hints=(
        "Every branch adds its variance to the stream. After 2·L of them, how large has it become?",
        "The two matrices of a block that write into the stream start smaller, so that all 2·L of them together add the variance of one.",
        "Multiply `attention.output.weight` and `feedforward.down.weight` by 1/√(2 · n_layer); leave everything else as drawn.",
    ),
)
def check_branches_start_small(part: Part, rng: random.Random) -> None:
    plain, scaled = _Branches(), _Branches()
    tried("the weights are drawn", part.init_parameters, plain, 7, fan_in, n_layer=8, residual="plain")
    tried("the weights are drawn", part.init_parameters, scaled, 7, fan_in, n_layer=8)
    for name, p in plain.named_parameters():
        factor = 0.25 if name in ("attention.output.weight", "feedforward.down.weight") else 1.0
        close(dict(scaled.named_parameters())[name], p * factor, f"{name} after scaling for 8 blocks", given="1/√16 = 0.25 for what writes into the stream")


@check(
    "2 · Scaled residual init",
    hints=(
        "Add a layer in front of a model. Which of the other weights should change?",
        "None: each parameter is drawn from a generator of its own, made from the seed and the parameter's name.",
        '`torch.Generator().manual_seed(stream_seed(seed, f"init/{name}"))` for every parameter.',
    ),
)
def check_each_weight_has_its_own_stream(part: Part, rng: random.Random) -> None:
    small, large = nn.ModuleDict({"b": nn.Linear(3, 3)}), nn.ModuleDict({"a": nn.Linear(5, 5), "b": nn.Linear(3, 3)})
    for model in (small, large):
        tried("the weights are drawn", part.init_parameters, model, 3, fan_in)
    close(large["b"].weight, small["b"].weight, "a layer in front moves no other layer's draw", given="the layer b alone, and after a layer a")
    twins = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tried("the weights are drawn", part.init_parameters, twins, 3, fan_in)
    holds(not torch.equal(*(p for p in twins.parameters() if p.ndim == 2)), "two layers of one shape start differently")
    tried("the weights are drawn", part.init_parameters, small, 4, fan_in)
    holds(not torch.equal(dict(large.named_parameters())["b.weight"], dict(small.named_parameters())["b.weight"]), "another seed gives other weights")


# ── accumulation ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _ragged(rng: random.Random) -> tuple[nn.Embedding, list[tuple[Tensor, Tensor]]]:
    """A table of logits, and three batches with 8, 1 and 4 targets."""
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    table = nn.Embedding(5, 5, dtype=torch.float64)
    with torch.no_grad():
        table.weight.copy_(noise(rng, 5, 5))
    batches = []
    for targets in (8, 1, 4):
        x, y = torch.randint(5, (2, 4), generator=generator), torch.randint(5, (2, 4), generator=generator)
        y.view(-1)[targets:] = IGNORE
        batches.append((x, y))
    return table, batches


def _sum(table: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: F.cross_entropy(table(x).flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum")


@check(
    "3 · Accumulation",
    hints=(
        "One batch has 8 targets, another has 1. How much should each of the nine count?",
        "Alike, as in one big batch: so divide each batch's *sum* by the targets of all batches, not by its own.",
        "`tokens = sum(count_targets(y) …)` first; then `(loss_sum(x, y) / tokens).backward()` for each.",
    ),
)
def check_accumulation_equals_big_batch(part: Part, rng: random.Random) -> None:
    table, batches = _ragged(rng)
    loss = tried("accumulation runs", part.accumulate_gradients, _sum(table), batches)
    holds(table.weight.grad is not None, "the gradients are left in the parameters")
    mine, table.weight.grad = table.weight.grad, None
    x, y = (torch.cat([b[i] for b in batches]) for i in (0, 1))
    whole = F.cross_entropy(table(x).flatten(0, 1), y.flatten(), ignore_index=IGNORE)
    whole.backward()  # type: ignore[no-untyped-call]
    close(mine, table.weight.grad, "the gradients are those of one big batch", given="batches with 8, 1 and 4 targets", atol=1e-12)
    close(float(loss), float(whole.detach()), "the loss is that of one big batch", given="batches with 8, 1 and 4 targets")


@check(
    "3 · Accumulation",
    hints=(
        "May one of the batches have no target at all? May all of them?",
        "One may: it adds nothing. All may not: the mean over nothing is NaN.",
        "Raise `DataError` when the targets of all batches together are none.",
    ),
)
def check_nothing_to_learn_is_refused(part: Part, rng: random.Random) -> None:
    table, batches = _ragged(rng)
    empty = (batches[0][0], torch.full((2, 4), IGNORE))
    tried("one empty batch among others is fine", part.accumulate_gradients, _sum(table), [*batches, empty])
    refuses(lambda: part.accumulate_gradients(_sum(table), [empty, empty]), DataError, "batches without a single target have no loss")


# ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "4 · Batches",
    hints=(
        "What is the model asked after it has read token t?",
        "For token t + 1: the targets are the inputs, one place later in the text. The last one lies beyond the window.",
        "Read `context + 1` ids; `x = window[:-1]`, `y = window[1:]`, both int64.",
    ),
)
def check_targets_are_next_tokens(part: Part, rng: random.Random) -> None:
    ids = np.arange(100, dtype=np.uint16) * 3
    batches = tried("batches can be made", part.Batches, ids, tried("a sampler can be made", part.RandomSampler, 100, 8, 4, 5), 8)
    for _ in range(3):
        x, y = tried("a batch comes", batches.next)
        equal((tuple(x.shape), tuple(y.shape), x.dtype, y.dtype), ((4, 8), (4, 8), torch.int64, torch.int64), "shape and type of the batch")
        close(y, x + 3, "each target is the token after its input", given="ids 0, 3, 6, 9 …")
        close(x.diff(dim=1), torch.full((4, 7), 3), "a window is one piece of the text, in order")


@check(
    "4 · Batches",
    hints=(
        "Draw ten batches. How many different windows do you see?",
        "Each step draws anew, from anywhere; and two runs of one seed draw the same.",
        "Key the generator by the seed *and the step*, and count the step up.",
    ),
)
def check_windows_move_on(part: Part, rng: random.Random) -> None:
    def starts(seed: int) -> list[list[int]]:
        sampler = tried("a sampler can be made", part.RandomSampler, 10_000, 16, 4, seed)
        return [tried("starts come", sampler.next).tolist() for _ in range(10)]

    drawn = starts(1)
    holds(len({tuple(s) for s in drawn}) == 10, "ten steps read ten different sets of windows", found=drawn[:3])
    equal(starts(1), drawn, "one seed draws the same windows again")
    holds(starts(2) != drawn, "another seed draws others")
    flat = [s for step in drawn for s in step]
    holds(min(flat) >= 0 and max(flat) < 10_000 - 16, "every window and its last target lie inside the text", found=(min(flat), max(flat)))


@check(
    "5 · Exact resume",
    hints=(
        "Stop after three batches, start again: which batch must come next?",
        "The fourth. The state is how far we are; loading it must bring back exactly that place.",
        "`state()` returns the step as plain numbers; `load_state` puts it back.",
    ),
)
def check_data_resumes(part: Part, rng: random.Random) -> None:
    ids = np.arange(1000, dtype=np.uint16)

    def fresh() -> Any:
        return tried("batches can be made", part.Batches, ids, tried("a sampler can be made", part.RandomSampler, 1000, 8, 2, 9), 8)

    first = fresh()
    for _ in range(3):
        tried("a batch comes", first.next)
    state = tried("the state can be read", first.state)
    expected = [tried("a batch comes", first.next)[0].tolist() for _ in range(3)]
    second = fresh()
    tried("the state can be loaded", second.load_state, state)
    equal([tried("a batch comes", second.next)[0].tolist() for _ in range(3)], expected, "after loading, the batches go on where they stopped")


@check(
    "5 · Exact resume",
    hints=(
        "Weights, optimizer and data are back. What else does the next step depend on?",
        "On what dropout will draw: its generator's state, and torch's global one, which other people's layers use.",
        '`{"torch": torch.get_rng_state(), "dropout": generator.get_state()}`, and both set again on restore.',
    ),
)
def check_draws_resume(part: Part, rng: random.Random) -> None:
    model = nn.Sequential(Dropout(0.5))
    seed_dropout(model, 11)
    before = torch.get_rng_state()
    try:
        model(torch.ones(7))
        state = tried("the random state can be read", part.random_state, model)
        expected = [(model(torch.ones(50)).tolist(), torch.rand(3).tolist()) for _ in range(2)]
        holds(all(t.dtype == torch.uint8 for t in state.values()), "states are bytes, so that a checkpoint can hold them")
        tried("the random state can be restored", part.restore_random_state, model, state)
        again = [(model(torch.ones(50)).tolist(), torch.rand(3).tolist()) for _ in range(2)]
    finally:
        torch.set_rng_state(before)
    equal([d for d, _ in again], [d for d, _ in expected], "dropout draws again what it drew")
    equal([g for _, g in again], [g for _, g in expected], "torch's global generator draws again what it drew")


@check(
    "6 · A schedule that can be continued",
    hints=(
        "How long is the learning rate at its peak, and when does it come down?",
        "Warm-up, then a plateau of one, then a straight line down over the last fifth of the steps.",
        "`1 - (1 - floor) * (step - (steps - decay)) / decay` once `step` passes `steps - decay`, with `decay = steps / 5`.",
    ),
)
def check_schedule_has_a_plateau(part: Part, rng: random.Random) -> None:
    for step, expected in ((0, 0.2), (4, 1.0), (40, 1.0), (80, 1.0), (90, 0.55), (100, 0.1), (300, 0.1)):
        found = tried("the schedule answers", part.warmup_stable_decay, step, warmup=5, steps=100, floor=0.1)
        close(found, expected, "the share of the peak learning rate", given=f"step {step}, warmup 5, steps 100, floor 0.1")


CHECKS: tuple[Check, ...] = (
    check_only_matrices_decay,
    check_branches_start_small,
    check_each_weight_has_its_own_stream,
    check_accumulation_equals_big_batch,
    check_nothing_to_learn_is_refused,
    check_targets_are_next_tokens,
    check_windows_move_on,
    check_data_resumes,
    check_draws_resume,
    check_schedule_has_a_plateau,
)
