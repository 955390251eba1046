"""What speculation gains: the figures hang together."""

from underhood.infer.speculate import Draft
from underhood.lab.baselines.speculative import SMALLER
from underhood.nn.gpt import build_gpt
from underhood.projects.speculative import measure


def test_repetitive_text_takes_few_passes() -> None:
    found = measure.repetitive()
    assert 1.5 < found["ngram_tokens_per_pass"] <= 5
    assert 0.5 < found["ngram_alpha"] <= 1


def test_without_guesses_a_pass_gives_one_token() -> None:
    model = build_gpt(SMALLER, 0).eval()
    found = measure.with_guesses(model, Draft(), [[1, 2]], 2, 0.1, 1.0)
    assert found["tokens_per_pass"] == found["formula_tokens_per_pass"] == 1
    assert found["alpha"] == 0
    assert found["speedup"] > 0
