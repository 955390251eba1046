"""Scores of a model's own stories and of minimal pairs, with models whose answers are known beforehand."""

import pytest
import torch
from torch import Tensor, nn

from tests.eval.tiny_models import Table, Uniform
from underhood.base.errors import DataError
from underhood.data.tales import generate
from underhood.data.tales_pairs import PAIR_SKILLS, Pair, minimal_pairs
from underhood.data.tales_score import score
from underhood.eval import tales
from underhood.eval.tales import pair_accuracy, prompts, score_model, to_plain, whole_sentences
from underhood.infer.sample import SampleConfig
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.text.chars import CharTokenizer

ALPHABET = "".join(map(chr, range(32, 127)))
CHARS = CharTokenizer("\n" + ALPHABET)


class Oracle(nn.Module):
    """Knows all pairs: after any text it gives the likelier next character of those texts that begin so. ``wrong`` turns it round."""

    def __init__(self, pairs: list[Pair], *, wrong: bool = False) -> None:
        super().__init__()
        texts = [pair.prefix + (pair.wrong if wrong else pair.right) for pair in pairs]
        self.next: dict[tuple[int, ...], int] = {}
        for text in texts:
            ids = (0, *CHARS.encode(text))
            for i in range(1, len(ids)):
                self.next[ids[:i]] = ids[i]

    def forward(self, ids: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, CHARS.vocab_size)
        for b, row in enumerate(ids.tolist()):
            for t in range(len(row)):
                token = self.next.get(tuple(row[: t + 1]))
                if token is not None:
                    logits[b, t, token] = 20.0
        return logits


def test_a_model_that_knows_gets_every_pair_and_one_that_errs_none() -> None:
    for skill in PAIR_SKILLS:
        pairs = minimal_pairs(10, seed=3, skills=(skill,))
        for wrong in (False, True):
            for pair in pairs:
                found = pair_accuracy(Oracle([pair], wrong=wrong), CHARS, [pair], context=1000)
                assert {accuracy.share for accuracy in found.values()} == {float(not wrong)}
                assert set(found) == {skill} | ({f"{skill}_at_{pair.kind}"} if pair.distance else set())


def test_a_model_that_knows_nothing_is_at_one_half() -> None:
    """Equal lengths tie and count half; of unequal ones a uniform model takes the shorter, so quotes and brackets are exactly one half."""
    pairs = minimal_pairs(20, seed=3)
    found = pair_accuracy(Uniform(CHARS.vocab_size), CHARS, pairs, context=1000)
    assert found["quotes"].share == found["brackets"].share == 0.5
    assert all(0.2 < found[skill].share < 0.8 for skill in PAIR_SKILLS)


def test_by_hand() -> None:
    """p(b|a) = 0.6 and p(c|a) = 0.3: «b» is right after «a»."""
    tokenizer = CharTokenizer("\nabc")
    table = torch.full((4, 4), 0.1)
    table[1] = torch.tensor([0.05, 0.05, 0.6, 0.3])
    pairs = [Pair("order", "a", "b", "c"), Pair("order", "a", "c", "b"), Pair("names", "b", "a", "c")]
    found = pair_accuracy(Table(table.log()), tokenizer, pairs, context=8)
    assert found["order"].right == 1
    assert found["names"].right == 0.5  # equally likely: a tie
    assert to_plain(found)["order"] == {"right": 1.0, "total": 2, "share": 0.5}


def test_the_sum_starts_where_the_continuations_part() -> None:
    """«ab» against «ac»: what «a» costs is not counted, else rounding could decide."""
    tokenizer = CharTokenizer("\nabc")
    model = Table(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1))
    one = pair_accuracy(model, tokenizer, [Pair("order", "c", "ab", "ac")], context=8)
    other = pair_accuracy(model, tokenizer, [Pair("order", "ca", "b", "c")], context=8)
    assert one == other


def test_a_batch_gives_what_single_pairs_give() -> None:
    pairs = minimal_pairs(10, seed=2)
    model = build_gpt(GPTConfig(vocab_size=CHARS.vocab_size, context=128, n_layer=1, n_head=2, width=16), 0)
    together = pair_accuracy(model, CHARS, pairs, context=128)
    alone = pair_accuracy(model, CHARS, pairs, context=128, batch_tokens=1)
    assert together == alone


def test_a_long_prefix_is_cut_to_the_context() -> None:
    pairs = [Pair("order", "a" * 500, "b", "c")]
    model = build_gpt(GPTConfig(vocab_size=CHARS.vocab_size, context=32, n_layer=1, n_head=1, width=8), 0)
    assert pair_accuracy(model, CHARS, pairs, context=32)["order"].total == 1


def test_no_pairs_is_an_error() -> None:
    with pytest.raises(DataError, match="no pairs"):
        pair_accuracy(Uniform(3), CHARS, [], context=8)


def test_the_prompts_are_fixed_openings() -> None:
    assert prompts() == prompts()
    assert len(set(prompts())) == tales.PROMPTS
    assert prompts(3) == prompts()[:3]
    assert score(prompts())["parsed"].share == 1.0
    assert not any(story.text.startswith(prompts()[0]) for story in generate(100, 0))


def letters_only() -> GPT:
    return build_gpt(GPTConfig(vocab_size=CHARS.vocab_size, context=64, n_layer=1, n_head=1, width=8), 0)


def test_a_model_that_cannot_write_is_scored_and_nothing_is_left_out() -> None:
    """Random weights write letters without meaning and hardly ever end a sentence: each text counts as one that does not parse."""
    short = SampleConfig(max_tokens=30)
    written = score_model(letters_only(), CHARS, least=50, sample=short)
    assert written.scores.sentences >= 50
    assert written.scores["parsed"].right == 0
    assert score_model(letters_only(), CHARS, least=50, sample=short) == written
    assert score_model(letters_only(), CHARS, seed=1, least=50, sample=short) != written


def test_a_model_that_writes_tales_is_scored_as_the_scorer_scores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for sampling that writes the rest of the stories whose beginnings the prompts are."""
    stories = [s.text for s in generate(tales.DISTINCT, tales.PROMPT_SEED) for _ in range(tales.COPIES)]
    opening = [prompt for prompt in prompts(tales.DISTINCT) for _ in range(tales.COPIES)]

    def write(model: object, ids: list[list[int]], config: SampleConfig, generator: torch.Generator) -> list[list[int]]:
        return [CHARS.encode(story[len(prompt) :]) for story, prompt in zip(stories, opening, strict=True)]

    monkeypatch.setattr(tales, "generate_batch", write)
    written = score_model(letters_only(), CHARS, sample=SampleConfig(max_tokens=1000))
    assert written.texts[: len(stories)] == tuple(stories)
    assert all(written.scores[skill].right == written.scores[skill].total > 0 for skill in ("parsed", "agreement", "recall", "names"))
    assert written.scores.sentences == score(stories).sentences - len(stories)


def test_a_sentence_cut_off_by_the_limit_is_not_counted() -> None:
    assert whole_sentences("It was red. Mia put the") == "It was red. "
    assert whole_sentences('It was red. "Yes!"') == 'It was red. "Yes!"'
    assert whole_sentences("Mia put the") == "Mia put the"
    assert whole_sentences("") == ""


def test_a_model_that_writes_nothing_has_no_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tales, "generate_batch", lambda model, ids, config, generator: [[] for _ in ids])
    written = score_model(letters_only(), CHARS)
    assert written.scores.sentences == 0
    assert written.scores["parsed"].share is None
