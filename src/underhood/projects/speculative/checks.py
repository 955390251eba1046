"""What any correct speculation satisfies, then (``checks_drafts``) who guesses. The oracles are exact sums over small vocabularies, plain text recomputed,
and numbers worked by hand."""

import dataclasses
import functools
import math
import random
from typing import Any

import torch
from torch import Tensor

from underhood.base.errors import ConfigError, DataError
from underhood.infer.sample import SampleConfig
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, close, equal, holds, refuses, runs
from underhood.lab.oracles import noise
from underhood.projects.speculative.checks_drafts import CHECKS as DRAFT_CHECKS
from underhood.projects.speculative.oracles import AGREES, FOUR, Counts, Fixed, Scripted, likeliest, logits_after, model, numbers

GREEDY = SampleConfig(temperature=0, max_tokens=20)
PROMPT = [3, 1, 4, 1, 5]


# ── what a token is drawn from ────────────────────────────────────────────────────────────────────────────────────────


@check(
    "1 · What a token is drawn from",
    hints=(
        "Plain sampling divides by the temperature, filters and draws. Which distribution does it draw from, in numbers?",
        "In float64. Temperature 0 has no quotient: all the probability lies on the likeliest token. Filters set logits to -inf; softmax comes last.",
        "`logits.double() / config.temperature`, then `keep_top_k`, `keep_top_p`, `keep_min_p` where they are not None, then `.softmax(-1)`.",
    ),
)
def check_the_distribution_is_that_of_plain_sampling(part: Part, rng: random.Random) -> None:
    p = numbers(0.5, 0.25, 0.15, 0.1)
    half, two = p.sqrt() / p.sqrt().sum(), numbers(0.8, 0.2)
    plain, order = "the distribution is the one that plain sampling draws from", "top-k, then top-p, then min-p: each filter sees what the one before has left"
    cases: tuple[tuple[dict[str, Any], Tensor, str], ...] = (
        ({}, p, plain),
        ({"temperature": 2.0}, half, plain),
        ({"temperature": 0}, numbers(1, 0, 0, 0), plain),
        ({"top_k": 2}, numbers(2 / 3, 1 / 3, 0, 0), plain),
        ({"top_p": 0.7}, numbers(2 / 3, 1 / 3, 0, 0), plain),
        ({"min_p": 0.4}, numbers(2 / 3, 1 / 3, 0, 0), plain),
        ({"temperature": 0.5, "top_p": 0.9}, torch.cat([two, numbers(0, 0)]), plain),
        ({"top_k": 2, "top_p": 0.6}, numbers(1, 0, 0, 0), order),
        ({"top_p": 0.6, "min_p": 0.4}, numbers(2 / 3, 1 / 3, 0, 0), order),
    )
    for options, expected, says in cases:
        given = f"probabilities 0.5, 0.25, 0.15, 0.1, {options or 'temperature 1'}"
        found = runs(lambda: part.distribution(p.log() + 3, SampleConfig(**options)), "distribution runs", given=given)  # noqa: B023
        alike(found, expected, says, given=given, atol=AGREES)
    rows = noise(rng, 2, 3, 7, dtype=torch.float32)
    found = runs(lambda: part.distribution(rows, SampleConfig(temperature=0.7)), "distribution takes rows")
    equal(str(found.dtype), "torch.float64", "probabilities are float64", given="float32 logits")
    alike(found, (rows.double() / 0.7).softmax(-1), "each row has its own distribution", given="logits (2 3 7)", atol=AGREES)


# ── what is left ──────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "2 · What is left after a rejection",
    hints=(
        "A token that the draft likes too much has had its chances. Which tokens are still owed something?",
        "Those with p > q, in proportion to p - q. The others get nothing.",
        "`left = (p - q).clamp(min=0)`, `left / left.sum()`; where the sum is 0, p.",
    ),
)
def check_the_residual_completes_p(part: Part, rng: random.Random) -> None:
    found = runs(lambda: part.residual(numbers(0.4, 0.3, 0.2, 0.1), numbers(0.1, 0.2, 0.4, 0.3)), "residual runs")
    alike(found, numbers(0.75, 0.25, 0, 0), "what p has over q, normalised", given="p = 0.4, 0.3, 0.2, 0.1; q = 0.1, 0.2, 0.4, 0.3", atol=AGREES)
    for _ in range(5):
        p, q = noise(rng, 2, 6).softmax(-1)
        both = torch.minimum(p, q)
        found = runs(lambda: part.residual(p, q), "residual runs")  # noqa: B023
        alike(
            both + (1 - both.sum()) * found, p, "what is accepted and what is drawn after a rejection add up to p", given=(p.tolist(), q.tolist()), atol=AGREES
        )
    p = numbers(0.25, 0.75)
    alike(
        runs(lambda: part.residual(p, p), "residual runs where p = q"),
        p,
        "where nothing is left it is p, and never NaN",
        given="p = q = 0.25, 0.75",
        atol=AGREES,
    )


