"""The character baseline: what it reports, that it repeats itself, and that its floor and ceiling are those of its corpus."""

import dataclasses
import math

import numpy as np
import pytest

from underhood.data.corpora import load_corpus
from underhood.lab.baseline import get
from underhood.lab.baselines.tensor import CORPUS, LOWER_BOUND, UNIFORM, largest, text_ids
from underhood.tensor.train import TrainConfig


def test_a_short_healthy_run_reports_every_figure_and_repeats_itself() -> None:
    baseline = get("tensor.characters")
    config = dataclasses.replace(baseline.config, hidden=16, train=TrainConfig(steps=60, batch=16))
    a = baseline.run(config, 100, lambda step, **figures: None)
    assert set(a) == {*baseline.metrics, "text"}
    assert float(a["bigram_loss"]) < float(a["unigram_loss"]) < UNIFORM
    assert float(a["next_character_loss"]) == pytest.approx(float(a["val_loss"]), abs=0.2)
    assert (a["largest_safe_logit"], a["largest_safe_gap"]) == (10_000.0, 10_000.0)
    assert all(a[name] is True for name in ("reads_every_place", "colder_is_surer", "refuses_negative_targets", "float32_throughout"))
    assert len(str(a["text"])) == 200
    assert a == baseline.run(config, 100, lambda step, **figures: None)


def test_floor_and_ceiling_are_the_corpus_own() -> None:
    characters, train, _ = text_ids()
    corpus = load_corpus(CORPUS)
    assert corpus.floor is not None
    assert math.log(len(characters)) == pytest.approx(UNIFORM)
    assert corpus.floor * math.log(2) == pytest.approx(LOWER_BOUND, abs=0.001)
    assert len(np.unique(train)) <= len(characters)


def test_largest_finds_where_float32_ends() -> None:
    with np.errstate(over="ignore"):
        assert largest(lambda x: bool(np.isfinite(np.exp(np.float32(x))))) == pytest.approx(88.72, abs=0.02)
    assert largest(lambda x: True) == 10_000.0
