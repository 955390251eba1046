"""What any correct GPT, and what trains it, satisfies. The oracles are torch's own functions composed into GPT-2, torch's optimizer, and closed forms."""

import functools
import math
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.base.errors import DataError, NonFinite, ShapeError
from underhood.lab.check import Check, Part, check, close, equal, holds, refuses, runs
from underhood.nn.attention import AttentionConfig
from underhood.nn.block import BlockConfig
from underhood.nn.gpt import GPTConfig
from underhood.train.groups import Group
from underhood.train.loss import IGNORE

CONFIG = GPTConfig(vocab_size=13, context=8, n_layer=2, n_head=2, width=8)


def noise(rng: random.Random, *shape: int) -> Tensor:
    """Float64 numbers of mean 0 and variance 1."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.getrandbits(63)), dtype=torch.float64)


def whole_numbers(rng: random.Random, below: int, *shape: int) -> Tensor:
    """Integers from 0 to ``below`` − 1."""
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(rng.getrandbits(63)))


def tried(says: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """``function(*args, **options)``; an exception in it is a failed check."""
    return runs(lambda: function(*args, **options), says)


def drawn(module: nn.Module, rng: random.Random) -> Any:
    """``module`` in float64 with random weights, its gains around one."""
    module = module.double()
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(noise(rng, *p.shape) / 3 + (1 if "norm" in name and name.endswith("weight") else 0))
    return module


def torch_block(x: Tensor, w: dict[str, Tensor], at: str, heads: int) -> Tensor:
    """GPT-2's block from torch's functions and the weights ``w`` under the prefix ``at``."""
    B, T, C = x.shape

    def norm(n: str) -> Tensor:
        return F.layer_norm(x, (C,), w[f"{at}{n}.weight"], w[f"{at}{n}.bias"])

    def linear(h: Tensor, n: str) -> Tensor:
        return F.linear(h, w[f"{at}{n}.weight"], w[f"{at}{n}.bias"])

    q, k, v = (p.view(B, T, heads, C // heads).transpose(1, 2) for p in linear(norm("norm1"), "attention.qkv").chunk(3, -1))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
    x = x + linear(mixed, "attention.output")
    return x + linear(F.gelu(linear(norm("norm2"), "feedforward.up"), approximate="tanh"), "feedforward.down")


def torch_gpt(ids: Tensor, w: dict[str, Tensor], config: GPTConfig) -> Tensor:
    """GPT-2's logits."""
    x = w["tokens.weight"][ids] + w["positions.table.weight"][: ids.shape[1]]
    for i in range(config.n_layer):
        x = torch_block(x, w, f"blocks.{i}.", config.n_head)
    return F.layer_norm(x, (config.width,), w["norm.weight"], w["norm.bias"]) @ w["tokens.weight"].T


# ── the model ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "1 · The block",
    hints=(
        "What should a block do to its input when both branches return zero?",
        "The stream goes on unchanged: each branch is *added* to it, and its norm stands inside the branch.",
        "`x = x + dropout(attention(norm1(x)))`, then `x = x + dropout(feedforward(norm2(x)))`.",
    ),
)
def check_block_adds_to_the_stream(part: Part, rng: random.Random) -> None:
    config = BlockConfig(attend=AttentionConfig(width=8, n_head=2), hidden=32)
    block = drawn(tried("the block can be built", part.Block, config), rng)
    x = noise(rng, 2, 5, 8)
    weights = {name: p.detach() for name, p in block.named_parameters()}
    expected = runs(lambda: torch_block(x, weights, "", 2), "the block's parameters are called as GPT-2's block needs them")
    close(tried("the block runs", block, x), expected, "the block equals GPT-2's, made of torch's own functions", atol=1e-9)
    with torch.no_grad():
        for name, p in block.named_parameters():
            if name.startswith(("attention.output", "feedforward.down")):
                p.zero_()
    close(tried("the block runs", block, x), x, "with both branches silenced the residual stream passes unchanged", given="both output layers zero", atol=1e-12)


