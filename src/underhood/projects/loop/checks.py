"""What any correct training loop satisfies. The oracles are torch's gradients of the big batch, closed forms and stored values."""

import dataclasses
import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.base.errors import CheckpointError, DataError
from underhood.base.rng import stream_seed
from underhood.lab.alike import alike
from underhood.lab.check import Check, CheckFailed, Part, check, close, equal, holds, refuses, runs
from underhood.lab.oracles import noise
from underhood.nn.dropout import Dropout, seed_dropout
from underhood.nn.init import fan_in
from underhood.train.loss import IGNORE


def tried(says: str, function: Callable[..., Any], *args: Any, given: Any = None, **options: Any) -> Any:
    """``function(*args, **options)``; an exception in it is a failed check."""
    try:
        return function(*args, **options)
    except CheckFailed:
        raise
    except Exception as error:
        raise CheckFailed(says, given=given, expected="no error", found=f"{type(error).__name__}: {error}") from error


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
    given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    groups = tried("the groups can be made", part.decay_groups, parameters, lr=0.5, weight_decay=0.1)
    names = sorted(name for group in groups for name in group.parameters)
    equal(names, sorted(shapes), "every parameter stands in exactly one group", given=given)
    found = {name: group.weight_decay for group in groups for name in group.parameters}
    expected = {name: (0.1 if len(shape) >= 2 else 0.0) for name, shape in sorted(shapes.items())}
    equal(dict(sorted(found.items())), expected, "matrices decay; gains, biases and numbers do not", given=given)
    equal({group.lr for group in groups}, {0.5}, "all groups have the given learning rate", given="lr=0.5")


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
    plain = _Branches()
    tried("the weights are drawn", part.init_parameters, plain, 7, fan_in, n_layer=8, residual="plain")
    for residual, factor in (("scaled", 0.25), ("zero", 0.0)):
        model = _Branches()
        tried("the weights are drawn", part.init_parameters, model, 7, fan_in, n_layer=8, residual=residual)
        for name, p in plain.named_parameters():
            k = factor if name in ("attention.output.weight", "feedforward.down.weight") else 1.0
            given = f'residual="{residual}", 8 blocks: what writes into the stream × {factor}, all else as drawn'
            alike(dict(model.named_parameters())[name], p * k, f'{name}: what is drawn with residual="plain", × {k}', given=given)


@check(
    "2 · Scaled residual init",
    hints=(
        "Add a layer in front of a model. Which of the other weights should change?",
        "None: each parameter is drawn from a generator of its own, made from the seed and the parameter's name.",
        '`torch.Generator().manual_seed(stream_seed(seed, f"init/{name}"))` for every parameter.',
    ),
)
def check_each_weight_has_its_own_stream(part: Part, rng: random.Random) -> None:
    small, large = nn.ModuleDict({"b": nn.Linear(3, 3)}), nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    for model in (small, large):
        tried("the weights are drawn", part.init_parameters, model, 3, fan_in)
    drawn = dict(large.named_parameters())
    given = "b alone, and b after a layer a of the same shape, seed 3"
    alike(drawn["b.weight"], dict(small.named_parameters())["b.weight"], "a layer in front moves no other layer's draw", given=given)
    equal(torch.equal(drawn["a.weight"], drawn["b.weight"]), False, "two layers of one shape start differently: are they equal?", given=given)
    tried("the weights are drawn", part.init_parameters, small, 4, fan_in)
    same = torch.equal(drawn["b.weight"], dict(small.named_parameters())["b.weight"])
    equal(same, False, "another seed gives other weights: are they equal?", given="b with seed 3 and with seed 4")
    for name, p in drawn.items():
        expected = torch.zeros(3)
        if p.ndim == 2:
            expected = torch.randn(3, 3, generator=torch.Generator().manual_seed(stream_seed(3, f"init/{name}"))) / math.sqrt(3)
        alike(p, expected, f"{name} is what the scheme draws from the stream init/{name} of the seed", given="seed 3, fan_in")


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
    given = "batches with 8, 1 and 4 targets"
    x, y = (torch.cat([b[i] for b in batches]) for i in (0, 1))
    whole = F.cross_entropy(table(x).flatten(0, 1), y.flatten(), ignore_index=IGNORE)
    (expected,) = torch.autograd.grad(whole, table.weight)
    loss = tried("accumulation runs", part.accumulate_gradients, _sum(table), batches, given=given)
    alike(_gradient(table), expected, "the gradients are those of one big batch", given=given, atol=1e-12)
    close(float(loss.detach()), float(whole.detach()), "the loss is that of one big batch", given=given)
    equal(loss.requires_grad, False, "the loss is detached, so that keeping it keeps no graph alive: does it require a gradient?", given=given)
    tried("accumulation runs", part.accumulate_gradients, _sum(table), batches, given=given)
    alike(_gradient(table), 2 * expected, "gradients that are there already are added to, not replaced", given=f"{given}, twice", atol=1e-12)