# ── judging ───────────────────────────────────────────────────────────────────────────────────────────────────────────

P = ((0.5, 0.5, 0.0), (0.1, 0.1, 0.8), (0.0, 0.0, 1.0))
Q = ((0.8, 0.2, 0.0), (0.3, 0.3, 0.4))


@check(
    "3 · Judging a pass",
    hints=(
        "Work one pass on paper: guess 0 has q = 0.8 and p = 0.5. For which random numbers is it accepted?",
        "Guess i is judged by row i, the distribution before it: accepted when u·q(x) < p(x). The first that is not ends the pass: draw from the residual.",
        "`for i, guess in enumerate(guesses)`: if `uniform[i] * q[i, guess] >= p[i, guess]` return what was accepted and a draw from `residual(p[i], q[i])`.",
    ),
)
def check_a_pass_by_hand(part: Part, rng: random.Random) -> None:
    cases = (
        ((0.5, 0.1, 0.9), [0, 1, 2], "both guesses are accepted, and the last row gives one token more"),
        ((0.7, 0.1, 0.2), [1], "0.7 · 0.8 is not below 0.5: the first guess is rejected, and nothing behind it is judged"),
        ((0.5, 0.5, 0.9), [0, 2], "0.5 · 0.3 is not below 0.1: the second is rejected, and the residual of its row is all on token 2"),
    )
    p, q = torch.tensor(P, dtype=torch.float64), torch.tensor(Q, dtype=torch.float64)
    for u, expected, says in cases:
        found = runs(lambda: part.judge(p, q, [0, 1], numbers(*u)), "judge runs", given=f"guesses 0, 1; random numbers {u}")  # noqa: B023
        equal(found, expected, says, given=f"guesses 0, 1; random numbers {u}")
    found = runs(lambda: part.judge(p[:1], q[:0], [], numbers(0.7)), "judge takes no guess at all")
    equal(found, [1], "without a guess the pass draws one token from p", given="p = 0.5, 0.5, 0; random number 0.7")


@check(
    "3 · Judging a pass",
    hints=(
        "Add up, over all guesses and random numbers, how often each token comes out. It must be p, whatever q is.",
        "A token comes out accepted with probability min(p, q), or from the residual. If a sum is off, see which of both is.",
        "Accept with probability min(1, p/q) — not p, not always when it is likeliest — and draw from `residual(p[i], q[i])`, with the last random number.",
    ),
)
def check_what_comes_out_has_the_models_distribution(part: Part, rng: random.Random) -> None:
    p, q = torch.stack([numbers(0.4, 0.3, 0.2, 0.1), numbers(0.2, 0.3, 0.1, 0.4)]), numbers(0.1, 0.2, 0.4, 0.3).unsqueeze(0)
    first, second, accepted = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64), 0.0
    for guess in range(4):
        for i in range(6):
            for j in range(20):
                u, weight = numbers((i + 0.5) / 6, (j + 0.5) / 20), float(q[0, guess]) / 120
                new = runs(lambda: part.judge(p, q, [guess], u), "judge runs")  # noqa: B023
                first[new[0]] += weight
                if len(new) == 2:
                    second[new[1]] += weight
                    accepted += weight
    given = "p = 0.4, 0.3, 0.2, 0.1; q = 0.1, 0.2, 0.4, 0.3; all guesses, all random numbers on a grid"
    alike(first, p[0], "the first token of a pass has the model's distribution", given=given, atol=AGREES)
    close(accepted, 0.6, "a guess is accepted with probability Σ min(p, q)", given=given, atol=AGREES)
    alike(second / accepted, p[1], "so has the token behind an accepted guess", given=given, atol=AGREES)


@check(
    "3 · Judging a pass",
    hints=(
        "A model at temperature 0 is certain. Can a random number change anything then?",
        "p(x) is 0 or 1: a guess is right or wrong. With u from [0, 1), u·q < 1 always, u·q < 0 never.",
        "Strictly below: a guess with p(x) = 0 must be rejected even when u is 0.",
    ),
)
def check_a_certain_model_gets_its_own_tokens(part: Part, rng: random.Random) -> None:
    for _ in range(20):
        own, guesses = [rng.randrange(3) for _ in range(5)], [rng.randrange(3) for _ in range(4)]
        p, q = torch.eye(6, dtype=torch.float64)[own], noise(rng, 4, 6).softmax(-1)
        u = numbers(*(rng.choice((0.0, 0.5, 0.999)) for _ in range(5)))
        new = runs(lambda: part.judge(p, q, guesses, u), "judge runs with a certain model")  # noqa: B023
        wrong = next((i for i in range(4) if own[i] != guesses[i]), 4)
        equal(new, own[: wrong + 1], "the model's own tokens, up to the first that was guessed wrong, that one included", given=f"own {own}, guesses {guesses}")


