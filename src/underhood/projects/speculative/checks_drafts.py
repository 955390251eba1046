"""What any correct draft satisfies: a smaller model, the text itself, heads that look ahead (steps 6 to 8). The oracles recompute everything."""

import math
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from underhood.infer.sample import SampleConfig
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, close, equal, holds, runs
from underhood.lab.oracles import noise
from underhood.projects.speculative.oracles import AGREES, V, first_beyond, logits_after, model, numbers

# ── a model and the text ──────────────────────────────────────────────────────────────────────────────────────────────

DRAWN = SampleConfig(temperature=0.5, top_k=12)


def expected_guesses(small: Any, text: list[int], uniform: Tensor, count: int) -> tuple[list[int], Tensor]:
    """Token by token, everything recomputed: twelve likeliest at temperature 0.5."""
    known, rows = list(text), list[Tensor]()
    for i in range(count):
        logits = logits_after(small, known)[-1] / 0.5
        rows.append(logits.masked_fill(logits < logits.topk(12).values[-1], -math.inf).softmax(-1))
        known.append(first_beyond(rows[-1], float(uniform[i])))
    return known[len(text) :], torch.stack(rows) if rows else torch.zeros(0, V, dtype=torch.float64)


def same_guesses(found: Any, expected: tuple[list[int], Tensor], says: str, *, given: str) -> None:
    """Guesses equal and rows alike."""
    guesses, q = runs(lambda: tuple(found), "propose gives back guesses and their distributions", given=given)
    alike(q, expected[1], f"{says}: the distributions", given=given, atol=AGREES)
    equal(guesses, expected[0], f"{says}: the guesses", given=given)


@check(
    "6 · A smaller model guesses",
    hints=(
        "Guess one token. Which distribution was it drawn from? That one is q, filters and temperature included.",
        "Let the draft model read, take `distribution` of its last logits under the same config, keep the row, draw the guess from that very row.",
        "`rows.append(distribution(logits, self.config)[0])`, `guesses.append(drawn(rows[-1], uniform[i]))`; in the end `torch.stack(rows)`.",
    ),
)
def check_guesses_are_drawn_from_what_is_reported(part: Part, rng: random.Random) -> None:
    small = model(rng)
    for _ in range(8):
        text, uniform = [rng.randrange(V) for _ in range(rng.randrange(1, 9))], noise(rng, 4).sigmoid()
        draft = runs(lambda: part.ModelDraft(small, DRAWN), "ModelDraft can be made")
        found = runs(lambda: draft.propose(text, 4, uniform), "the draft guesses", given=text)  # noqa: B023
        same_guesses(found, expected_guesses(small, text, uniform, 4), "drawn from the draft's own distribution, one after the other", given=str(text))
    guesses, q = runs(lambda: part.ModelDraft(small, DRAWN).propose([1, 2], 0, numbers()), "it can be asked for no guess")
    equal((guesses, tuple(q.shape)), ([], (0, V)), "no guess, and no row", given="count = 0")


@check(
    "6 · A smaller model guesses",
    hints=(
        "Two of four guesses were rejected. Whose keys are in the draft's cache now?",
        "Remember which tokens the cache holds. Keep what the new text begins with alike, but leave its last token to be read: logits are not cached.",
        "`self.cache.keep(min(in_common(self.held, text), len(text) - 1))`, and in the end `self.held = known[: self.cache.length]`.",
    ),
)
def check_the_draft_follows_the_text(part: Part, rng: random.Random) -> None:
    small = model(rng)
    draft, text = runs(lambda: part.ModelDraft(small, DRAWN), "ModelDraft can be made"), [rng.randrange(V) for _ in range(4)]
    for turn in range(9):
        uniform, given = noise(rng, 3).sigmoid(), f"turn {turn}: {text}"
        small.read.zero_()
        found = runs(lambda: draft.propose(text, 3, uniform), "the draft guesses again", given=given)  # noqa: B023
        read = int(small.read)
        expected = expected_guesses(small, text, uniform, 3)
        same_guesses(found, expected, "whatever was guessed before, the guesses follow the text", given=given)
        holds(
            turn == 0 or turn % 3 == 2 or read <= 6,
            "what the draft has read of the text it does not read again",
            given=given,
            expected="6 positions at most",
            found=read,
        )
        taken = expected[0][: turn % 4]
        text = [rng.randrange(V) for _ in range(5)] if turn % 3 == 1 else [*text, *taken, (expected[0][-1] + 1) % V]
    long = [rng.randrange(V) for _ in range(46)]
    guesses, _ = runs(
        lambda: part.ModelDraft(small, DRAWN).propose(long, 4, noise(rng, 4).sigmoid()), "a draft near its context still guesses", given="46 tokens"
    )
    equal(len(guesses), 2, "fewer guesses where the draft's context ends, and no error", given="46 tokens, context 48, 4 guesses asked for")


