"""Needles: texts of an exact length whose truth is known, found by a model that copies and by none that guesses."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from underhood.base.errors import ConfigError, DataError
from underhood.eval.needle import Ledger, Needle, bury, facts, in_pieces, loss_by_position, retrieval, retrieved, spell

FILLER = list(range(100, 160))
TWO = [Needle(fact=(1, 2, 3), question=(1,), answer=(2, 3)), Needle(fact=(5, 6), question=(5,), answer=(6,))]


def oracle(vocabulary: int = 200) -> Callable[[Tensor], Tensor]:
    """After a token that occurred before, what followed it last time; otherwise token 0."""

    def model(ids: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, vocabulary)
        for b, row in enumerate(ids.tolist()):
            follows: dict[int, int] = {}
            for t, token in enumerate(row):
                if t:
                    follows[row[t - 1]] = token
                logits[b, t, follows.get(token, 0)] = 1.0
        return logits

    return model


def test_a_haystack_by_hand() -> None:
    text = bury(FILLER, TWO, [0.5, 0.0], 12)
    assert text.ids == (5, 6, 100, 101, 1, 2, 3, 102, 103, 1, 2, 3)
    assert text.answer == (2, 3)
    assert bury(FILLER, TWO, [1.0, 1.0], 12, asked=1).ids == (100, 101, 102, 103, 104, 1, 2, 3, 5, 6, 5, 6)


@pytest.mark.parametrize("length", [9, 20, 40])
@pytest.mark.parametrize("depth", [0.0, 0.33, 1.0])
def test_every_text_has_its_length_all_facts_and_its_answer_last(length: int, depth: float) -> None:
    text = bury(FILLER, TWO, [depth, 0.7], length)
    assert len(text.ids) == length
    joined = "," + ",".join(map(str, text.ids)) + ","
    assert ",1,2,3," in joined
    assert ",5,6," in joined
    assert text.ids[-3:] == (1, 2, 3)
    assert [i for i in text.ids if i >= 100] == FILLER[: length - 8]


def test_what_does_not_fit_is_refused() -> None:
    for filler, depths, length in ((FILLER, [0.5, 0.5], 7), ([1], [0.5, 0.5], 30), (FILLER, [1.5, 0.5], 20)):
        with pytest.raises(DataError):
            bury(filler, TWO, depths, length)


def test_a_model_that_copies_finds_all_and_one_that_guesses_nothing() -> None:
    texts = [bury(FILLER, TWO, [0.2, 0.6], n, asked=i) for n in (12, 30, 12) for i in (0, 1)]
    assert retrieved(oracle(), texts) == [True] * 6
    assert retrieved(lambda ids: torch.zeros(*ids.shape, 200), texts) == [False] * 6
    assert retrieved(oracle(), texts, batch_tokens=1) == [True] * 6


def test_every_token_of_the_answer_must_be_right() -> None:
    def half(ids: Tensor) -> Tensor:
        logits = oracle()(ids)
        logits[:, -1] = 0
        return logits

    assert retrieved(half, [bury(FILLER, TWO, [0.5, 0.5], 20)]) == [False]


def test_retrieval_sees_depth_and_length() -> None:
    """A model that sees eight tokens only finds what lies near the question."""
    ledger = Ledger()
    near = oracle(ledger.vocabulary)

    def short_sighted(ids: Tensor) -> Tensor:
        logits = near(ids)
        logits[:, -1] = near(ids[:, -8:])[:, -1]
        return logits

    grid = retrieval(short_sighted, ledger.needles, ledger.fill, lengths=(8, 40), depths=(0.0, 1.0), count=5)
    assert grid == {(8, 0.0): 1.0, (8, 1.0): 1.0, (40, 0.0): 0.0, (40, 1.0): 1.0}
    several = retrieval(near, ledger.needles, ledger.fill, lengths=(24,), depths=(0.5,), needles=4, count=5)
    assert several == {(24, 0.5): 1.0}


def test_facts_are_about_different_people_and_spelled_without_a_straddling_token() -> None:
    made = facts(random.Random(0), 5)
    assert len({question for _, question, _ in made}) == len({answer for *_, answer in made}) == 5
    for statement, question, answer in made:
        assert statement == f"{question}{answer}."
    needle = spell(lambda text: [ord(c) for c in text], made[0])
    assert needle.fact == (*needle.question, *needle.answer, ord("."))
    with pytest.raises(DataError, match="1 … 16"):
        facts(random.Random(0), 17)


def test_a_ledger_s_truth_is_the_last_statement() -> None:
    ledger, generator = Ledger(filler=5, things=3, values=4, times=3), torch.Generator().manual_seed(0)
    x, y = ledger.texts(40, 60, generator)
    assert ledger.vocabulary == 5 + 3 + 12
    assert int(x.max()) < ledger.vocabulary
    for row, wanted in zip(x.tolist(), y.tolist(), strict=True):
        stated: dict[int, list[int]] = {}
        for a, b in zip(row[:54:2], row[1:54:2], strict=True):
            if 5 <= a < 8:
                assert 8 + 4 * (a - 5) <= b < 8 + 4 * (a - 4)
                stated.setdefault(a, []).append(b)
        assert sorted(map(len, stated.values())) == [3, 3, 3]
        assert sorted(row[54::2]) == [5, 6, 7]
        assert [(q, t) for q, t in zip(row[54::2], wanted[54::2], strict=True)] == [(q, stated[q][-1]) for q in row[54::2]]
        assert row[55::2] == wanted[54::2]
        assert sum(t != -100 for t in wanted) == 3


def test_a_ledger_refuses_what_cannot_be() -> None:
    with pytest.raises(DataError, match="at least 24"):
        Ledger().texts(1, 23, torch.Generator())
    Ledger().texts(1, 24, torch.Generator())
    with pytest.raises(ConfigError, match="times"):
        Ledger(times=0)


def test_the_loss_of_each_position() -> None:
    """Uniform logits cost ln V everywhere; certainty at one position costs nothing there."""

    def model(ids: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, 4)
        logits[:, 1, 2] = 50.0
        return logits

    losses = loss_by_position(model, torch.zeros(3, 4, dtype=torch.long), torch.full((3, 4), 2))
    torch.testing.assert_close(losses, torch.tensor([4.0, 1.0, 4.0, 4.0]).log())
    assert in_pieces(losses, 2) == pytest.approx([0.5 * float(torch.tensor(4.0).log()), float(torch.tensor(4.0).log())])
    with pytest.raises(DataError, match="divisor"):
        in_pieces(losses, 3)
