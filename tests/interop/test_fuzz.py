"""Random damage to a model's files: an error of ours, or a model with finite logits; at once, in bounded memory.

300 cases a file here, 10,000 when slow.
"""

import json
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from underhood.base.errors import UserError
from underhood.interop import fields
from underhood.interop.export import save_model
from underhood.interop.models import load_weights
from underhood.nn.gpt import GPTConfig, build_gpt

CONFIG, WEIGHTS, INDEX = "config.json", "a shard", "model.safetensors.index.json"
NUMBERS = [0, -1, 1, 2, 3, 7, 10**8, 10**9, 2**63, 10**400, 0.5, -0.5, 1e-300, 1e308, 5e-324, float("nan"), float("inf"), -float("inf"), True, False, None]
ODD: list[Any] = [
    *NUMBERS,
    "",
    "gpt2",
    "llama",
    "yarn",
    "linear",
    "F64",
    "I64",
    "\0",
    "\ud800",
    "é" * 300,
    [],
    [1],
    [[]],
    {},
    {"rope_type": "yarn", "factor": 1e308},
]
ODD += [[0] * 1000, ["a"], {"a": {"a": {}}}]
NAMES = ["vocab_size", "n_layer", "quantization_config", "rope_scaling", "head_dim", "sliding_window", "auto_map", "x", "\ud800"]
IDS = torch.tensor([[0, 1, 2, 3, 2, 1]])
LLAMA = {"norm": "RMSNorm", "positions": "Rotary", "feedforward": "GatedFeedForward", "activation": "silu", "bias": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A good folder of each layout, in shards."""
    path = tmp_path_factory.mktemp("fuzz")
    for name, parts in {"gpt2": {}, "llama": LLAMA}.items():
        config: dict[str, Any] = {"vocab_size": 4, "context": 8, "n_layer": 1, "n_head": 2, "width": 8, "init": "fan_in"}
        save_model(build_gpt(GPTConfig(**config | parts), 0), path / name, shard_bytes=1500)
    return [path / "gpt2", path / "llama"]


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One to four bytes changed, taken out or put in."""
    held = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(held))
        held[at : at + rng.randint(0, 2)] = rng.choice([bytes([rng.randrange(256)]), bytes([held[at] ^ 1 << rng.randrange(8)]), b"", b"9", b"[", b'"'])
    return bytes(held)


def mutated(value: Any, rng: random.Random) -> Any:
    """One place somewhere in an object or a list holds something else, is gone, or is new."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(ODD)
    held = value.copy()
    key = rng.choice(list(held)) if isinstance(held, dict) else rng.randrange(len(held))
    if rng.random() < 0.1:
        del held[key]
    elif isinstance(held, dict) and rng.random() < 0.15:
        held[rng.choice(NAMES)] = rng.choice(ODD)
    else:
        held[key] = mutated(held[key], rng)
    return held


def damaged(content: bytes, rng: random.Random) -> bytes:
    return flipped(content, rng) if rng.random() < 0.4 else json.dumps(mutated(json.loads(content), rng)).encode()


def damaged_header(content: bytes, rng: random.Random) -> bytes:
    """The header damaged, its length right but for one in ten; the tensors' bytes are as they were."""
    length = int.from_bytes(content[:8], "little")
    text = damaged(content[8 : 8 + length], rng)
    size = len(text) if rng.random() < 0.9 else rng.choice([0, len(text) - 1, len(text) + 1, 2**60])
    return max(size, 0).to_bytes(8, "little") + text + content[8 + length :]


HOW: dict[str, Callable[[bytes, random.Random], bytes]] = {CONFIG: damaged, INDEX: damaged, WEIGHTS: damaged_header}


def outcome(folder: Path) -> str:
    """``refused``, or ``read`` with finite logits. Anything else is a failure."""
    start = time.perf_counter()
    try:
        model = load_weights(folder)
        ids = IDS[:, : model.config.context].clamp(max=model.config.vocab_size - 1)
        with torch.no_grad():
            assert model(ids).isfinite().all(), "logits"
        found = "read"
    except UserError:
        found = "refused"
    assert time.perf_counter() - start < 5
    return found


def fuzz(whole: Path, to: Path, file: str, seeds: range) -> list[str]:
    """Each seed's damage to one file; the seed is in the message of what fails."""
    folder = shutil.copytree(whole, to)
    place = folder / (min(p.name for p in folder.glob("model-*.safetensors")) if file == WEIGHTS else file)
    content, outcomes = place.read_bytes(), []
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        place.write_bytes(HOW[file](content, random.Random(seed)))
        try:
            outcomes.append(outcome(folder))
        except Exception as error:
            raise AssertionError(f"{whole.name}, {file}, seed {seed}: {error!r}") from error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000, "kilobytes"
    return outcomes


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("file", HOW)
@pytest.mark.parametrize("layout", [0, 1], ids=["gpt2", "llama"])
def test_damage_is_refused_or_harmless(folders: list[Path], tmp_path: Path, layout: int, file: str, count: int) -> None:
    outcomes = fuzz(folders[layout], tmp_path / "model", file, range(count))
    assert outcomes.count("refused") > count / 4
    assert file == WEIGHTS or outcomes.count("read") > 0


def test_without_a_guard_the_damage_is_found(folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with numbers of any kind let through, the same seeds end in another exception."""
    monkeypatch.setattr(fields.Fields, "number", lambda self, name, default=None, **_: self.get(name, default))
    with pytest.raises(AssertionError, match="seed"):
        fuzz(folders[1], tmp_path / "model", CONFIG, range(150))
