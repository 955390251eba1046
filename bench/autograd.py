"""Autograd beside its peers, all in one run: the scalar engines beside micrograd, the tensor engine beside torch eager.

    python bench/autograd.py [--steps 5] [--json]

The task is micrograd's own demo: 100 points of two interleaved half moons, a 2-16-16-1 ReLU network, hinge loss with weight decay, full batch;
one step is forward, backward and update. Each row is the median over the steps, one thread. micrograd (0.1.0) is timed when it is installed
(``pip install micrograd``), with the garbage collector as Python sets it and with it off. The starting losses must agree, or nothing is printed.
"""

import argparse
import gc
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import metadata
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from underhood.scalar import fast, mlp
from underhood.tensor.tensor import Tensor

DECAY, LEARNING_RATE, WIDTHS = 1e-4, 0.5, [16, 16, 1]
Step = Callable[[], float]


def half_moons(n: int, rng: random.Random) -> tuple[list[list[float]], list[float]]:
    """``n`` points on two interleaved half circles with noise 0.1, labelled −1 and +1."""
    points, labels = [], []
    for i in range(n):
        angle, label = rng.uniform(0, math.pi), 1 if i % 2 else -1
        x, y = (math.cos(angle), math.sin(angle)) if label < 0 else (1 - math.cos(angle), 0.5 - math.sin(angle))
        points.append([x + rng.gauss(0, 0.1), y + rng.gauss(0, 0.1)])
        labels.append(float(label))
    return points, labels


POINTS, LABELS = half_moons(100, random.Random(0))


def hinge(scores: list[Any], parameters: list[Any]) -> Any:
    """Mean of max(0, 1 − y·score), plus the decay: written once for every engine of scalars."""
    losses = [(1 + -label * score).relu() for label, score in zip(LABELS, scores, strict=True)]
    return sum(losses[1:], losses[0]) * (1 / len(losses)) + DECAY * sum((p * p for p in parameters[1:]), parameters[0] * parameters[0])


def plain_step() -> Step:
    """``underhood.scalar.value``."""
    model = mlp.MLP(2, WIDTHS, random.Random(1), "relu")

    def step() -> float:
        loss = hinge([model(x)[0] for x in POINTS], model.parameters())
        for p in model.parameters():
            p.grad = 0.0
        loss.backward()
        for p in model.parameters():
            p.data -= LEARNING_RATE * p.grad
        return float(loss.data)

    return step


def fast_step() -> Step:
    """``underhood.scalar.fast``."""
    model = fast.MLP(2, WIDTHS, random.Random(1), "relu")

    def step() -> float:
        loss = hinge([model(x)[0] for x in POINTS], model.parameters())
        loss.backward()
        value = float(loss.data)
        model.descend(LEARNING_RATE)
        return value

    return step


def micrograd_step() -> Step:
    """micrograd with our initial weights."""
    from micrograd.engine import Value  # type: ignore[import-untyped]
    from micrograd.nn import MLP  # type: ignore[import-untyped]

    model, ours = MLP(2, WIDTHS), mlp.MLP(2, WIDTHS, random.Random(1), "relu")
    for theirs, p in zip(model.parameters(), ours.parameters(), strict=True):
        theirs.data = p.data
    points = [[Value(v) for v in point] for point in POINTS]

    def step() -> float:
        loss = hinge([model(x) for x in points], model.parameters())
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.data -= LEARNING_RATE * p.grad
        return float(loss.data)

    return step


def matrices() -> list[Any]:
    """The same initial weights as float32 arrays: W (in, out) and b (out) per layer."""
    layers = mlp.MLP(2, WIDTHS, random.Random(1), "relu").layers
    weights = [np.array([[w.data for w in n.weights] for n in layer.neurons], np.float32).T for layer in layers]
    return [array for w in weights for array in (w.copy(), np.zeros(w.shape[1], np.float32))]


