"""Damaged and hostile model folders: each ends in one of our errors that names file or field, at once, and nothing is written.

``GUARDS`` is the negative control: with the guard taken away, its case no longer ends so.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from underhood.base.errors import FileSystemError, UserError
from underhood.interop import fields, models, weights
from underhood.interop.export import save_model
from underhood.interop.models import open_model
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.text.chars import CharTokenizer

TOKENIZER = CharTokenizer.train("abc ")
LLAMA = {"norm": "RMSNorm", "positions": "Rotary", "feedforward": "GatedFeedForward", "activation": "silu", "bias": False}
WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
Damage = Callable[[Path], Any]


def model(**changes: Any) -> GPT:
    sizes: dict[str, Any] = {"vocab_size": 4, "context": 8, "n_layer": 1, "n_head": 2, "width": 8, "init": "fan_in"}
    return build_gpt(GPTConfig(**sizes | changes), 0).eval()


def config(**changes: Any) -> Damage:
    """Other fields in config.json."""

    def damage(folder: Path) -> None:
        held = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps(held))

    return damage


def text(file: str, content: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(content)


def wrapped(before: bytes, after: bytes = b"") -> Damage:
    return lambda folder: (folder / CONFIG).write_bytes(before + (folder / CONFIG).read_bytes() + after)


def cut(eighth: int) -> Damage:
    return lambda folder: os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size * eighth // 8)


def header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """A changed header before the same bytes of tensors."""

    def damage(folder: Path) -> None:
        whole = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(whole[:8], "little")
        entries = json.loads(whole[8 : 8 + length])
        change(entries)
        new = json.dumps(entries).encode()
        (folder / WEIGHTS).write_bytes(len(new).to_bytes(8, "little") + new + whole[8 + length :])

    return damage


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file({n: t.clone() for n, t in held.items()}, folder / WEIGHTS)

    return damage


def instead(file: str, make: Callable[[Path], Any]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return damage


def gone(file: str) -> Damage:
    return lambda folder: (folder / file).unlink()


def pickled(folder: Path) -> None:
    """The weights in a pickle only, and an index that says so."""
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))


def shard(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))

    return damage


def unlisted(folder: Path) -> None:
    """An index that leaves out tensors of its shard."""
    name = max(load_file(folder / WEIGHTS))
    (folder / WEIGHTS).rename(folder / "model-1.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {name: "model-1.safetensors"}}))


def sentencepiece(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")


def first(entries: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = entries[next(n for n in entries if n != "__metadata__")]
    return found


def escaped(folder: Path) -> None:
    """So many empty tensors, in words that a count of ``"dtype"`` misses."""
    entries = ",".join(f'"{i}":{{"\\u0064type":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(weights.MOST_TENSORS + 2))
    (folder / WEIGHTS).write_bytes((len(entries) + 2).to_bytes(8, "little") + f"{{{entries}}}".encode())


NEST = b'{"model_type": ' + b"[" * 900 + b"]" * 900 + b"}"
BOTH: dict[str, tuple[Damage, str]] = {
    "header of 2^60": (text(WEIGHTS, (2**60).to_bytes(8, "little") + b"{}"), "header of 1,152,921,504,606,846,976"),
    "overlapping offsets": (header(lambda h: first(h).update(data_offsets=[1, 1 + first(h)["data_offsets"][1]])), "its bytes begin at 1; expected 0"),
    "int64 weights": (tensors(lambda t: t.update({n: v.long() for n, v in t.items()})), "numbers of type I64"),
    "eight-bit floats": (header(lambda h: first(h).update(dtype="F8_E4M3")), "numbers of type 'F8_E4M3'"),
    "names that evade the count": (escaped, "30,002 tensors"),
    "a tensor too many": (tensors(lambda t: t.update(more=torch.ones(2))), "more has no place"),
    "a tensor too few": (tensors(lambda t: t.pop(max(t))), "is missing"),
    "a folder for the weights": (instead(WEIGHTS, Path.mkdir), "no weights"),
    "a loop for the weights": (instead(WEIGHTS, lambda p: p.symlink_to(p)), "no weights"),
    "a folder for the config": (instead(CONFIG, Path.mkdir), "neither a run nor a model"),
    "a loop for the config": (instead(CONFIG, lambda p: p.symlink_to(p)), "neither a run nor a model"),
    "a pipe for the config": (instead(CONFIG, os.mkfifo), "neither a run nor a model"),
    "byte order mark": (wrapped(b"\xef\xbb\xbf"), "config.json: not valid JSON"),
    "invalid UTF-8": (wrapped(b"\xff"), "config.json: not valid JSON"),
    "cut config": (wrapped(b"", b"}"), "config.json: not valid JSON"),
    "a name twice": (text(CONFIG, b'{"model_type": "gpt2", "model_type": "llama"}'), "stands twice"),
    "deep nesting": (text(CONFIG, NEST), "nested too deeply"),
    "deeper nesting": (text(CONFIG, b"[" * 10**6), "nested too deeply"),
    "a number of 5,000 digits": (text(CONFIG, b'{"model_type": ' + b"9" * 5000 + b"}"), "config.json: not valid JSON"),
    "a config of 11 MB": (wrapped(b" " * 11_000_000), "too large"),
    "a list for a config": (text(CONFIG, b"[]"), "not an object"),
    "a list for a name": (config(model_type=["gpt2"]), "model_type"),
    "unknown family": (config(model_type="rwkv"), "model_type"),
    "quantized": (config(quantization_config={"bits": 4}), "quantization_config"),
    "unknown field": (config(alibi=True), "alibi"),
    "vocab_size 10^9": (config(vocab_size=10**9), "vocabulary of 1,000,000,000"),
    "vocab_size 0": (config(vocab_size=0), "vocab_size"),
    "vocab_size -1": (config(vocab_size=-1), "vocab_size"),
    "vocab_size 5": (config(vocab_size=5), "expected"),
    "missing shard": (shard("model-00001-of-00002.safetensors"), "is missing"),
    "shard with an endless name": (shard("a" * 5000 + ".safetensors"), "is missing"),
    "shard with more than its index": (unlisted, "is in it, against the index"),
    "shard outside": (shard("../model.safetensors"), "weight_map"),
    "a pickle in the index": (pickled, "in the same folder"),
    "no tokenizer": (gone("tokenizer.json"), "no tokenizer"),
    "tokenizer.model only": (sentencepiece, "Let transformers convert it"),
    "tokenizer too large": (lambda folder: CharTokenizer.train("abcdefgh").save(folder / "tokenizer.json"), "a tokenizer of 8 ids"),
    **{f"cut at {i}/8": (cut(i), WEIGHTS) for i in range(7)},
    "cut at 7/8": (cut(7), "cut short"),
}
GPT2: dict[str, tuple[Damage, str]] = {
    "layers": (config(n_layer=10**8), "n_layer"),
    "context": (config(n_positions=10**8), "context of 100,000,000"),
    "width": (config(n_embd=10**8), "width of 100,000,000"),
    "hidden": (config(n_inner=10**8), "hidden width of 100,000,000"),
    "epsilon NaN": (config(layer_norm_epsilon=float("nan")), "layer_norm_epsilon"),
    "epsilon infinite": (config(layer_norm_epsilon=float("inf")), "layer_norm_epsilon"),
    "epsilon of 400 digits": (config(layer_norm_epsilon=10**400), "layer_norm_epsilon"),
    "activation a list": (config(activation_function=["gelu"]), "activation_function"),
    "tied against the tensors": (tensors(lambda t: t.update({"lm_head.weight": torch.zeros(4, 8)})), "a head of its own"),
    "untied against the tensors": (config(tie_word_embeddings=False), "lm_head.weight is missing"),
    "with and without prefix": (tensors(lambda t: t.update({"wte.weight": torch.zeros(4, 8)})), "with and without"),
}
ROPE: dict[str, Any] = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
LLAMAS: dict[str, tuple[Damage, str]] = {
    "layers": (config(num_hidden_layers=10**8), "num_hidden_layers"),
    "10,000 layers": (config(num_hidden_layers=10**4), "is missing"),
    "heads": (config(num_attention_heads=10**8, head_dim=2, num_key_value_heads=1), "width of all heads"),
    "width": (config(hidden_size=10**8), "width of 100,000,000"),
    "epsilon NaN": (config(rms_norm_eps=float("nan")), "rms_norm_eps"),
    "base under 1": (config(rope_parameters=ROPE | {"rope_theta": 1e-300}), "rope_theta"),
    "factor 1e308": (config(rope_parameters=ROPE | {"rope_type": "dynamic", "factor": 1e308}), "factor"),
    "beta_fast 5e-324": (config(rope_parameters=ROPE | {"rope_type": "yarn", "beta_fast": 5e-324}), "beta_fast"),
    "tied against the tensors": (tensors(lambda t: t.update({"lm_head.weight": torch.zeros(4, 8)})), "a head of its own"),
    "untied against the tensors": (config(tie_word_embeddings=False), "lm_head.weight is missing"),
}
CASES = {f"{family}: {name}": (family, *case) for family, table in {"gpt2": BOTH | GPT2, "llama": BOTH | LLAMAS}.items() for name, case in table.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good folder of each layout."""
    path = tmp_path_factory.mktemp("whole")
    save_model(model(), path / "gpt2", TOKENIZER)
    save_model(model(**LLAMA), path / "llama", TOKENIZER)
    return path


