"""The baselines for tiled attention: same seed, same figures; the closed forms they claim; the breaks act on them as declared."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from underhood.lab.baseline import Baseline, get
from underhood.lab.baselines.flash import TALES, RowsConfig, formula, padded, properties, rows, trained
from underhood.lab.compare import judge_property
from underhood.lab.patch import applied
from underhood.lab.sabotage import Keeps, Sabotage, Violates
from underhood.projects.flash.breaks import BREAKS

SHORT = dataclasses.replace(TALES, steps=6, stories=100, check_batches=1)
EXACT_BREAKS = [b for b in BREAKS if b.baseline == "flash.rows"]


def silent(step: int, **figures: float) -> None:
    pass


def by_name(name: str) -> Baseline:
    return get(f"flash.{name}")


def test_the_same_seed_gives_the_same_figures_and_another_others() -> None:
    for run, config in ((rows, RowsConfig()), (trained, SHORT)):
        one, same, other = (run(config, seed, silent) for seed in (100, 100, 101))  # type: ignore[operator]
        assert one == same
        assert one != other
    assert set(by_name("rows").metrics) == set(rows(RowsConfig(), 100, silent))
    assert set(by_name("tales").metrics) == set(one)


def test_the_formula_is_torch_s() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, h, n, 8, generator=generator) for h, n in ((4, 5), (2, 9), (2, 9)))
    mask = ~torch.ones(5, 9, dtype=torch.bool).triu(5)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(formula(q, k, v), expected)


def test_the_healthy_layer_is_exact_in_every_respect() -> None:
    found = rows(RowsConfig(), 100, silent)
    assert all(value for value in found.values() if isinstance(value, bool))
    assert all(float(found[name]) < 1e-5 for name in ("error", "gradient_error", "sharp_error", "whole_tiles_error", "two_way_error", "row_sum_error"))
    assert found["half_error"] == pytest.approx(1, abs=0.01)
    assert found["largest_safe_score"] == 10_000
    assert found["key_gradient_ratio"] == pytest.approx(1, abs=1e-6)


def test_without_a_maximum_the_limit_is_where_the_sum_overflows() -> None:
    """100 equal terms: ln(3.4e38) - ln 100."""
    broken = next(b for b in BREAKS if b.name == "no_running_max")
    with applied(broken.patches):
        limit = float(rows(RowsConfig(), 100, silent)["largest_safe_score"])
    assert limit == pytest.approx(math.log(torch.finfo(torch.float32).max / 100), abs=0.02)


def test_padding_hides_whole_tiles() -> None:
    config = RowsConfig()
    assert config.length - 52 > config.tile[1]
    x = torch.ones(1, 4, config.length, 8)
    assert padded(config, x, x[:, :2], x[:, :2]).shape == x.shape


@pytest.mark.parametrize("sabotage", EXACT_BREAKS, ids=lambda b: b.name)
def test_the_exact_predictions_hold_on_a_seed_that_is_not_recorded(sabotage: Sabotage) -> None:
    predictions = [p for p in sabotage.expect if isinstance(p, (Keeps, Violates)) and p.metric != "gradients"]
    healthy = properties(RowsConfig(), 107)
    with applied(sabotage.patches):
        broken = properties(RowsConfig(), 107)
    for prediction in predictions:
        assert judge_property(prediction, [healthy[prediction.metric]], [broken[prediction.metric]]).verdict == "held", prediction
