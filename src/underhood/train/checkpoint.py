"""Checkpoints: folders that are whole or absent, of files that are never run.

``step-000123/`` holds ``model.safetensors``, ``state.safetensors`` (optimizer moments, fp32 masters, random states as bytes) and ``state.json`` (step,
data position, config, sha256 of the other two). It is filled under a temporary name, synced to the disk and renamed once; a process killed at any moment
leaves the checkpoints before it as they were. Nothing is ever unpickled.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil
import safetensors
import safetensors.torch
from torch import Tensor, nn

from underhood.base.errors import CheckpointError, DataError, FileSystemError
from underhood.base.files import TEMPORARY, folder_atomic, read_json, write_json

SCHEMA = 1
MODEL, STATE, INDEX = "model.safetensors", "state.safetensors", "state.json"
LARGEST_HEADER = 10_000_000  # bytes; a header of this size names about 100,000 tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What one checkpoint holds: tensors of the model and of the state by name, and plain facts."""

    model: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    facts: Mapping[str, Any]  # step, config, data position …: JSON values
    path: Path | None = None


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, detached."""
    return {name: t.detach() for name, t in model.state_dict().items()}


def save_checkpoint(run: str | os.PathLike[str], step: int, checkpoint: Checkpoint) -> Path:
    """Write ``run/step-NNNNNN`` and return its path. Raises ``FileSystemError`` (disk full, no permission, exists already) and leaves nothing behind."""
    final = Path(run) / f"step-{step:06d}"
    with folder_atomic(final) as folder:
        once, aliases = _without_ties(checkpoint.model)
        write_tensors(folder / MODEL, once)
        write_tensors(folder / STATE, checkpoint.state)
        digests = {name: sha256(folder / name) for name in (MODEL, STATE)}
        write_json(folder / INDEX, {"schema": SCHEMA, "step": step, "aliases": aliases, "sha256": digests, **checkpoint.facts})
    return final


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and verify a checkpoint folder. Raises ``CheckpointError`` naming the file that is missing, damaged or not in the format."""
    path = Path(path)
    try:
        facts = read_json(path / INDEX)
    except (DataError, OSError) as error:
        raise CheckpointError(f"cannot be used ({error})", where=str(path / INDEX)) from error
    _check_index(facts, path / INDEX)
    for name, expected in facts["sha256"].items():
        if not (path / name).is_file():
            raise CheckpointError("missing", where=str(path / name))
        if sha256(path / name) != expected:
            raise CheckpointError("damaged: its sha256 is not the one that was written", where=str(path / name))
    tensors = {name: read_tensors(path / name) for name in (MODEL, STATE)}
    for alias, name in facts["aliases"].items():
        if name not in tensors[MODEL]:
            raise CheckpointError(f"the alias {alias!r} points to no tensor {name!r}", where=str(path / INDEX))
        tensors[MODEL][alias] = tensors[MODEL][name]
    return Checkpoint(model=tensors[MODEL], state=tensors[STATE], facts=facts, path=path)


def _check_index(facts: Any, where: Path) -> None:
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        found = facts.get("schema") if isinstance(facts, dict) else type(facts).__name__
        raise CheckpointError(f"schema {found!r}", where=str(where), expected=f"schema {SCHEMA}", remedy="It was written by another version of underhood.")
    digests, aliases = facts.get("sha256"), facts.get("aliases")
    if not isinstance(digests, dict) or set(digests) != {MODEL, STATE}:
        raise CheckpointError("no sha256 of both files", where=str(where))
    if not isinstance(aliases, dict) or not isinstance(facts.get("step"), int):
        raise CheckpointError("no step or no aliases", where=str(where))