@check(
    "2 · The model",
    hints=(
        "Compare step by step with GPT-2: what is added before the first block, what stands after the last?",
        "Token vector plus position vector, the blocks, one more norm, and then the product with the token vectors.",
        "`x = tokens(ids)`; `x = dropout(positions.add(x, start))`; the blocks; `norm(x)`; `hidden @ head_weight.T`.",
    ),
)
def check_logits_equal_gpt2(part: Part, rng: random.Random) -> None:
    model = drawn(tried("the model can be built", part.GPT, CONFIG), rng)
    ids = whole_numbers(rng, CONFIG.vocab_size, 2, 8)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    expected = runs(lambda: torch_gpt(ids, weights, CONFIG), "the parameters are called as GPT-2 needs them")
    close(tried("the model runs", model, ids), expected, "logits equal those of GPT-2 made of torch's own functions", given=ids, atol=1e-9)


@check(
    "2 · The model",
    hints=(
        "How many parameters does the head have of its own?",
        "None: with `tie`, the matrix that makes logits *is* the token embedding. Without, it is a layer of its own.",
        "`head_weight` returns `tokens.weight` when `head` is None, else `head.weight`; `head` is built only without `tie`.",
    ),
)
def check_head_is_tied(part: Part, rng: random.Random) -> None:
    for tie in (True, False):
        config = GPTConfig(vocab_size=13, context=8, n_layer=1, n_head=2, width=8, tie=tie)
        model = drawn(tried("the model can be built", part.GPT, config), rng)
        count = sum(p.numel() for p in model.parameters())
        block = 12 * 8 * 8 + 13 * 8
        expected = (13 + 8) * 8 + block + 16 + (0 if tie else 13 * 8)
        equal(count, expected, f"the number of parameters {'with' if tie else 'without'} a tied head")
        with torch.no_grad():
            model.tokens.weight.fill_(7.0)
        head = tried("the head's weights can be read", lambda m=model: m.head_weight)
        equal(bool((head == 7.0).all()), tie, "the head is the token embedding exactly when it is tied", given=f"tie={tie}")
        holds(head.requires_grad, "the head learns: its gradient reaches the matrix", given=f"tie={tie}")


@check(
    "2 · The model",
    hints=(
        "What happens to a text that is one token longer than the table of positions?",
        "There is no vector for that position. Say so before torch does, in words.",
        "Raise `ShapeError` when `start + T > config.context`.",
    ),
)
def check_too_long_is_refused(part: Part, rng: random.Random) -> None:
    model = drawn(tried("the model can be built", part.GPT, CONFIG), rng)
    tried("the whole context fits", model, whole_numbers(rng, 13, 1, 8))
    refuses(lambda: model(whole_numbers(rng, 13, 1, 9)), ShapeError, "nine tokens do not fit into a context of eight", given="9 tokens")


# ── the loss ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "3 · The loss",
    hints=(
        "−log softmax(x)[t] can be written without any division. How?",
        "logsumexp(x) − x[t]. Targets of IGNORE count neither in the sum nor in the number of targets.",
        "`torch.where(kept, logits.logsumexp(-1) - picked, 0.0).sum() / count_targets(targets)`.",
    ),
)
def check_loss_equals_torch(part: Part, rng: random.Random) -> None:
    logits, targets = noise(rng, 3, 4, 13) * 4, whole_numbers(rng, 13, 3, 4)
    close(tried("the loss runs", part.cross_entropy, logits, targets), F.cross_entropy(logits.flatten(0, 1), targets.flatten()), "the mean loss is torch's")
    targets[1, 1:] = IGNORE
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    close(tried("the loss runs", part.cross_entropy, logits, targets), expected, "ignored targets count neither above nor below the line", given=targets)
    far = logits * 1e4
    close(tried("the loss runs", part.cross_entropy, far, targets), F.cross_entropy(far.flatten(0, 1), targets.flatten()), "large logits do not overflow")


