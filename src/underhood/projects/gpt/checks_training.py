"""What any correct loss, update, schedule, clipping and filter satisfies: steps 3 to 7. The oracles are torch's functions, torch's optimizer, closed forms."""

import functools
import math
import random
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.base.errors import DataError, NonFinite
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, close, equal, refuses
from underhood.lab.oracles import noise, tried
from underhood.projects.gpt.oracles import Drop, Once, drawn, whole_numbers
from underhood.train.groups import Group
from underhood.train.loss import IGNORE

# ── the loss ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def torchs_loss(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """torch's cross-entropy over all positions."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction=reduction)


@check(
    "3 · The loss",
    hints=(
        "−log softmax(x)[t] can be written without any division. How?",
        "logsumexp(x) − x[t]. Targets of IGNORE count neither in the sum nor in the number of targets.",
        '`torch.where(kept, logits.logsumexp(-1) - picked, 0.0).sum()`, divided by `count_targets(targets)` unless the reduction is "sum".',
    ),
)
def check_loss_equals_torch(part: Part, rng: random.Random) -> None:
    logits, targets = noise(rng, 3, 4, 13) * 4, whole_numbers(rng, 13, 3, 4)
    alike(tried("the loss runs", part.cross_entropy, logits, targets), torchs_loss(logits, targets), "the mean loss is torch's", given="12 targets")
    targets[1, 1:] = IGNORE
    says = "ignored targets count neither above nor below the line"
    learning = logits.clone().requires_grad_()
    found, expected = tried("the loss runs", part.cross_entropy, learning, targets), torchs_loss(learning, targets)
    alike(found, expected, says, given=targets)
    (theirs,), (mine,) = (torch.autograd.grad(expected, learning), tried("the loss has a gradient", torch.autograd.grad, found, learning))
    alike(mine, theirs, "the gradient at the logits is torch's: p − y over the number of targets, 0 at ignored ones", given=targets)
    total = tried("the loss runs", part.cross_entropy, logits, targets, reduction="sum")
    alike(total, torchs_loss(logits, targets, "sum"), 'with reduction="sum" the losses are added and not divided', given=targets)
    far = logits * 1e4
    alike(tried("the loss runs", part.cross_entropy, far, targets), torchs_loss(far, targets), "large logits do not overflow", given="logits up to 100,000")


@check(
    "3 · The loss",
    hints=(
        "A bfloat16 has 8 binary digits. How much of a sum over many exponentials do they hold?",
        "Widen the logits to float32 before logsumexp; wider ones stay as they are.",
        "`logits = logits.to(torch.promote_types(logits.dtype, torch.float32))`.",
    ),
)
def check_half_precision_is_widened(part: Part, rng: random.Random) -> None:
    targets = whole_numbers(rng, 300, 3, 4)
    targets[0] = IGNORE
    for dtype in (torch.bfloat16, torch.float16):
        logits = (noise(rng, 3, 4, 300) * 4).to(dtype)
        found = tried("the loss runs", part.cross_entropy, logits, targets, given=str(dtype))
        alike(found, torchs_loss(logits.double(), targets), "the loss of half-precision logits is computed in float32", given=f"logits in {dtype}", rtol=1e-5)


@check(
    "3 · The loss",
    hints=(
        "What is the mean over nothing? And the sum?",
        "0/0 is NaN, and one NaN reaches every weight: look before you divide. The sum over nothing is 0.",
        'Raise `DataError` when no target counts and the reduction is "mean".',
    ),
)
def check_no_target_is_refused(part: Part, rng: random.Random) -> None:
    logits, nothing = noise(rng, 2, 3, 5), torch.full((2, 3), IGNORE)
    refuses(lambda: part.cross_entropy(logits, nothing), DataError, "a batch without a single target has no mean loss", given="6 ignored targets")
    total = tried("the sum over no target can be had", part.cross_entropy, logits, nothing, reduction="sum")
    close(total, 0.0, "the sum over no target is 0", given="6 ignored targets")


