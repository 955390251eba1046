"""A run folder: made once, opened again, resumed to the bit; every way in which a text can be too small has a message."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from underhood.base.config import override
from underhood.base.errors import ConfigError, DataError
from underhood.data.corpora import Corpus, load_corpus
from underhood.train import run as runs
from underhood.train.recipes import RunConfig, modern, small, vocabulary_for

TINY = ["model.context=16", "batch_size=4", "vocab_size=300", "tokenizer=bpe"]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus("tales:60")


def tiny(*settings: str) -> RunConfig:
    return override(small(1, characters=20_000, steps=6), [*TINY, *settings])


def test_a_run_is_made_opened_and_trained(tmp_path: Path, corpus: Corpus) -> None:
    run = runs.prepare(tiny(), corpus, tmp_path / "run")
    again = runs.open_run(tmp_path / "run")
    assert again.config == run.config
    assert again.config.model.vocab_size == again.tokenizer.vocab_size == 300
    assert again.tokenizer.decode(again.val[1:200].tolist()).startswith(corpus.val[0][:40])
    trainer = again.trainer([metrics := runs.Metrics(again.folder)], folder=again.folder)
    assert trainer.run() == "finished"
    lines = runs.read_metrics(again.folder)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "val_loss" in line] == [6]
    assert metrics.path.exists()
    figures = again.validate(trainer.model)
    assert figures["bits_per_byte"] < figures["loss"] / 0.6931 * 1.01  # a token is at least a byte


def test_resuming_gives_the_same_weights(tmp_path: Path, corpus: Corpus) -> None:
    run = runs.prepare(tiny("model.dropout=0.1"), corpus, tmp_path / "run")
    whole = run.trainer()
    for _ in range(6):
        whole.step()
    first = run.trainer(folder=run.folder)
    for _ in range(3):
        first.step()
    first.save()
    second = runs.open_run(run.folder).trainer(folder=run.folder)
    assert second.resume() == []
    for _ in range(3):
        second.step()
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    metrics = runs.Metrics(tmp_path)
    for step in (1, 2, 3):
        metrics.write(step, loss=1.0)
    with open(tmp_path / runs.METRICS, "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    runs.Metrics(tmp_path, from_step=2).write(3, loss=2.0)
    assert [(m["step"], m["loss"]) for m in runs.read_metrics(tmp_path)] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_a_folder_is_never_overwritten(tmp_path: Path, corpus: Corpus) -> None:
    runs.prepare(tiny(), corpus, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a run already"):
        runs.prepare(tiny(), corpus, tmp_path / "run")


def test_a_preparation_that_was_interrupted_starts_again(tmp_path: Path, corpus: Corpus) -> None:
    (tmp_path / "run" / ".tmp-1-val").mkdir(parents=True)
    (tmp_path / "run" / "train").mkdir()
    run = runs.prepare(tiny(), corpus, tmp_path / "run")
    assert sorted(p.name for p in run.folder.iterdir()) == ["config.json", "tokenizer.json", "train", "val"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.context=5000"], "more than the context of 5000"),
        (["vocab_size=30000"], "30000|30,000"),
        (["pattern=gpt5"], "gpt4"),
    ],
)
def test_settings_that_the_text_cannot_meet(tmp_path: Path, corpus: Corpus, settings: list[str], message: str) -> None:
    with pytest.raises((DataError, ValueError), match=message):
        runs.prepare(tiny(*settings), corpus, tmp_path / "run")
    assert not (tmp_path / "run" / runs.CONFIG).exists()


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json here"):
        runs.open_run(tmp_path)


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path, corpus: Corpus) -> None:
    run = runs.prepare(tiny(), corpus, tmp_path / "run")
    path = run.folder / runs.TOKENIZER
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document, indent=3))
    with pytest.raises(DataError, match="another tokenizer"):
        runs.open_run(run.folder)


def test_steps_are_settled_in_the_config(tmp_path: Path, corpus: Corpus) -> None:
    run = runs.with_steps(runs.prepare(tiny(), corpus, tmp_path / "run"), 50)
    assert runs.open_run(run.folder).config.train == run.config.train
    assert (run.config.train.steps, run.config.train.schedule.warmup, run.config.train.validate_every) == (50, 1, 2)
    assert runs.seconds_per_step(run) > 0


@pytest.mark.parametrize(("characters", "vocab_size"), [(100, 512), (1_115_394, 512), (2_200_000, 1024), (32_000_000, 8192), (10**9, 32768)])
def test_the_vocabulary_follows_the_text(characters: int, vocab_size: int) -> None:
    assert vocabulary_for(characters) == vocab_size


@pytest.mark.parametrize("characters", [100, 5_000, 20_479, 500_000])
def test_the_recipe_fits_small_texts(characters: int) -> None:
    config = small(characters=characters)
    assert config.model.context < characters // 10
    assert (config.tokenizer == "chars") == (characters < 20_000)


def test_the_dial_derives_the_rest() -> None:
    config = modern(6, vocab_size=100)
    assert (config.n_layer, config.width, config.n_head) == (6, 192, 6)
    assert dataclasses.replace(config, n_layer=1).width == 192
    with pytest.raises(ConfigError, match="at least 1"):
        modern(0, vocab_size=100)
