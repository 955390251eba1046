"""What a token costs: the keys of the record, the bytes by hand, and percentiles."""

import dataclasses

import pytest
import torch

from underhood.infer.cache import KVCache, cache_bytes
from underhood.nn.gpt import build_gpt
from underhood.projects.kv_cache import measure

SMALL = dataclasses.replace(measure.MODEL, vocab_size=64, context=40, n_layer=2, n_head=2, width=16, hidden=24)


def test_what_is_reported_hangs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "read_gb_per_s", lambda: 1e-3)
    found = measure.measure(SMALL, (16,), 5)
    weights = sum(p.numel() for p in build_gpt(SMALL, 0).parameters()) * 4
    assert found["limit_ms"] == pytest.approx(weights / 1e6 * 1e3, abs=0.01)
    assert found["cache_kib_per_position"] == 2 * 2 * 16 * 4 / 1024
    assert found["positions_as_large_as_the_weights"] == weights // 256
    at = found["T=16"]
    assert at["formula_kib"] == at["held_kib"] == 21 * 256 / 1024
    assert at["decode_p50_ms"] <= at["decode_p99_ms"]
    assert at["cached_tokens_per_s"] == pytest.approx(1e3 / at["decode_p50_ms"], rel=0.05)
    assert at["bandwidth_share"] == pytest.approx((weights + 16 * 256) / at["decode_p50_ms"] * 1e3 / 1e6, rel=0.05)


def test_percentiles_by_hand() -> None:
    times = [4.0, 1.0, 3.0, 2.0]
    assert [measure.percentile(times, p) for p in (25, 50, 51, 99, 100)] == [1.0, 2.0, 3.0, 4.0, 4.0]


def test_the_bytes_that_are_held_are_those_of_the_capacity() -> None:
    model = build_gpt(SMALL, 0)
    cache = KVCache(2, 9)
    with torch.no_grad():
        model.hidden(torch.zeros(1, 3, dtype=torch.long), cache)
    assert measure.held_bytes(cache) == cache_bytes(SMALL, 9)
