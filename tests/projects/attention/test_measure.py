"""The costs of attention: counted as torch counts them, timed within reason."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from underhood.nn.attention import AttentionConfig, MultiHeadAttention
from underhood.nn.init import fan_in, init_parameters
from underhood.projects.attention.measure import HEADS, LENGTHS, WIDTH, flops_of, measure


def test_operations_equal_torchs_count() -> None:
    import torch

    layer = MultiHeadAttention(AttentionConfig(width=WIDTH, n_head=HEADS))
    init_parameters(layer, 0, fan_in)
    for T in (16, 50):
        with FlopCounterMode(display=False) as counter:
            layer(torch.zeros(1, T, WIDTH))
        assert counter.get_total_flops() == flops_of(T)


def test_the_figures_are_those_of_a_real_machine() -> None:
    found = measure()
    layer = MultiHeadAttention(AttentionConfig(width=WIDTH, n_head=HEADS))
    assert found["parameters"] == sum(p.numel() for p in layer.parameters())
    for T in LENGTHS:
        row = found[f"T={T}"]
        assert row["weights_mib"] == pytest.approx(HEADS * T * T * 4 / 2**20, abs=1e-3)
        assert row["plain_share_of_peak"] > 0
        assert row["plain_ms"] > 0 < row["fused_ms"]