# ── how many ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "4 · How many tokens a pass",
    hints=(
        "A pass gives one token for certain. With which probability does it give a second? A third?",
        "1 + α + α² + … + α^k: k guesses, k + 1 terms.",
        "`(1 - alpha ** (k + 1)) / (1 - alpha)`, and k + 1 where alpha is 1.",
    ),
)
def check_the_expected_tokens_are_a_geometric_sum(part: Part, rng: random.Random) -> None:
    for alpha in (0.0, 0.3, 0.75, 1.0):
        for k in (1, 2, 5):
            given = f"α = {alpha}, k = {k}"
            found = runs(lambda: part.expected_tokens(alpha, k), "expected_tokens runs", given=given)  # noqa: B023
            close(found, sum(alpha**i for i in range(k + 1)), "1 + α + … + α^k", given=given)


# ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "5 · The loop",
    hints=(
        "Take a draft that never guesses: then each pass reads one token and gives one. Does that work? Next one that is always right, then one that is not.",
        "A pass reads what the cache lacks and the guesses; its last K + 1 hidden rows are judged. Afterwards the cache holds all but the newest token.",
        "`fresh = text[cache.length:] + guesses`; `hidden = model.hidden(fresh, cache)[0, -len(guesses) - 1 :]`; `text += new`; `cache.keep(len(text) - 1)`.",
    ),
)
def check_greedy_text_is_plain_text(part: Part, rng: random.Random) -> None:
    target = model(rng)
    own = likeliest(target, PROMPT, 20)
    text = PROMPT + own
    for k in (1, 3, 6):
        drafts = {
            "a draft that never guesses": (Scripted(text, most=0), 20),
            "a draft that is always right": (Scripted(text), -(-20 // (k + 1))),
            "a draft that is always wrong": (Scripted(text, range(99)), 20),
            "a draft that is wrong now and then": (Scripted(text, [rng.randrange(5, 25) for _ in range(5)]), None),
        }
        for name, (draft, passes) in drafts.items():
            given = f"{name}, k = {k}"
            found = runs(lambda: list(part.speculate(target, draft, PROMPT, GREEDY, torch.Generator(), k=k)), "speculate runs", given=given)  # noqa: B023
            equal(found, own, "greedy text is that of plain generation, token for token", given=given)
            if passes is not None:
                equal(len(draft.asked), passes, "so many passes, and no more", given=given)


@check(
    "5 · The loop",
    hints=(
        "An end token may stand in the middle of a pass. And with two tokens missing, four guesses are too many.",
        "Ask for at most end - len(text) - 1 guesses: the pass gives one more. Look at each new token before you give it out.",
        "`draft.propose(text, min(k, end - len(text) - 1), …)`; `for token in new: if token in config.end_ids: return`, else `yield token`.",
    ),
)
def check_the_draft_and_the_tally_are_told(part: Part, rng: random.Random) -> None:
    target = model(rng)
    own = likeliest(target, PROMPT, 20)
    text, wrong, tally = PROMPT + own, {7, 8, 13, 20}, Counts()
    draft = Scripted(text, sorted(wrong))
    target.read.zero_()
    runs(lambda: list(part.speculate(target, draft, PROMPT, GREEDY, torch.Generator(), k=3, tally=tally)), "speculate runs", given="k = 3")
    lengths, expected = [5], list[tuple[int, int]]()
    while lengths[-1] < 25:
        at, count = lengths[-1], min(3, 25 - lengths[-1] - 1)
        new = next((i for i in range(count) if at + i in wrong), count) + 1
        expected.append((count, new))
        lengths.append(at + new)
    given = "k = 3, 20 tokens, guesses at places 7, 8, 13 and 20 wrong"
    asked = [(n, count) for n, (count, _) in zip(lengths, expected, strict=False)]
    equal(draft.asked, asked, "each time it is asked about all the text, for k guesses or what is still to be written less one", given=given)
    equal(tally.noted, expected, "each pass is noted: guesses made, tokens given", given=given)
    states = runs(lambda: target.hidden(torch.tensor([text]))[0], "the model runs").detach()
    target.read.sub_(25)
    equal(len(draft.shown), len(expected), "after each pass the draft is shown a hidden vector", given=given)
    for shown, n in zip(draft.shown, lengths[1:], strict=True):
        alike(shown, states[n - 2], "the draft is shown the hidden vector that gave the newest token", given=f"{given}; {n} tokens so far", atol=1e-8)
    work = 5 + sum(count for count, _ in expected) + len(expected) - 1
    equal(int(target.read), work, "each position is worked through once, rejected guesses apart: the cache keeps the rest", given=given)
    for random_numbers in draft.random:
        holds(all(0 <= u < 1 for u in random_numbers), "a draft gets a random number from [0, 1) for each guess", found=random_numbers)
    for place in (0, 2, 7):
        config = dataclasses.replace(GREEDY, end_ids=(own[place],))
        found = runs(lambda: list(part.speculate(target, Scripted(text), PROMPT, config, torch.Generator(), k=3)), "speculate runs with an end token")  # noqa: B023
        equal(found, own[: own.index(own[place])], "an end token ends the text and is not given, wherever it stands", given=f"end token {own[place]}")


@check(
    "5 · The loop",
    hints=(
        "Draw two tokens many hundred times and count the pairs. Plain sampling gives p(i)·p(j | i).",
        "Each guess needs a random number of its own for the draw, another for the judgement, and the last token one more: none may be used twice.",
        "`uniform = torch.rand(2 * k + 1, generator=generator, dtype=torch.float64)`: K to judge, one for the end, K for the draft.",
    ),
)
def check_drawn_text_has_the_models_distribution(part: Part, rng: random.Random) -> None:
    target, config = model(rng, FOUR), SampleConfig(temperature=1.5, max_tokens=2)
    first = (logits_after(target, [0, 1])[-1] / 1.5).softmax(-1)
    expected = torch.stack([first[i] * (logits_after(target, [0, 1, i])[-1] / 1.5).softmax(-1) for i in range(4)]).flatten()
    q = numbers(1, 3, 9, 27)
    draft, generator, n = Fixed(q / q.sum()), torch.Generator().manual_seed(rng.getrandbits(31)), 500
    counts = torch.zeros(16, dtype=torch.float64)
    for _ in range(n):
        text = runs(lambda: list(part.speculate(target, draft, [0, 1], config, generator, k=2)), "speculate runs at temperature 1.5")
        equal(len(text), 2, "a text has as many new tokens as were asked for, and no more", given="max_tokens 2, two guesses a pass")
        counts[4 * text[0] + text[1]] += 1
    likely = expected * n >= 4
    observed = torch.cat([counts[likely], counts[~likely].sum().unsqueeze(0)])
    wanted = torch.cat([expected[likely] * n, (expected[~likely].sum() * n).clamp(min=1e-3).unsqueeze(0)])
    chi, freedom = float(((observed - wanted) ** 2 / wanted.clamp(min=1)).sum()), int(likely.sum())
    says = "pairs of tokens come as often as the model would draw them: χ² is within five standard deviations of its mean"
    holds(
        chi < freedom + 5 * math.sqrt(2 * freedom),
        says,
        given=f"{n} texts of two tokens, four in the vocabulary",
        expected=f"about {freedom}",
        found=round(chi, 1),
    )


@check(
    "5 · The loop",
    hints=(
        "A penalty for repetition depends on the text so far. Does the second guess see the first in it?",
        "Refuse before the first pass: what cannot be exact, what has no token to start from, and what has no room.",
        '`raise ConfigError(…, where="repetition_penalty")` unless it is 1, and for k < 1; `DataError` for an empty prompt and beyond the context.',
    ),
)
def check_what_cannot_be_is_refused(part: Part, rng: random.Random) -> None:
    target = model(rng)
    cases = (
        ("a repetition penalty of 1.1", dataclasses.replace(GREEDY, repetition_penalty=1.1), PROMPT, 2, ConfigError),
        ("k = 0", GREEDY, PROMPT, 0, ConfigError),
        ("an empty prompt", GREEDY, list[int](), 2, DataError),
        ("5 tokens and 44 new ones in a context of 48", dataclasses.replace(GREEDY, max_tokens=44), PROMPT, 2, DataError),
    )
    for given, config, prompt, k, error in cases:
        call = functools.partial(part.speculate, target, Scripted([]), prompt, config, torch.Generator(), k=k)
        refuses(lambda: list(call()), error, f"{given} is refused", given=given)  # noqa: B023
    fits = dataclasses.replace(GREEDY, max_tokens=43)
    found = runs(
        lambda: list(part.speculate(target, Scripted([]), PROMPT, fits, torch.Generator(), k=2)), "as many tokens as the context has room for are fine"
    )
    equal(len(found), 43, "as many tokens as the context has room for are written", given="5 tokens and 43 new ones in a context of 48")


CHECKS: tuple[Check, ...] = (
    check_the_distribution_is_that_of_plain_sampling,
    check_the_residual_completes_p,
    check_a_pass_by_hand,
    check_what_comes_out_has_the_models_distribution,
    check_a_certain_model_gets_its_own_tokens,
    check_the_expected_tokens_are_a_geometric_sum,
    check_greedy_text_is_plain_text,
    check_the_draft_and_the_tally_are_told,
    check_drawn_text_has_the_models_distribution,
    check_what_cannot_be_is_refused,
    *DRAFT_CHECKS,
)