def checkpoints(run: str | os.PathLike[str]) -> list[Path]:
    """The checkpoint folders of a run, lowest step first, whole or not."""
    run = Path(run)
    found = [p for p in run.iterdir() if re.fullmatch(r"step-\d{6,}", p.name)] if run.is_dir() else []
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def latest_checkpoint(run: str | os.PathLike[str]) -> tuple[Checkpoint, list[str]]:
    """The whole checkpoint of the highest step, and one message for each damaged one that was passed over. Raises ``CheckpointError`` when none is whole."""
    problems: list[str] = []
    for path in reversed(checkpoints(run)):
        try:
            return load_checkpoint(path), problems
        except CheckpointError as error:
            problems.append(str(error))
    raise CheckpointError("no whole checkpoint" + "".join(f"; {p}" for p in problems), where=str(run), expected="a folder step-NNNNNN")


def clean_stale(run: str | os.PathLike[str]) -> list[str]:
    """Remove temporary files and folders that a killed process left in ``run``; those of a living process are kept. Returns their names."""
    run, removed = Path(run), []
    for path in run.iterdir() if run.is_dir() else ():
        if path.name.startswith(TEMPORARY) and not _being_written(path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def _being_written(path: Path) -> bool:
    """Whether the process whose id is in the name still runs and is old enough to have made it (ids are used again)."""
    number = path.name.removeprefix(TEMPORARY).partition("-")[0]
    if not number.isdigit() or int(number) == os.getpid():
        return False
    try:
        return bool(psutil.Process(int(number)).create_time() <= path.stat().st_mtime)
    except (psutil.Error, OSError):
        return False


def prune(run: str | os.PathLike[str], *, keep: int, best: int | None = None) -> None:
    """Delete all but the ``keep`` highest checkpoints and that of step ``best``. A folder is renamed before it is emptied, so none is ever half there."""
    for path in checkpoints(run)[:-keep]:
        if path.name != f"step-{best or -1:06d}":
            doomed = path.with_name(f"{TEMPORARY}{os.getpid()}-old-{path.name}")
            os.rename(path, doomed)
            shutil.rmtree(doomed)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file. Raises ``FileSystemError`` when it cannot be written; the file's mode is the usual one (the library makes it 0600)."""
    dense = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    try:
        safetensors.torch.save_file(dense, path)
    except safetensors.SafetensorError as error:
        raise FileSystemError(f"cannot be written ({error}); free some space or choose another folder", where=str(path)) from error
    os.chmod(path, 0o666 & ~_umask())


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ``CheckpointError`` when it is not one; never tries another format."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if not 2 <= header <= min(LARGEST_HEADER, path.stat().st_size):
            raise CheckpointError(f"not a safetensors file (its header would be {header:,} bytes)", where=str(path))
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"not a readable safetensors file ({error})", where=str(path)) from error


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], where: str = "") -> None:
    """Put the tensors into ``model``. Raises ``CheckpointError`` naming the first that is missing, unknown or of another shape."""
    wanted = model.state_dict()
    for name in sorted(set(wanted) ^ set(tensors)):
        problem = "is not in the checkpoint" if name in wanted else "is in the checkpoint but not in the model"
        raise CheckpointError(f"the tensor {name!r} {problem}", where=where, remedy="Build the model from the checkpoint's own config.")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(f"shape {list(tensors[name].shape)}", where=f"{where} {name}".strip(), expected=str(list(tensor.shape)))
    model.load_state_dict(dict(tensors))


def differences(saved: Any, given: Any, where: str = "") -> list[str]:
    """The fields, dotted, in which two plain configs differ, with both values: ``"model.n_layer: 4 in the checkpoint, 6 given"``."""
    if isinstance(saved, Mapping) and isinstance(given, Mapping):
        names: Iterable[str] = [*saved, *(n for n in given if n not in saved)]
        return [d for n in names for d in differences(saved.get(n), given.get(n), f"{where}.{n}".lstrip("."))]
    saved, given = (list(v) if isinstance(v, tuple) else v for v in (saved, given))
    return [] if saved == given else [f"{where}: {saved!r} in the checkpoint, {given!r} given"]


def sha256(path: Path) -> str:
    """The file's digest in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_ties(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each storage once, and the other names of it: alias → the name it is stored under."""
    once: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
        else:
            once[name] = tensor
            seen[key] = name
    return once, aliases


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
