"""Speculation changes the time, never the text: greedy tokens are identical, sampled ones have the model's distribution."""

import dataclasses
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.infer.small import CONFIGS, V, model
from underhood.base.errors import ConfigError, DataError
from underhood.infer.medusa import MedusaDraft, MedusaHeads, medusa_loss
from underhood.infer.sample import SampleConfig, generate
from underhood.infer.speculate import (
    Draft,
    ModelDraft,
    NGramDraft,
    Tally,
    distribution,
    expected_speedup,
    expected_tokens,
    judge,
    residual,
    speculate,
)
from underhood.nn.gpt import GPT, build_gpt

GREEDY = SampleConfig(temperature=0, max_tokens=30)
PROMPT = [1, 2, 3, 1, 2, 3, 1, 2]


def small(seed: int = 7) -> GPT:
    """A draft of the same vocabulary."""
    return build_gpt(dataclasses.replace(CONFIGS["llama"], n_layer=1, width=16, n_head=2), seed).eval()


def drafts(made: GPT, config: SampleConfig) -> dict[str, Draft]:
    return {
        "nothing": Draft(),
        "another model": ModelDraft(small(), config),
        "the model itself": ModelDraft(made, config),
        "what was said": NGramDraft(V),
        "medusa": MedusaDraft(made, MedusaHeads(made, 3)),
    }