@check(
    "3 · Accumulation",
    hints=(
        "Somebody wants to move the gradients away after every small batch. When can they?",
        "After each backward, before the next one: that is where `collect` is called, if it was given.",
        "`loss.backward()`, then `if collect is not None: collect()`, inside the loop.",
    ),
)
def check_gradients_can_be_collected(part: Part, rng: random.Random) -> None:
    table, batches = _ragged(rng)
    expected: list[Tensor] = []
    collected: list[Tensor] = []
    for x, y in batches:
        expected += torch.autograd.grad(_sum(table)(x, y) / 13, table.weight)

    def collect() -> None:
        collected.append(_gradient(table).clone())

    tried("accumulation runs with collect", part.accumulate_gradients, _sum(table), batches, collect)
    given = "batches with 8, 1 and 4 targets, and a collect that looks at the gradient"
    equal(len(collected), 3, "collect is called once after each backward", given=given)
    for i, found in enumerate(collected):
        alike(found, sum(expected[: i + 1], torch.zeros(5, 5)), f"what collect sees the {i + 1}. time: sums over 13 targets", given=given, atol=1e-12)


def _gradient(table: nn.Embedding) -> Tensor:
    holds(table.weight.grad is not None, "the gradients are left in the parameters", expected="a gradient", found="none")
    assert table.weight.grad is not None
    return table.weight.grad


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
    tried("one empty batch among others is fine", part.accumulate_gradients, _sum(table), [*batches, empty], given="8, 1, 4 and 0 targets")
    says = "batches without a single target have no loss"
    refuses(lambda: part.accumulate_gradients(_sum(table), [empty, empty]), DataError, says, given="0 and 0 targets")


# ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass
class Files:
    """Token ids on a disk, as ``Shards`` has them: they have a length, and give one id or a slice."""

    ids: Any
    meta: str = "a file of 200 bytes"

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, int):
            return int(self.ids[index])
        if not isinstance(index, slice):
            raise TypeError(f"shards are read by slices, ids[start : stop], not by {type(index).__name__}")
        return self.ids[index]


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
    for text, kind in ((ids, "an array"), (Files(ids), "shards, which give one id or a slice")):
        given = f"{kind} of ids 0, 3, 6, 9 …, uint16; 4 windows of 8"
        sampler = tried("a sampler can be made", part.RandomSampler, 100, 8, 4, 5)
        batches = tried("batches can be made", part.Batches, text, sampler, 8, given=given)
        for _ in range(3):
            x, y = tried("a batch comes", batches.next, given=given)
            found = (tuple(x.shape), tuple(y.shape), x.dtype, y.dtype)
            equal(found, ((4, 8), (4, 8), torch.int64, torch.int64), "shape and type of the batch", given=given)
            alike(y, x + 3, "each target is the token after its input", given=given)
            alike(x.diff(dim=1), torch.full((4, 7), 3), "a window is one piece of the text, in order", given=given)


@check(
    "4 · Batches",
    hints=(
        "Draw ten batches. How many different windows do you see?",
        "Each step draws anew, from anywhere; and two runs of one seed draw the same.",
        "Key the generator by the seed *and the step*, and count the step up.",
    ),
)
def check_windows_move_on(part: Part, rng: random.Random) -> None:
    drawn = _starts(part, 10_000, 16, 1)
    equal(len({tuple(s) for s in drawn}), 10, "ten steps read ten different sets of windows", given="seed 1, 4 windows a step")
    equal(_starts(part, 10_000, 16, 1), drawn, "one seed draws the same windows again", given="seed 1, twice")
    steps: dict[tuple[int, ...], tuple[int, int]] = {}
    for seed in range(4):
        for step, starts in enumerate(_starts(part, 10_000, 16, seed)):
            told = f"seed {seed}, step {step}, and seed {steps.get(tuple(starts), (0, 0))[0]}, step {steps.get(tuple(starts), (0, 0))[1]}"
            holds(
                tuple(starts) not in steps, "every step of every seed draws windows of its own", given=told, expected="other windows", found=f"{starts} in both"
            )
            steps[tuple(starts)] = (seed, step)