def array_hinge(p: list[Any], x: Any, y: Any) -> Any:
    """The demo's loss on whole arrays: written once for both engines of arrays."""
    hidden = ((x @ p[0] + p[1]).relu() @ p[2] + p[3]).relu()
    loss = (1.0 - y * (hidden @ p[4] + p[5])).relu().mean()
    decay = (p[0] * p[0]).sum()
    for w in p[1:]:
        decay = decay + (w * w).sum()
    return loss + DECAY * decay


def tensor_step() -> Step:
    """``underhood.tensor``."""
    p = [Tensor(a, requires_grad=True) for a in matrices()]
    x, y = Tensor(np.array(POINTS, np.float32)), Tensor(np.array(LABELS, np.float32)[:, None])

    def step() -> float:
        loss = array_hinge(p, x, y)
        for w in p:
            w.grad = None
        loss.backward()
        for w in p:
            w.data -= LEARNING_RATE * np.asarray(w.grad)
        return float(loss.data)

    return step


def torch_step() -> Step:
    """torch, eager."""
    p = [torch.tensor(a, requires_grad=True) for a in matrices()]
    x, y = torch.tensor(POINTS), torch.tensor(LABELS)[:, None]

    def step() -> float:
        loss = array_hinge(p, x, y)
        for w in p:
            w.grad = None
        loss.backward()
        with torch.no_grad():
            for w in p:
                assert w.grad is not None
                w.sub_(w.grad, alpha=LEARNING_RATE)
        return float(loss.detach())

    return step


class no_collector(nullcontext[None]):
    """The garbage collector off for the length of the scope."""

    def __enter__(self) -> None:
        gc.disable()

    def __exit__(self, *error: object) -> None:
        gc.enable()
        gc.collect()


def timed(make: Callable[[], Step], steps: int, around: Any) -> tuple[float, float]:
    """Median milliseconds of a step after one to warm up, and the first loss."""
    step, times = make(), []
    with around:
        first = step()
        for _ in range(steps):
            start = time.perf_counter()
            step()
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), first


def machine() -> str:
    """The machine and the versions, in one line."""
    peer = metadata.version("micrograd") if installed("micrograd") else "not installed"
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, 1 thread used; Python {platform.python_version()}, "
        f"numpy {np.__version__}, torch {torch.__version__}, micrograd {peer}"
    )


def installed(name: str) -> bool:
    """Whether the distribution ``name`` is installed."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each scalar engine; the array engines take 200 times as many")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scalar, array = options.steps, options.steps * 200
    jobs: list[tuple[str, Callable[[], Step], int, Any]] = [
        ("underhood.scalar.value", plain_step, scalar, nullcontext()),
        ("underhood.scalar.value, collector off", plain_step, scalar, no_collector()),
        ("underhood.scalar.fast", fast_step, scalar * 5, nullcontext()),
        ("torch eager, arrays", torch_step, array, nullcontext()),
        ("underhood.tensor, arrays", tensor_step, array, nullcontext()),
    ]
    if installed("micrograd"):
        jobs = [("micrograd", micrograd_step, scalar, nullcontext()), ("micrograd, collector off", micrograd_step, scalar, no_collector()), *jobs]
    rows = {name: timed(make, steps, around) for name, make, steps, around in jobs}
    first = [loss for _, loss in rows.values()]
    assert max(first) - min(first) < 1e-5, f"the engines disagree about the first loss: {rows}"

    if options.json:
        print(json.dumps({"machine": machine(), "ms_per_step": {name: ms for name, (ms, _) in rows.items()}}))
        return 0
    print(machine())
    peers = {"scalar": rows.get("micrograd", (math.nan, 0))[0], "arrays": rows["torch eager, arrays"][0]}
    for name, (ms, _) in rows.items():
        kind = "arrays" if name.endswith("arrays") else "scalar"
        print(f"{name:40} {ms:9.3f} ms a step   {peers[kind] / ms:7.2f} × the speed of {'torch eager' if kind == 'arrays' else 'micrograd'}")
    if not installed("micrograd"):
        print("micrograd is not installed, so the scalar engines have no peer in this run: pip install micrograd")
    return 0


if __name__ == "__main__":
    sys.exit(main())