@pytest.mark.parametrize("kind", ["nothing", "another model", "the model itself", "what was said", "medusa"])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_greedy_text_is_identical(kind: str, k: int) -> None:
    made = model()
    expected = list(generate(made, PROMPT, GREEDY, torch.Generator()))
    tally = Tally()
    found = list(speculate(made, drafts(made, GREEDY)[kind], PROMPT, GREEDY, torch.Generator().manual_seed(0), k=k, tally=tally))
    assert found == expected
    assert tally.written == 30
    if kind == "the model itself":
        assert tally.rejected == 0
        assert tally.passes == -(-30 // (k + 1))
    if kind == "nothing":
        assert tally.passes == 30


@given(seed=st.integers(0, 10_000), n=st.integers(2, 6), k=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_the_residual_completes_the_distribution(seed: int, n: int, k: int) -> None:
    """min(p, q) + (1 - Σ min(p, q)) · residual = p: the identity on which everything rests."""
    p, q = torch.rand(2, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) ** k
    p, q = p / p.sum(), q / q.sum()
    both = torch.minimum(p, q)
    torch.testing.assert_close(both + (1 - both.sum()) * residual(p, q), p)


def test_a_covered_distribution_is_its_own_residual() -> None:
    p = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert torch.equal(residual(p, p), p)


def test_worked_examples_of_judging() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0]], dtype=torch.float64)
    q = torch.tensor([[0.8, 0.2, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    u = lambda *x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    assert judge(p, q, [0, 1], u(0.5, 0.1, 0.9)) == [0, 1, 1], "0.5·0.8 < 0.5 and 0.1·0.5 < 0.1: both, and one more from the last row"
    assert judge(p, q, [0, 1], u(0.7, 0.1, 0.9)) == [1], "0.7·0.8 ≥ 0.5: the residual of row 0 is all on token 1"
    assert judge(p, q, [0, 1], u(0.5, 0.3, 0.9)) == [0, 2], "the residual of row 1 is all on token 2"
    assert judge(p[:1], q[:0], [], u(0.2)) == [0]


def chi_square(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float], n: int) -> float:
    """Σ (observed - expected)² / expected over cells that expect 5 or more, in standard deviations above its mean."""
    cells = {c: e * n for c, e in expected.items() if e * n >= 5}
    rest = n - sum(cells.values())
    total = sum((counts[c] - e) ** 2 / e for c, e in cells.items())
    if rest >= 5:
        total += (n - sum(counts[c] for c in cells) - rest) ** 2 / rest
    freedom = len(cells) - (rest < 5)
    return (total - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("n", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_judged_tokens_have_the_models_distribution(n: int) -> None:
    """Many passes on a vocabulary of 5, draft and model unlike each other: the first token, and the second where there is one."""
    generator = torch.Generator().manual_seed(3)
    p, q = (torch.rand(3, 5, dtype=torch.float64, generator=generator) ** 2 for _ in range(2))
    p, q = p / p.sum(-1, keepdim=True), q[:2] / q[:2].sum(-1, keepdim=True)
    guesses = torch.stack([torch.multinomial(row, n, replacement=True, generator=generator) for row in q], dim=1).tolist()
    uniform = torch.rand(n, 3, dtype=torch.float64, generator=generator)
    new = [judge(p, q, g, u) for g, u in zip(guesses, uniform, strict=True)]
    first = {(i,): float(p[0, i]) for i in range(5)}
    assert chi_square(Counter((x[0],) for x in new), first, n) < 4
    longer = [x for x in new if len(x) > 1]
    second = {(i,): float(p[1, i]) for i in range(5)}
    assert chi_square(Counter((x[1],) for x in longer), second, len(longer)) < 4
    assert sum(map(len, new)) / n == pytest.approx(float(1 + torch.minimum(p[0], q[0]).sum() * (1 + torch.minimum(p[1], q[1]).sum())), rel=0.02)


@pytest.mark.parametrize("n", [300, pytest.param(6000, marks=pytest.mark.slow)])
def test_sampled_text_has_the_models_distribution(n: int) -> None:
    """The first two tokens of a model of 4 tokens with a draft of its own kind, many times."""
    target, other = (build_gpt(dataclasses.replace(CONFIGS["llama"], vocab_size=4, context=8), s).eval() for s in (1, 2))
    config = SampleConfig(temperature=0.8, max_tokens=2)
    with torch.no_grad():
        first = distribution(target(torch.tensor([[0, 1]]))[0, -1], config)
        after = [distribution(target(torch.tensor([[0, 1, i]]))[0, -1], config) for i in range(4)]
    expected = {(i, j): float(first[i] * after[i][j]) for i in range(4) for j in range(4)}
    generator, draft = torch.Generator().manual_seed(0), ModelDraft(other, config)
    counts = Counter(tuple(speculate(target, draft, [0, 1], config, generator, k=3)) for _ in range(n))
    assert chi_square(counts, expected, n) < 4


def test_the_formulas() -> None:
    assert expected_tokens(0, 4) == 1
    assert expected_tokens(1, 4) == 5
    assert expected_tokens(0.5, 2) == pytest.approx(1 + 0.5 + 0.25)
    assert expected_speedup(0.8, 4, 0.0) == expected_tokens(0.8, 4)
    assert expected_speedup(0.8, 4, 0.2) == pytest.approx(expected_tokens(0.8, 4) / 1.8)


def test_what_was_said_is_guessed_again() -> None:
    guesses, q = NGramDraft(9, n=2).propose([1, 2, 3, 4, 1, 2], 3, torch.rand(3))
    assert guesses == [3, 4, 1]
    assert q.argmax(-1).tolist() == guesses
    assert NGramDraft(9).propose([1, 2, 3], 3, torch.rand(3))[0] == []


def test_an_end_token_ends_it() -> None:
    made = model()
    expected = list(generate(made, PROMPT, GREEDY, torch.Generator()))
    config = dataclasses.replace(GREEDY, end_ids=(expected[10],))
    draft = ModelDraft(made, config)
    assert list(speculate(made, draft, PROMPT, config, torch.Generator(), k=4)) == expected[: expected.index(expected[10])]


def test_medusa_heads_start_as_the_model_and_learn_to_look_ahead() -> None:
    """On a text that counts, the heads learn what comes two and three places on."""
    made = model("llama")
    for p in made.parameters():
        p.requires_grad_(False)
    heads = MedusaHeads(made, 2)
    hidden = made.hidden(torch.arange(20)[None])
    assert torch.equal(heads(hidden, made.head_weight)[1], made.logits(hidden))
    ids = (torch.arange(60)[None] + torch.arange(8)[:, None] * 7) % 50
    hidden = made.hidden(ids)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = medusa_loss(heads, hidden, made.head_weight, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_loss_of_heads_is_torchs() -> None:
    import torch.nn.functional as F

    made, heads = model(), MedusaHeads(model(), 2)
    ids = torch.randint(250, (2, 9))
    hidden = made.hidden(ids).detach()
    a, b = heads(hidden, made.head_weight)
    expected = F.cross_entropy(a[:, :-2].flatten(0, 1), ids[:, 2:].flatten()) + 0.5 * F.cross_entropy(b[:, :-3].flatten(0, 1), ids[:, 3:].flatten())
    torch.testing.assert_close(medusa_loss(heads, hidden, made.head_weight, ids, decay=0.5), expected)


def test_what_cannot_be_is_named() -> None:
    made = model()
    cases = [
        (dataclasses.replace(GREEDY, repetition_penalty=1.1), PROMPT, 2, ConfigError, "repetition_penalty"),
        (GREEDY, PROMPT, 0, ConfigError, "at least one guess"),
        (GREEDY, [], 2, DataError, "no token"),
        (dataclasses.replace(GREEDY, max_tokens=90), PROMPT, 2, DataError, "context"),
    ]
    for config, prompt, k, error, says in cases:
        with pytest.raises(error, match=says):
            next(speculate(made, Draft(), prompt, config, torch.Generator(), k=k))
