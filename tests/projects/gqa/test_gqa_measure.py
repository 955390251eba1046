"""The costs of each kind: what the formula says is what a cache holds."""

import pytest
import torch

from underhood.infer.cache import cache_bytes
from underhood.nn.gpt import build_gpt
from underhood.projects.gqa import measure


@pytest.mark.parametrize("name", measure.KINDS)
def test_the_formula_is_what_the_cache_holds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 300 tokens: longer than the window, short enough to be quick. (A full cache has a place for one token more.)"""
    monkeypatch.setattr(measure, "HELD", 300)
    config = measure.KINDS[name]
    cache = measure.filled(build_gpt(config, 0))
    model = build_gpt(config, 0).eval()
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.long), cache)
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert held == cache_bytes(config, 301)


def test_reading_where_they_lie_is_looking_with_shared_heads() -> None:
    found = measure.of_looking()
    assert set(found) == {"many_us", "repeated_us", "folded_us"}
    assert all(value > 0 for value in found.values())