@check(
    "7 · The text guesses",
    hints=(
        "The text ends in «the lit». Where did that stand before, and what followed?",
        "Try the last n tokens, then n - 1, down to one; search from the end backwards, so that the newest counts. It is certain: q is one-hot.",
        "`for at in range(len(text) - n - 1, -1, -1): if text[at : at + n] == tail: return text[at + n : at + n + count]`.",
    ),
)
def check_what_followed_before_is_guessed(part: Part, rng: random.Random) -> None:
    cases: tuple[tuple[list[int], int, int, list[int], str], ...] = (
        ([1, 2, 3, 4, 1, 2], 3, 2, [3, 4, 1], "what followed the last two tokens where they stood before"),
        ([1, 2, 3, 1, 2, 4, 1, 2], 1, 2, [4], "where they stood last, not first"),
        ([5, 2, 3, 7, 2, 9, 5, 2], 2, 2, [3, 7], "the longest suffix decides, though a shorter one stood later"),
        ([1, 2, 3, 9, 3], 3, 3, [9, 3], "a shorter suffix where the longer never stood before; fewer guesses where the text ends"),
        ([1, 2, 3], 3, 3, [], "no guess where nothing repeats"),
        ([7], 3, 3, [], "no guess after a single token"),
        ([8, 8, 8, 8], 2, 3, [8], "a suffix may overlap itself, and is not found at its own place"),
        ([1, 2, 1, 2], 0, 2, [], "no guess when none is asked for"),
    )
    for text, count, n, expected, says in cases:
        given = f"text {text}, n = {n}, {count} guesses asked for"
        draft = runs(lambda: part.NGramDraft(10, n=n), "NGramDraft can be made")  # noqa: B023
        guesses, q = runs(lambda: draft.propose(text, count, torch.rand(count)), "the draft guesses", given=given)  # noqa: B023
        equal(guesses, expected, says, given=given)
        equal((tuple(q.shape), q.tolist()), ((len(expected), 10), torch.eye(10)[expected].tolist()), "all of q lies on the guess: it was certain", given=given)


# ── heads ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def filled(heads: Any, rng: random.Random) -> list[Tensor]:
    """The matrices of the heads, given random values."""
    found = list(heads.parameters())
    with torch.no_grad():
        for parameter in found:
            parameter.copy_(noise(rng, *parameter.shape) * 0.5)
    return found


@check(
    "8 · Heads that look ahead",
    hints=(
        "A new head should start as something sensible. Which head do we have already?",
        "h + SiLU(W h), then the model's own head matrix; with W = 0 that is the model's own head. One C × C matrix a head, no bias.",
        "`torch.stack([(hidden + silu(step(hidden))) @ head.T for step in self.steps])`, the matrices zeroed by `nn.init.zeros_`.",
    ),
)
def check_heads_start_as_the_models_own(part: Part, rng: random.Random) -> None:
    target = model(rng, dtype=torch.float32)
    heads = runs(lambda: part.MedusaHeads(target, 3), "MedusaHeads can be made")
    hidden, head = noise(rng, 2, 5, 16, dtype=torch.float32), noise(rng, V, 16, dtype=torch.float32)
    found = runs(lambda: heads(hidden, head), "the heads run", given="hidden (2 5 16), head (40 16), 3 heads")
    alike(found, (hidden @ head.T).expand(3, -1, -1, -1), "each head starts as the model's own head", given="3 heads, untrained", atol=1e-5)
    matrices = filled(heads, rng)
    equal([tuple(w.shape) for w in matrices], [(16, 16)] * 3, "the parameters are a C × C matrix a head", given="width 16, 3 heads")
    found = runs(lambda: heads(hidden, head), "the heads run")
    expected = torch.stack([(hidden + F.silu(hidden @ w.detach().T)) @ head.T for w in matrices])
    alike(found, expected, "head i is (h + SiLU(Wᵢ h)) times the head's matrix", given="3 heads, random matrices", atol=1e-4)