def with_dropout(rng: random.Random) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A model that drops, and batches with 2 and 20 targets."""
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    model: nn.Module = drawn(nn.Sequential(nn.Embedding(13, 8), Drop(generator), nn.Linear(8, 13)), rng)
    x, y = whole_numbers(rng, 13, 6, 5), whole_numbers(rng, 13, 6, 5)
    y[:2, 1:] = IGNORE
    return model, [(x[:2], y[:2]), (x[2:], y[2:])]


@check(
    "3 · The loss",
    hints=(
        "Evaluate twice. Are the two losses equal? And in which mode is the model afterwards?",
        "Dropout must be off while you evaluate. Afterwards the mode is the one that you found, whichever it was.",
        "Remember `training = model.training`, then `model.eval()`, and at the end `model.train(training)`, not `model.train()`.",
    ),
)
def check_evaluation_is_still(part: Part, rng: random.Random) -> None:
    model, batches = with_dropout(rng)
    for training in (True, False):
        model.train(training)
        mode = "training" if training else "evaluation"
        given = f"a model with dropout, in {mode} mode"
        first = tried("the evaluation runs", part.validation_loss, model, batches, given=given)
        found = "training" if model.training else "evaluation"
        equal(found, mode, "the model is left in the mode that it had", given=given)
        close(tried("the evaluation runs", part.validation_loss, model, batches), first, "two evaluations of one model agree", given=given)


@check(
    "3 · The loss",
    hints=(
        "One batch has 2 targets, another has 20. How much should each of the 22 count?",
        "Alike. So add up *sums* of losses and numbers of targets over all batches, and divide once at the end; a mean of means favours short batches.",
        '`total += float(cross_entropy(model(x), y, reduction="sum"))`, `tokens += count_targets(y)`, and `total / tokens` after the loop.',
    ),
)
def check_evaluation_weighs_tokens_alike(part: Part, rng: random.Random) -> None:
    model, batches = with_dropout(rng)
    model.eval()
    with torch.no_grad():
        logits, targets = torch.cat([model(x) for x, _ in batches]), torch.cat([y for _, y in batches])
    found = tried("the evaluation runs", part.validation_loss, model, Once([*batches]))
    says = "the loss is the mean over all targets of all batches, each weighed alike"
    close(found, float(torchs_loss(logits, targets)), says, given="batches with 2 and 20 targets, each read once", rtol=1e-9)


# ── the update ────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "4 · AdamW",
    hints=(
        "The first update of every weight has the same size. Which, and does yours?",
        "m and v start at zero and are too small at first: divide them by 1 − β₁ᵗ and 1 − β₂ᵗ. The decay touches the weight alone, not the gradient.",
        "`m.mul_(β1)`, `v.mul_(β2)`, both in place; `p.mul_(1 - lr * weight_decay)`; `p.addcdiv_(m_hat, v_hat.sqrt() + eps, value=-lr)`: ε outside the root.",
    ),
)
def check_adamw_equals_torch(part: Part, rng: random.Random) -> None:
    for weight_decay, eps in ((0.0, 1e-8), (0.3, 1e-3)):
        start = noise(rng, 4, 3)
        mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        groups = [Group(parameters={"w": mine}, lr=0.02, weight_decay=weight_decay)]
        ours = tried("the optimizer can be built", part.AdamW, groups, beta1=0.8, beta2=0.9, eps=eps)
        torchs = torch.optim.AdamW([theirs], lr=0.02, weight_decay=weight_decay, betas=(0.8, 0.9), eps=eps)
        for step in range(30):
            given = f"update {step + 1} of one recorded gradient sequence; lr 0.02, decay {weight_decay}, β 0.8 and 0.9, ε {eps}"
            before = (mine.detach().clone(), theirs.detach().clone())
            mine.grad = noise(rng, 4, 3) * 10 ** (step % 3 - 1)
            theirs.grad = mine.grad.clone()
            tried("the optimizer steps", ours.step, given=given)
            torchs.step()
            alike(mine - before[0], theirs - before[1], "the change of the weights is that of torch's AdamW", given=given, atol=1e-12, rtol=1e-8)
            moments_are(ours, torchs.state[theirs], given)


def moments_are(optimizer: Any, theirs: Mapping[str, Tensor], given: str) -> None:
    """The state of the weight ``w`` is torch's."""
    kept = tried("the optimizer keeps its state", lambda: optimizer.state["w"])
    for slot, name in (("m", "exp_avg"), ("v", "exp_avg_sq")):
        says = f'state["{slot}"] holds the running mean after the update: it is changed in place, and not divided by 1 − βᵗ'
        alike(kept.get(slot), theirs[name], says, given=given, atol=1e-12, rtol=1e-8)


