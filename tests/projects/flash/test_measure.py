"""What tiled attention costs: the counted operations against torch's own counter, the closed forms of its bytes, and the record's keys."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from underhood.nn.flash import flash
from underhood.projects.flash import measure
from underhood.projects.flash.measure import HEADS, WIDTH


def test_the_operations_are_those_that_torch_counts() -> None:
    """Four tiles to a side: ten of sixteen are computed, where the formula counts half of the pairs."""
    run = measure.step(flash, 256)
    with FlopCounterMode(display=False) as counter:
        run()
    assert counter.get_total_flops() == measure.flops(256) * 2 * 10 / 16


def test_the_bytes_by_hand() -> None:
    """One position: eleven numbers of T² a head, and twelve vectors, four bytes each."""
    assert measure.tiled_bytes(1) == 4 * HEADS * 12 * WIDTH
    assert measure.plain_bytes(1) == measure.tiled_bytes(1) + 4 * HEADS * 11


def test_what_is_reported_hangs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "matmul_gflop_per_s", lambda: 100.0)
    monkeypatch.setattr(measure, "read_gb_per_s", lambda: 10.0)
    found = measure.measure((128,))
    assert found["balance_flop_per_byte"] == 10
    at = found["T=128"]
    assert at["scores_mib"] == HEADS * 128 * 128 * 4 / 2**20
    assert at["limit_ms"] == pytest.approx(at["gflop"] / 100 * 1e3, abs=0.01)
    assert at["plain_over_tiled_memory"] == pytest.approx(at["plain_peak_mib"] / at["tiled_peak_mib"], abs=0.1)
    assert at["plain_peak_mib"] > 2 * at["scores_mib"]


def test_one_step_gives_three_gradients() -> None:
    for kernel in measure.KERNELS.values():
        gradients = measure.step(kernel, 32)()
        assert isinstance(gradients, tuple)
        assert [tuple(g.shape) for g in gradients] == [(1, HEADS, 32, WIDTH)] * 3
        assert all(torch.is_tensor(g) for g in gradients)