@check(
    "3 · The loss",
    hints=(
        "What is the mean over nothing?",
        "0/0 is NaN, and one NaN reaches every weight. Look before you divide.",
        "Raise `DataError` when no target counts.",
    ),
)
def check_no_target_is_refused(part: Part, rng: random.Random) -> None:
    logits = noise(rng, 2, 3, 5)
    refuses(lambda: part.cross_entropy(logits, torch.full((2, 3), IGNORE)), DataError, "a batch without a single target has no mean loss")


@check(
    "3 · The loss",
    hints=(
        "Evaluate twice. Are the two losses equal?",
        "Dropout must be off while you evaluate, and on again afterwards if it was on before.",
        "Remember `model.training`, `model.eval()`, sum losses and tokens under `no_grad`, `model.train(training)`, divide.",
    ),
)
def check_evaluation_is_still(part: Part, rng: random.Random) -> None:
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    model = drawn(nn.Sequential(nn.Embedding(13, 8), _Drop(generator), nn.Linear(8, 13)), rng)
    x, y = whole_numbers(rng, 13, 6, 5), whole_numbers(rng, 13, 6, 5)
    y[:2, 1:] = IGNORE
    batches = [(x[:2], y[:2]), (x[2:], y[2:])]
    model.train()
    first = tried("the evaluation runs", part.validation_loss, model, batches)
    equal(model.training, True, "a model that was training is training again afterwards")
    close(tried("the evaluation runs", part.validation_loss, model, batches), first, "two evaluations of one model agree", given="a model with dropout")
    model.eval()
    with torch.no_grad():
        expected = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=IGNORE)
    close(first, expected, "the loss is the mean over all tokens, each weighed alike", given="batches with 2 and 20 targets", rtol=1e-9)


