"""Schedules against closed forms, torch's own, and each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from underhood.base.errors import ConfigError, UnknownName
from underhood.train.schedule import ScheduleConfig, constant, warmup_cosine, warmup_linear, warmup_stable_decay

SHAPES = [constant, warmup_cosine, warmup_linear, warmup_stable_decay]


def test_cosine_is_torchs() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([p], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=50, eta_min=0.1)
    for step in range(50):
        assert warmup_cosine(step, warmup=0, steps=50, floor=0.1) == pytest.approx(sgd.param_groups[0]["lr"])
        sgd.step()
        theirs.step()


def test_linear_is_torchs() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([p], lr=1.0)
    theirs = torch.optim.lr_scheduler.LinearLR(sgd, start_factor=1.0, end_factor=0.2, total_iters=40)
    for step in range(45):
        assert warmup_linear(step, warmup=0, steps=40, floor=0.2) == pytest.approx(sgd.param_groups[0]["lr"])
        sgd.step()
        theirs.step()


def test_by_hand() -> None:
    assert [warmup_cosine(s, warmup=4, steps=12, floor=0.0) for s in (0, 3, 4, 8, 12, 99)] == pytest.approx([0.25, 1, 1, 0.5, 0, 0])
    assert [warmup_stable_decay(s, warmup=2, steps=10, floor=0.5) for s in (0, 1, 8, 9, 10)] == pytest.approx([0.5, 1, 1, 0.75, 0.5])


@pytest.mark.parametrize("shape", SHAPES)
@given(step=st.integers(0, 300), warmup=st.integers(0, 50), steps=st.integers(1, 200), floor=st.floats(0, 1))
def test_always_a_share(shape, step: int, warmup: int, steps: int, floor: float) -> None:
    assert 0 <= shape(step, warmup=warmup, steps=steps, floor=floor) <= 1 + 1e-12


def test_config() -> None:
    assert ScheduleConfig(shape="constant", warmup=0).share(7, 10) == 1
    with pytest.raises(ConfigError, match="warmup"):
        ScheduleConfig(warmup=-1)
    with pytest.raises(UnknownName, match="warmup_cosine"):
        ScheduleConfig(shape="warmup_cosin").share(0, 10)
