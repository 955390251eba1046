"""The six points: the healthy run learns, repeats itself, and its figures are the declared ones."""

import dataclasses

from underhood.lab.baseline import get
from underhood.lab.baselines.scalar import differences


def test_the_healthy_run_learns_and_repeats_itself() -> None:
    baseline = get("scalar.six_points")
    config = dataclasses.replace(baseline.config, steps=120)
    losses: list[float] = []
    a = baseline.run(config, 100, lambda step, **figures: losses.append(figures["loss"]))
    assert set(a) == set(baseline.metrics)
    assert len(losses) == 120
    assert float(a["loss"]) < 0.1
    assert float(a["first_loss"]) > 0.5
    assert float(a["network_gradient_error"]) < 1e-6
    assert all(a[name] is True for name in ("tree_exact", "shared_exact", "fresh_gradients", "survives_depth", "refuses_log_of_zero"))
    assert a == baseline.run(config, 100, lambda step, **figures: None)
    assert a != baseline.run(config, 101, lambda step, **figures: None)


def test_differences_by_hand() -> None:
    """x² y at (3, 2): the slopes are 2xy = 12 and x² = 9."""
    slopes = differences(lambda p: p[0] ** 2 * p[1], [3.0, 2.0])
    assert [round(s, 6) for s in slopes] == [12.0, 9.0]