def damaged(whole: Path, to: Path, case: str) -> tuple[Path, str]:
    family, damage, says = CASES[case]
    shutil.copytree(whole / family, to / "model")
    damage(to / "model")
    return to / "model", says


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((p.name, p.lstat().st_size) for p in folder.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_folder_is_refused(whole: Path, tmp_path: Path, case: str) -> None:
    folder, says = damaged(whole, tmp_path, case)
    before, memory, start = listing(folder), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(UserError) as caught:
        open_model(folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert time.perf_counter() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000, "kilobytes"
    assert listing(folder) == before


def nothing(*_args: Any, **_more: Any) -> None:
    """A guard that is not there."""


GUARDS: dict[str, tuple[Any, str, Any]] = {
    "gpt2: vocab_size 10^9": (weights, "_require_sides", nothing),
    "gpt2: context": (weights, "_require_sides", nothing),
    "llama: heads": (weights, "_require_sides", nothing),
    "gpt2: overlapping offsets": (weights, "_require_no_gaps", nothing),
    "gpt2: cut at 7/8": (weights, "_require_no_gaps", nothing),
    "gpt2: tied against the tensors": (torch, "equal", lambda *_: True),
    "gpt2: int64 weights": (weights, "FLOATING", ("F32", "I64")),
    "gpt2: a config of 11 MB": (fields, "LARGEST_FILE", 10**8),
    "gpt2: a name twice": (fields, "_once", dict),
    "gpt2: deep nesting": (fields, "DEEPEST", 2000),
    "llama: beta_fast 5e-324": (fields.Fields, "number", lambda self, name, default=None, **_: float(self.get(name, default))),
    "gpt2: epsilon infinite": (fields.Fields, "number", lambda self, name, default=None, **_: float(self.get(name, default))),
    "gpt2: tokenizer too large": (models, "_require_fit", nothing),
    "gpt2: names that evade the count": (weights, "MOST_TENSORS", 10**6),
    "gpt2: unknown field": (fields.Fields, "finish", nothing),
    "gpt2: quantized": (fields.Fields, "must_be", nothing),
    "gpt2: a pickle in the index": (weights, "_places", lambda index: {"a": index.parent / "pytorch_model.bin"}),
}


@pytest.mark.parametrize("case", GUARDS)
def test_without_its_guard_the_case_fails(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    folder, says = damaged(whole, tmp_path, case)
    monkeypatch.setattr(*GUARDS[case])
    with torch.device("meta"):  # a model that is too large shall not be made here either
        assert says not in refusal(folder)


def refusal(folder: Path) -> str:
    """What the error of ours says; nothing where there is none or it is another's."""
    try:
        open_model(folder)
    except UserError as error:
        return str(error)
    except Exception:
        return ""
    return ""


def test_healthy_folders_are_read(whole: Path, tmp_path: Path) -> None:
    """The control: what only looks odd is read, and code in the folder is never run."""
    for family in ("gpt2", "llama"):
        folder = shutil.copytree(whole / family, tmp_path / family)
        (folder / CONFIG).write_bytes((folder / CONFIG).read_bytes().replace(b"\n", b"\r\n"))
        config(auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})(folder)
        (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        ids = torch.tensor([[0, 1, 2, 3]])
        torch.testing.assert_close(open_model(folder)[0](ids), open_model(whole / family)[0](ids))
    assert not (tmp_path / "ran").exists()


def test_an_endless_path_is_refused() -> None:
    with pytest.raises(UserError, match="too long"):
        open_model("a" * 5000)


def test_export_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FileSystemError, match="exists already"):
        save_model(model(), tmp_path / "out", TOKENIZER)
    with pytest.raises(FileSystemError, match="out"):
        save_model(model(), tmp_path / "out" / "mine" / "below", TOKENIZER)
    assert listing(tmp_path / "out") == [("mine", 4)]
    with pytest.raises(FileSystemError, match="/proc/model"):  # a file system that takes no folders, whoever asks
        save_model(model(), "/proc/model", TOKENIZER)


@pytest.mark.parametrize("shard_bytes", [10**9, 1000])
def test_a_full_disk_leaves_nothing(tmp_path: Path, shard_bytes: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, before[1]))
    try:
        with pytest.raises(FileSystemError, match="out"):
            save_model(model(), tmp_path / "out", TOKENIZER, shard_bytes=shard_bytes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert listing(tmp_path) == []


KILLED = """
import os, signal, sys
from underhood.interop import export
from underhood.nn.gpt import GPTConfig, build_gpt
real = getattr(export, sys.argv[2])
def dies(*args):
    real(*args)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(export, sys.argv[2], dies)
export.save_model(build_gpt(GPTConfig(vocab_size=4, context=8, n_layer=1, n_head=2, width=8), 0), sys.argv[1])
"""


@pytest.mark.parametrize("after", ["write_weights", pytest.param("write_json", marks=pytest.mark.slow)])
def test_a_kill_leaves_nothing_half(tmp_path: Path, after: str) -> None:
    code = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out"), after], capture_output=True, check=False).returncode
    assert code == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    save_model(model(), tmp_path / "out", TOKENIZER)
    assert open_model(tmp_path / "out")[2].width == 8