@check(
    "8 · Heads that look ahead",
    hints=(
        "The model's own head at position t guesses token t + 1. Which token is head 0 for?",
        "Head i is for the token i + 2 places on. The last i + 2 positions have no such token and are left out; head i weighs decay^i.",
        "`F.cross_entropy(logits[:, :-ahead].flatten(0, 1), ids[:, ahead:].flatten())` with `ahead = i + 2`, skipped where the text is no longer than that.",
    ),
)
def check_head_i_learns_the_token_i_plus_2_ahead(part: Part, rng: random.Random) -> None:
    ids = torch.tensor([[rng.randrange(V) for _ in range(7)] for _ in range(2)])
    hidden, head, given = noise(rng, 2, 7, 16), noise(rng, V, 16), noise(rng, 4, 2, 7, V)
    for count, decay in ((1, 0.8), (3, 0.8), (4, 0.5)):
        found = runs(lambda: part.medusa_loss(lambda *_: given[:count], hidden, head, ids, decay), "medusa_loss runs", given=f"{count} heads")  # noqa: B023
        terms = [decay**i * F.nll_loss(given[i, :, : 5 - i].log_softmax(-1).flatten(0, 1), ids[:, i + 2 :].flatten()) for i in range(count)]
        close(found, sum(terms), "Σ decay^i · cross-entropy of head i against the token i + 2 places ahead", given=f"{count} heads, decay {decay}", atol=1e-8)
    short = runs(lambda: part.medusa_loss(lambda *_: given[:3, :, :3], hidden[:, :3], head, ids[:, :3]), "a text shorter than a head looks ahead is no error")
    expected = F.nll_loss(given[0, :, :1].log_softmax(-1).flatten(0, 1), ids[:, 2:3].flatten())
    close(short, expected, "a head that looks beyond the text is left out", given="3 tokens, 3 heads", atol=1e-8)


@check(
    "8 · Heads that look ahead",
    hints=(
        "After a pass there is a hidden vector that gave the newest token. What do the heads make of it?",
        "Keep what `observe` was shown last. The guesses are each head's likeliest token, in order, at most `count`; before the first pass there are none.",
        "`self.heads(self.hidden, self.model.head_weight).argmax(-1)[:count]`, with q one-hot.",
    ),
)
def check_heads_guess_from_the_last_vector(part: Part, rng: random.Random) -> None:
    target = model(rng, dtype=torch.float32)
    heads = runs(lambda: part.MedusaHeads(target, 3), "MedusaHeads can be made")
    matrices = [w.detach() for w in filled(heads, rng)]
    draft = runs(lambda: part.MedusaDraft(target, heads), "MedusaDraft can be made")
    guesses, q = runs(lambda: draft.propose([1, 2], 3, torch.rand(3)), "it can be asked before the first pass")
    equal((guesses, tuple(q.shape)), ([], (0, V)), "no guess before the first pass")
    for count in (3, 2, 3, 0):
        h = noise(rng, 16, dtype=torch.float32)
        runs(lambda: draft.observe(h), "observe takes a hidden vector")  # noqa: B023
        expected = [int(((h + F.silu(w @ h)) @ target.head_weight.detach().T).argmax()) for w in matrices][:count]
        guesses, q = runs(lambda: draft.propose([1, 2], count, torch.rand(count)), "the heads guess", given=f"{count} guesses asked for")  # noqa: B023
        equal(guesses, expected, "each head's likeliest token for the vector that was shown last", given=f"{count} guesses asked for")
        equal((tuple(q.shape), q.tolist()), ((count, V), torch.eye(V)[expected].tolist()), "all of q lies on the guess", given=f"{count} guesses asked for")


CHECKS: tuple[Check, ...] = (
    check_guesses_are_drawn_from_what_is_reported,
    check_the_draft_follows_the_text,
    check_what_followed_before_is_guessed,
    check_heads_start_as_the_models_own,
    check_head_i_learns_the_token_i_plus_2_ahead,
    check_heads_guess_from_the_last_vector,
)
