"""The demo's words and pieces, without its minutes; the whole of it is a slow test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from underhood.cli import showcase
from underhood.cli.demo import BREAKS
from underhood.data.corpora import load_corpus
from underhood.lab import baseline as baselines


def test_its_breaks_predict_figures_that_its_baseline_reports() -> None:
    for scored in (True, False):
        for name, sabotage in showcase.demo_breaks(BREAKS, scored=scored):
            metrics = baselines.get(sabotage.baseline).metrics
            assert {getattr(p, "metric", None) for p in sabotage.expect} <= set(metrics), name


def test_break_lines_show_every_arm_with_its_range() -> None:
    def arm(loss: float, text: str) -> dict[str, object]:
        return {"figures": {"val_loss": loss, "writing_loss": 2 * loss}, "texts": {"text": text}}

    result = {"break": "attention.no_mask", "seeds": [0, 1], "healthy": [arm(1.0, "a <b>"), arm(1.2, "")], "broken": [arm(0.5, "zzz"), arm(0.7, "")]}
    text = "\n".join(showcase.break_lines([result]))
    assert "1.10 (1.00…1.20)" in text
    assert "0.60 (0.50…0.70)" in text
    assert "sentences that parse" not in text
    assert "no_mask writes" in text
    assert "zzz" in text


def test_known_words_are_counted() -> None:
    corpus = load_corpus("tales:20")
    word = showcase.words_of(corpus.train[0])[0]
    assert showcase.known_words([f"{word} qqqq cut"], corpus) == "1/2 = 50.0 %"
    assert showcase.known_words([], corpus) == "0/0"


@pytest.mark.slow
def test_the_whole_demo_on_a_persons_own_text(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("The old house stood by the river, and nobody went there after dark. " * 900, encoding="utf-8")
    words = [sys.executable, "-m", "underhood", "demo", "--data", "mine.txt", "--minutes", "0.05", "--json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=True)
    figures = json.loads(done.stdout)
    assert [b["break"] for b in figures["breaks"]] == list(BREAKS)
    page = (tmp_path / "runs" / "demo" / "report.html").read_text()
    assert "<script" not in page
    assert "before" in page
