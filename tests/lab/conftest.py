"""A baseline of the tests' own, found by workers through PYTHONPATH: arithmetic that crashes, hangs, grows or yields NaN when told to."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from underhood.lab import baseline as baselines
from underhood.lab.baseline import Baseline

MODULE = '''
import dataclasses, math, os, sys, time
from underhood.base.errors import NonFinite
from underhood.base.rng import stream
from underhood.lab.baseline import Baseline, Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    lift: float = 0.0
    trouble: str = "none"


def lifted(x, lift):
    """What the breaks of these tests edit."""
    return x + lift


def never_called(x):
    return x + 1


def run(config, seed, watch):
    print("chatter of a run")
    loss = 1.0 + stream(seed, "loss").random()
    for step in range(100):
        watch(step, loss=loss)
    if config.trouble == "crash":
        raise ValueError("broken on purpose")
    if config.trouble == "nan":
        raise NonFinite("the loss", step=99, module="head")
    if config.trouble == "hang":
        time.sleep(600)
    if config.trouble == "slow":
        time.sleep(1.0)
    if config.trouble == "die":
        os._exit(3)
    if config.trouble == "grow":
        held = [bytearray(64 << 20) for _ in range(40)]
        time.sleep(600)
    if config.trouble == "memory":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")
    loss = lifted(loss, config.lift)
    where = {"pid": float(os.getpid()), "group": float(os.getpgrp() if hasattr(os, "getpgrp") else 0)}
    return {"loss": math.nan if config.trouble == "nan figure" else loss, **where, "sane": loss < 3, "text": f"seed {seed}"}


TINY = Baseline(
    name="arms_of_tests:TINY",
    says="one random number",
    run=run,
    config=Config(),
    metrics={
        "loss": Metric(says="a number", floor=1.0, ceiling=2.0, smallest=0.05, worst=9.0),
        "pid": Metric(says="which process", better="neither", tolerance=1e9),
        "sane": Metric(says="small enough", better="higher"),
    },
    seconds=0.1,
)
'''


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Baseline]:
    """The baseline ``arms_of_tests:TINY``."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "arms_of_tests.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    importlib.invalidate_caches()
    yield baselines.get("arms_of_tests:TINY")
    sys.modules.pop("arms_of_tests", None)
