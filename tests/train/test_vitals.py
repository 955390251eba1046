"""Vital signs: the right numbers, only when asked, and gone afterwards."""

import math

import pytest

from tests.train.small import Losses, make
from underhood.train.vitals import VitalSigns


def test_what_is_measured_is_what_happened() -> None:
    trainer = make()
    with VitalSigns(trainer.model, every=1) as signs:
        trainer.callbacks.append(signs)
        start = trainer.parameters["norm.weight"].detach().clone()
        bias = trainer.parameters["norm.bias"].detach().clone()
        figures = trainer.step()
        after = [trainer.parameters[f"norm.{kind}"].detach() for kind in ("weight", "bias")]
        moved = math.hypot(float((after[0] - start).norm()), float((after[1] - bias).norm()))
    seen = signs.history[0]
    assert (seen.step, seen.loss) == (1, figures.loss)
    assert seen.layers["norm"].update_ratio == pytest.approx(moved / float(start.norm()), rel=1e-5)
    assert seen.layers["norm"].rms == pytest.approx(1.0, abs=0.05)
    assert seen.layers["norm"].largest > seen.layers["norm"].rms
    together = math.sqrt(sum(v.gradient_norm**2 for v in seen.layers.values()))
    assert together == pytest.approx(min(1.0, figures.gradient_norm), rel=1e-4), "the layers' norms together are the clipped norm"
    assert not any(m._forward_hooks for m in trainer.model.modules())


def test_only_every_tenth_step_and_without_changing_the_run() -> None:
    watched, alone = Losses(), Losses()
    trainer = make(callbacks=[watched])
    with VitalSigns(trainer.model, every=10) as signs:
        trainer.callbacks.append(signs)
        trainer.run()
    make(callbacks=[alone]).run()
    assert [v.step for v in signs.history] == [10, 20, 30, 40, 50, 60]
    assert watched.seen == alone.seen