@check(
    "5 · Warm-up and cosine",
    hints=(
        "What share of the learning rate does the very first update get? And the last?",
        "1/warmup at step 0 (not zero), 1 at the end of the warm-up, `floor` at `steps` and after.",
        "`(step + 1) / warmup` while `step < warmup`, else `floor + (1 - floor) * (1 + cos(pi * x)) / 2`.",
    ),
)
def check_schedule_is_warmup_and_cosine(part: Part, rng: random.Random) -> None:
    for step, expected in ((0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (35, 0.6 + 0.4 * math.sqrt(0.5)), (60, 0.6), (110, 0.2), (500, 0.2)):
        found = tried("the schedule answers", part.warmup_cosine, step, warmup=10, steps=110, floor=0.2)
        close(found, expected, "the share of the peak learning rate", given=f"step {step}, warmup 10, steps 110, floor 0.2")
    for step, warmup, steps, expected in ((0, 0, 5, 1.0), (5, 0, 5, 0.1), (2, 3, 3, 1.0), (4, 3, 3, 0.1)):
        found = tried("the schedule answers", part.warmup_cosine, step, warmup=warmup, steps=steps, floor=0.1)
        close(found, expected, "the share of a run without warm-up, or of warm-up alone", given=f"step {step}, warmup {warmup}, steps {steps}, floor 0.1")


@check(
    "6 · Clipping",
    hints=(
        "Two tensors of norm 3 and 4: what is the norm of both together?",
        "5: one norm over everything, one factor for everything. A gradient that is short enough is not touched.",
        "`parameters = list(parameters)`, which may be an iterator; then `factor = min(1, max_norm / norm)` with `norm` over all gradients at once.",
    ),
)
def check_clipping_is_global(part: Part, rng: random.Random) -> None:
    for size, limit in ((0.01, 1.0), (10.0, 1.0), (10.0, None)):
        gradients = [noise(rng, 3, 4) * size, noise(rng, 5) * size / 7]
        mine, theirs = ([nn.Parameter(torch.zeros_like(g)) for g in gradients] for _ in range(2))
        for p, q, g in zip(mine, theirs, gradients, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        expected = float(nn.utils.clip_grad_norm_(theirs, limit or math.inf))
        given = f"an iterator over two gradients of norm {expected:.3g} together, a parameter without one, limit {limit}"
        found = tried("clipping runs", part.clip_gradients, Once([*mine, nn.Parameter(torch.zeros(2))]), limit, given=given)
        close(float(found), expected, "the norm is that of all gradients together, before clipping", given=given, rtol=1e-5)
        for i, (p, q) in enumerate(zip(mine, theirs, strict=True), 1):
            assert p.grad is not None
            assert q.grad is not None
            alike(p.grad, q.grad, f"gradient {i} after clipping is torch's", given=given, rtol=1e-5)


@check(
    "6 · Clipping",
    hints=(
        "One gradient is NaN. What is the norm, and what is every gradient after scaling by it?",
        "NaN, all of them: one bad entry poisons the whole model. Stop before that.",
        "Raise `NonFinite` unless the norm is finite, before anything is scaled.",
    ),
)
def check_nan_is_not_spread(part: Part, rng: random.Random) -> None:
    for bad in (math.nan, math.inf):
        good, poisoned = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
        good.grad, poisoned.grad = torch.ones(3), torch.tensor([1.0, bad])
        refuses(functools.partial(part.clip_gradients, [good, poisoned], 1.0), NonFinite, "a norm that is no number is an error", given=f"one entry is {bad}")
        close(good.grad, [1.0, 1.0, 1.0], "the healthy gradient is left as it was", given=f"an entry of another gradient is {bad}")


# ── what may be drawn ─────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "7 · Sampling",
    hints=(
        "How many tokens can still be drawn when k is 2? And when the second and the third are equally likely?",
        "Two: the likeliest two keep their logits, all others get −∞. What ties with the last of them stays too.",
        "Mask what is below the k-th largest: `logits < logits.topk(k).values[..., -1:]`, with `k` at most the vocabulary.",
    ),
)
def check_top_k_keeps_k(part: Part, rng: random.Random) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0], [0.0, -1.0, -2.0, 5.0]])
    no = -math.inf
    close(tried("top-k runs", part.keep_top_k, logits, 2), [[no, 3.0, 2.0, no], [0.0, no, no, 5.0]], "the two likeliest tokens stay", given=logits)
    tied = torch.tensor([[2.0, 3.0, 2.0, 0.0]])
    close(tried("top-k runs", part.keep_top_k, tied, 2), [[2.0, 3.0, 2.0, no]], "what ties with the k-th token stays too", given=tied)
    close(tried("top-k runs", part.keep_top_k, logits, 9), logits, "k beyond the vocabulary keeps everything", given="k=9, 4 tokens")


@check(
    "7 · Sampling",
    hints=(
        "Probabilities 0.5, 0.3, 0.2 and p = 0.6: which tokens stay?",
        "The first two: the smallest set that *reaches* p holds the token that crosses it. The likeliest always stays.",
        "Sorted by probability, drop a token when the sum *before* it is already ≥ p; bring the decision back to the tokens' order in each row.",
    ),
)
def check_top_p_reaches_p(part: Part, rng: random.Random) -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3], [0.5, 0.2, 0.3]]).log()
    two, one = [[False, True, True], [True, False, True]], [[False, True, False], [True, False, False]]
    for p, expected in ((0.6, two), (0.45, one), (0.01, one), (1.0, [[True] * 3] * 2)):
        found = tried("top-p runs", part.keep_top_p, logits, p)
        given = f"rows of probabilities 0.2, 0.5, 0.3 and 0.5, 0.2, 0.3, and p = {p}"
        equal(found.isfinite().tolist(), expected, "the smallest set of likeliest tokens that reaches p stays", given=given)
        close(found, logits.masked_fill(~torch.tensor(expected), -math.inf), "what stays keeps its logit, the rest gets −∞", given=given)


CHECKS: tuple[Check, ...] = (
    check_loss_equals_torch,
    check_half_precision_is_widened,
    check_no_target_is_refused,
    check_evaluation_is_still,
    check_evaluation_weighs_tokens_alike,
    check_adamw_equals_torch,
    check_schedule_is_warmup_and_cosine,
    check_clipping_is_global,
    check_nan_is_not_spread,
    check_top_k_keeps_k,
    check_top_p_reaches_p,
)