@check(
    "4 · Batches",
    hints=(
        "A text of 17 tokens and windows of 16: how many different starts are there?",
        "One, 0: a window takes 16 inputs and one token more for the last target. Of n tokens the starts are 0 … n − context − 1, n − context of them.",
        "`generator.integers(n_tokens - context, size=batch_size)`: its upper end is excluded.",
    ),
)
def check_windows_reach_both_ends(part: Part, rng: random.Random) -> None:
    for extra in (1, 2, 5):
        found = sorted({s for step in _starts(part, 16 + extra, 16, 3, steps=20) for s in step})
        says = "windows start anywhere where a window and its last target fit, the first and the last place included"
        equal(found, list(range(extra)), says, given=f"80 windows of 16 tokens from a text of {16 + extra}")


def _starts(part: Part, n_tokens: int, context: int, seed: int, steps: int = 10) -> list[list[int]]:
    given = f"{n_tokens} tokens, context {context}, 4 windows a step, seed {seed}"
    sampler = tried("a sampler can be made", part.RandomSampler, n_tokens, context, 4, seed, given=given)
    return [[int(s) for s in tried("starts come", sampler.next, given=given)] for _ in range(steps)]


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
    runs(lambda: json.dumps(state), "the state is plain numbers and texts, which a checkpoint can hold", given=str(state)[:80])
    expected = [tried("a batch comes", first.next)[0].tolist() for _ in range(3)]
    second = fresh()
    tried("the state can be loaded", second.load_state, state, given=state)
    equal(
        [tried("a batch comes", second.next)[0].tolist() for _ in range(3)],
        expected,
        "after loading, the batches go on where they stopped",
        given=f"the state after 3 batches, {state}",
    )


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
        expected = [(model(torch.ones(20)).tolist(), torch.rand(3).tolist()) for _ in range(2)]
        kinds = {name: str(getattr(t, "dtype", type(t).__name__)) for name, t in state.items()}
        equal(set(kinds.values()), {"torch.uint8"}, "states are bytes (uint8 tensors), so that a checkpoint can hold them", given=kinds)
        tried("the random state can be restored", part.restore_random_state, model, state, given="what random_state gave")
        again = [(model(torch.ones(20)).tolist(), torch.rand(3).tolist()) for _ in range(2)]
    finally:
        torch.set_rng_state(before)
    given = "the state before two draws, restored after them"
    equal([d for d, _ in again], [d for d, _ in expected], "dropout draws again what it drew", given=given)
    equal([g for _, g in again], [g for _, g in expected], "torch's global generator draws again what it drew", given=given)
    for name in state:
        rest = {other: t for other, t in state.items() if other != name}
        says = "a state that is missing is refused, instead of going on with other draws"
        refuses(lambda rest=rest: part.restore_random_state(model, rest), CheckpointError, says, given=f"{sorted(rest)} without {name!r}")  # type: ignore[misc]
    tried("a model without dropout has a random state too", part.random_state, nn.Linear(2, 2))


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
    for step, warmup, steps, expected in ((0, 0, 100, 1.0), (100, 0, 100, 0.0), (1, 2, 2, 1.0), (2, 2, 2, 0.0)):
        found = tried("the schedule answers", part.warmup_stable_decay, step, warmup=warmup, steps=steps)
        close(found, expected, "a run without warm-up, or a very short one", given=f"step {step}, warmup {warmup}, steps {steps}, no floor")


CHECKS: tuple[Check, ...] = (
    check_only_matrices_decay,
    check_branches_start_small,
    check_each_weight_has_its_own_stream,
    check_accumulation_equals_big_batch,
    check_gradients_can_be_collected,
    check_nothing_to_learn_is_refused,
    check_targets_are_next_tokens,
    check_windows_move_on,
    check_windows_reach_both_ends,
    check_data_resumes,
    check_draws_resume,
    check_schedule_has_a_plateau,
)