class _Drop(nn.Module):
    """Dropout with a generator of its own, so that the check draws from no other."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.empty_like(x).bernoulli_(0.5, generator=self.generator) * 2 if self.training else x


# ── the update ────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "4 · AdamW",
    hints=(
        "The first update of every weight has the same size. Which, and does yours?",
        "m and v start at zero and are too small at first: divide them by 1 − β₁ᵗ and 1 − β₂ᵗ. The decay touches the weight alone, not the gradient.",
        "`p.mul_(1 - lr * weight_decay)`; `p.addcdiv_(m_hat, v_hat.sqrt() + eps, value=-lr)`.",
    ),
)
def check_adamw_equals_torch(part: Part, rng: random.Random) -> None:
    start = noise(rng, 4, 3)
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours = tried("the optimizer can be built", part.AdamW, [Group(parameters={"w": mine}, lr=0.02, weight_decay=0.3)], beta1=0.8, beta2=0.9, eps=1e-3)
    torchs = torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.3, betas=(0.8, 0.9), eps=1e-3)
    for step in range(30):
        gradient = noise(rng, 4, 3) * 10 ** (step % 3 - 1)
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        tried("the optimizer steps", ours.step)
        torchs.step()
        close(mine, theirs, "the weights are torch's AdamW's", given=f"update {step + 1} of one recorded gradient sequence", atol=1e-12, rtol=1e-9)


@check(
    "5 · Warm-up and cosine",
    hints=(
        "What share of the learning rate does the very first update get? And the last?",
        "1/warmup at step 0 (not zero), 1 at the end of the warm-up, `floor` at `steps` and after.",
        "`(step + 1) / warmup` while `step < warmup`, else `floor + (1 - floor) * (1 + cos(pi * x)) / 2`.",
    ),
)
def check_schedule_is_warmup_and_cosine(part: Part, rng: random.Random) -> None:
    for step, expected in ((0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (60, 0.6), (110, 0.2), (500, 0.2)):
        found = tried("the schedule answers", part.warmup_cosine, step, warmup=10, steps=110, floor=0.2)
        close(found, expected, "the share of the peak learning rate", given=f"step {step}, warmup 10, steps 110, floor 0.2")
    close(tried("the schedule answers", part.warmup_cosine, 0, warmup=0, steps=5, floor=0.1), 1.0, "without warm-up the first step is at the peak")


@check(
    "6 · Clipping",
    hints=(
        "Two tensors of norm 3 and 4: what is the norm of both together?",
        "5: one norm over everything, one factor for everything. A gradient that is short enough is not touched.",
        "`factor = min(1, max_norm / norm)` with `norm` over all gradients at once.",
    ),
)
def check_clipping_is_global(part: Part, rng: random.Random) -> None:
    for size in (0.01, 10.0):
        gradients = [noise(rng, 3, 4) * size, noise(rng, 5) * size / 7]
        mine, theirs = ([nn.Parameter(torch.zeros_like(g)) for g in gradients] for _ in range(2))
        for p, q, g in zip(mine, theirs, gradients, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        found = tried("clipping runs", part.clip_gradients, mine, 1.0)
        expected = float(nn.utils.clip_grad_norm_(theirs, 1.0))
        close(float(found), expected, "the norm is that of all gradients together, before clipping", rtol=1e-5)
        close([p.grad for p in mine], [q.grad for q in theirs], "the clipped gradients are torch's", given=f"norm {expected:.3g}, limit 1", rtol=1e-5)


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
        refuses(functools.partial(part.clip_gradients, [good, poisoned], 1.0), NonFinite, "a norm that is no number is an error", given=bad)
        close(good.grad, [1.0, 1.0, 1.0], "the healthy gradient is left as it was")


# ── what may be drawn ─────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "7 · Sampling",
    hints=(
        "How many tokens can still be drawn when k is 2?",
        "Two: the likeliest two keep their logits, all others get −∞.",
        "Mask what is below the k-th largest: `logits < logits.topk(k).values[..., -1:]`.",
    ),
)
def check_top_k_keeps_k(part: Part, rng: random.Random) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0], [0.0, -1.0, -2.0, 5.0]])
    kept = tried("top-k runs", part.keep_top_k, logits, 2).isfinite()
    equal(kept.tolist(), [[False, True, True, False], [True, False, False, True]], "the two likeliest tokens stay", given=logits)
    holds(bool(tried("top-k runs", part.keep_top_k, logits, 9).isfinite().all()), "k beyond the vocabulary keeps everything")


@check(
    "7 · Sampling",
    hints=(
        "Probabilities 0.5, 0.3, 0.2 and p = 0.6: which tokens stay?",
        "The first two: the smallest set that *reaches* p holds the token that crosses it. The likeliest always stays.",
        "Sorted by probability, drop a token when the sum *before* it is already ≥ p.",
    ),
)
def check_top_p_reaches_p(part: Part, rng: random.Random) -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    for p, expected in ((0.6, [[False, True, True]]), (0.45, [[False, True, False]]), (0.01, [[False, True, False]]), (1.0, [[True, True, True]])):
        kept = tried("top-p runs", part.keep_top_p, logits, p).isfinite()
        equal(kept.tolist(), expected, "the smallest set of likeliest tokens that reaches p stays", given=f"probabilities 0.2, 0.5, 0.3 and p = {p}")


CHECKS: tuple[Check, ...] = (
    check_block_adds_to_the_stream,
    check_logits_equal_gpt2,
    check_head_is_tied,
    check_too_long_is_refused,
    check_loss_equals_torch,
    check_no_target_is_refused,
    check_evaluation_is_still,
    check_adamw_equals_torch,
    check_schedule_is_warmup_and_cosine,
    check_clipping_is_global,
    check_nan_is_not_spread,
    check_top_k_keeps_k,
    check_top_p_reaches_p,
)
