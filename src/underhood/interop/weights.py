"""Weights from strangers: safetensors files, read with every claim of their header checked first, and nothing else.

The library accepts duplicate names and takes seconds over a header with hundreds of thousands of empty tensors; pickled files run code when they
are opened. So the header is read here, within bounds, before the library sees the file, and pickles are refused by name.
Format: 8 bytes of header length (little endian), the header in JSON, then the tensors' bytes without gaps.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file
from torch import Tensor

from underhood.base.errors import CheckpointError

LARGEST_HEADER = 10_000_000  # bytes
MOST_TENSORS = 30_000  # some ten times what a large model has; counted before the header is parsed, which takes seconds at ten times as many
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What a header says about one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # of its bytes, counted from the end of the header
    end: int


def read_header(path: str | os.PathLike[str]) -> dict[str, TensorInfo]:
    """The tensors that the file says it holds. Raises ``CheckpointError`` naming the file and what is wrong with it."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(LARGEST_HEADER, size - 8):
                raise CheckpointError(
                    f"a header of {length:,} bytes in a file of {size:,}", where=str(path), expected=f"at most {LARGEST_HEADER:,} and within the file"
                )
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(error.strerror or str(error), where=str(path)) from error
    tensors = {name: _info(name, entry, path) for name, entry in _parse(text, path).items() if name != "__metadata__"}
    _require_no_gaps(tensors, size - 8 - length, path)
    return tensors


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, after its header was checked. Raises ``CheckpointError``."""
    read_header(path)
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"not a readable safetensors file ({error})", where=str(path)) from error


def find_weights(folder: Path) -> Path:
    """``folder/model.safetensors``. Raises ``CheckpointError`` where there is none, saying why a pickle is no substitute."""
    path = folder / "model.safetensors"
    if path.is_file():
        return path
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED) if folder.is_dir() else []
    if pickles:
        raise CheckpointError(
            f"{pickles[0]} is a pickle, which runs code when opened", where=str(folder), expected=path.name, remedy="Get or convert the weights as safetensors."
        )
    if (folder / f"{path.name}.index.json").is_file():
        raise CheckpointError("the weights are cut into several files", where=str(folder), expected=f"one {path.name}")
    raise CheckpointError("no weights", where=str(folder), expected=path.name)


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    if (count := text.count(b'"dtype"')) > MOST_TENSORS:
        raise CheckpointError(f"{count:,} tensors", where=str(path), expected=f"at most {MOST_TENSORS:,}")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise CheckpointError("its header is nested too deeply", where=str(path)) from None
    except ValueError as error:
        raise CheckpointError(f"its header is not what safetensors has ({error})", where=str(path)) from error
    if not isinstance(header, dict):
        raise CheckpointError("its header lists no tensors", where=str(path))
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _info(name: str, entry: Any, path: Path) -> TensorInfo:
    """One entry of the header, its shape and its bytes agreeing."""
    where = f"{path}: {name[:80]}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError("not an entry of a tensor", where=where, expected="dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(f"numbers of type {str(dtype)[:40]!r}", where=where, expected=", ".join(ITEM_BYTES))
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise CheckpointError("a shape or an offset is no list of whole numbers ≥ 0", where=where)
    begin, end = offsets
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise CheckpointError(f"{end - begin:,} bytes for a {dtype} of shape {shape}", where=where, expected=f"{math.prod(shape) * ITEM_BYTES[dtype]:,}")
    return TensorInfo(dtype, tuple(shape), begin, end)


def _counts(values: Any) -> bool:
    return isinstance(values, list) and len(values) <= 8 and all(type(v) is int and 0 <= v < 2**48 for v in values)


def _require_no_gaps(tensors: Mapping[str, TensorInfo], size: int, path: Path) -> None:
    """The tensors' bytes follow each other from 0 to the end of the file."""
    at = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != at:
            raise CheckpointError(f"its bytes begin at {info.begin:,}", where=f"{path}: {name[:80]}", expected=f"{at:,}, where those before it end")
        at = info.end
    if at != size:
        raise CheckpointError(
            f"{size:,} bytes of tensors", where=str(path), expected=f"{at:,}, as the header says", remedy="The file is cut short or damaged: fetch it again."
        )
