"""Weights from strangers: safetensors files, read with every claim of their header checked first, and nothing else.

The library accepts duplicate names and takes seconds over a header with hundreds of thousands of empty tensors; pickled files run code when they
are opened. So the header is read here, within bounds, before the library sees the file, and pickles are refused by name.
Format: 8 bytes of header length (little endian), the header in JSON, then the tensors' bytes without gaps.

Large models are cut into several files, with an index that says which tensor lies in which. ``open_weights`` treats both alike: the headers are
checked, the files are mapped into memory, and a tensor is read when it is asked for.
"""

import dataclasses
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from underhood.base.errors import CheckpointError
from underhood.base.files import write_json
from underhood.interop.fields import parse_json, read_object
from underhood.nn.gpt import GPT, GPTConfig
from underhood.train.checkpoint import write_tensors

LARGEST_HEADER = 10_000_000  # bytes
MOST_TENSORS = 30_000  # some ten times what a large model has; counted before the header is parsed, which takes seconds at ten times as many
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
MOST_SHARDS = 1000
SHARD_BYTES = 5_000_000_000
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
FLOATING = ("F64", "F32", "F16", "BF16")
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


class StoredWeights:
    """The tensors of one model's files: ``infos`` from their headers, each tensor itself when it is asked for."""

    def __init__(self, places: Mapping[str, Path], infos: Mapping[str, TensorInfo], where: Path) -> None:
        self.places, self.infos, self.where = dict(places), dict(infos), where
        self.stored = {name: name for name in infos}
        self._files: dict[Path, Any] = {}

    def renamed(self, names: Mapping[str, str]) -> "StoredWeights":
        """The same tensors under other names, and only these: new name → stored name."""
        chosen = StoredWeights({}, {new: self.infos[old] for new, old in names.items()}, self.where)
        chosen.places, chosen.stored, chosen._files = {new: self.places[old] for new, old in names.items()}, dict(names), self._files
        return chosen

    def tensor(self, name: str) -> Tensor:
        """One tensor, as it is stored. Raises ``CheckpointError`` for a file that has changed meanwhile."""
        path = self.places[name]
        try:
            if path not in self._files:
                self._files[path] = safetensors.safe_open(path, framework="pt")
            found: Tensor = self._files[path].get_tensor(self.stored[name])
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(f"not a readable safetensors file ({error})", where=str(path)) from error
        return found


def open_weights(folder: Path) -> StoredWeights:
    """The weights of ``folder``: ``model.safetensors``, or the shards that its index names.

    Raises ``CheckpointError``, saying why a pickle is no substitute.
    """
    whole, index = folder / WEIGHTS, folder / INDEX
    if whole.is_file():
        infos = read_header(whole)
        return StoredWeights(dict.fromkeys(infos, whole), infos, whole)
    if index.is_file():
        return _shards(index)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED) if folder.is_dir() else []
    if pickles:
        raise CheckpointError(
            f"{pickles[0]} is a pickle, which runs code when opened", where=str(folder), expected=WEIGHTS, remedy="Get or convert the weights as safetensors."
        )
    raise CheckpointError("no weights", where=str(folder), expected=WEIGHTS)


def _shards(index: Path) -> StoredWeights:
    """Every tensor of the index in the file that it names, and no file with more."""
    places = _places(index)
    infos: dict[str, TensorInfo] = {}
    for path in sorted(set(places.values())):
        if not os.path.isfile(path):  # the method of Path raises for a name that is too long
            raise CheckpointError(f"{path.name[:100]} is missing", where=str(index), remedy="The download is not complete: fetch it again.")
        held = read_header(path)
        listed = {name for name, place in places.items() if place == path}
        for name in sorted(set(held) ^ listed):
            problem = "is not in it, as the index says" if name in listed else "is in it, against the index"
            raise CheckpointError(f"the tensor {name[:80]} {problem}", where=str(path))
        infos |= held
    return StoredWeights(places, infos, index)


def _places(index: Path) -> dict[str, Path]:
    """Tensor name → file. A name that leads out of the folder is refused; links are followed, for shared caches are made of them."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or len(names) > MOST_TENSORS:
        raise CheckpointError("no list of tensors and their files", where=f"{index}: weight_map", expected=f"1 … {MOST_TENSORS:,} names")
    if not all(isinstance(file, str) for file in names.values()) or len(set(names.values())) > MOST_SHARDS:
        raise CheckpointError("a file's name is no text, or there are too many files", where=f"{index}: weight_map", expected=f"at most {MOST_SHARDS:,} names")
    for file in sorted(set(names.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"found {file[:100]!r}", where=f"{index}: weight_map", expected="a .safetensors file in the same folder")
    return {name: index.parent / file for name, file in names.items()}


def fill(config: GPTConfig, weights: StoredWeights, layout: Mapping[str, tuple[str, bool]], dtype: torch.dtype, *, spare: Collection[str] = ()) -> GPT:
    """A model of ``config`` in evaluation mode with the stored weights, in ``dtype``; memory for it and for one tensor more.

    ``layout`` maps each stored name to ours and whether it is stored the other way round; ``spare`` tensors may be there too. Raises ``CheckpointError``
    where files and config do not belong together, and for a number that is not finite.
    """
    require_layout(config, weights, layout, spare)
    model = _empty(config, dtype)
    state = model.state_dict()
    for theirs, (ours, turned) in layout.items():
        tensor = weights.tensor(theirs)
        state[ours].copy_(tensor.T if turned else tensor)
        require_finite(state[ours], f"{weights.places[theirs]}: {theirs}")
    return model.eval()


def require_layout(config: GPTConfig, weights: StoredWeights, layout: Mapping[str, tuple[str, bool]], spare: Collection[str]) -> None:
    """The headers have the names and shapes that the config gives; no weights are read. Raises ``CheckpointError``."""
    _require_names(layout, weights, spare)
    _require_sides(config, weights)
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in GPT(config).state_dict().items()}
    _require_shapes(layout, shapes, weights)


def require_finite(tensor: Tensor, where: str) -> None:
    """Raises ``CheckpointError`` for a NaN or an infinity among its numbers; one pass, and no memory."""
    if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
        raise CheckpointError("a number that is not finite", where=where, remedy="A training that went wrong leaves such, or a damaged file.")


def _empty(config: GPTConfig, dtype: torch.dtype) -> GPT:
    """A model whose parameters are made in ``dtype`` at once."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return GPT(config)
    finally:
        torch.set_default_dtype(before)


def _require_names(layout: Mapping[str, tuple[str, bool]], weights: StoredWeights, spare: Collection[str]) -> None:
    """The files have exactly the config's tensors. Known before the model is built, so that one of a million layers never is."""
    stored = {name for name in weights.infos if name in layout or name not in spare}
    for name in sorted(set(layout) ^ stored):
        problem = "is missing" if name in layout else "has no place in the config's model"
        raise CheckpointError(f"the tensor {name[:80]} {problem}", where=str(weights.where), remedy="config.json and the weights must belong together.")


def _require_sides(config: GPTConfig, weights: StoredWeights) -> None:
    """No size of the config is larger than the longest side of a tensor that is really there, so that the model built next is no larger than the files."""
    largest = max((side for info in weights.infos.values() if info.end > info.begin for side in info.shape), default=0)
    learned = config.positions.rpartition(":")[2] == "Learned"
    sizes = {
        "vocabulary": config.vocab_size,
        "width": config.width,
        "hidden width": config.hidden_width,
        "width of all heads": config.n_head * config.head_width,
    }
    for name, size in (sizes | ({"context": config.context} if learned else {})).items():
        if size > largest:
            problem = f"a {name} of {size:,}, and no tensor has a side of more than {largest:,}"
            raise CheckpointError(problem, where=str(weights.where.parent / "config.json"), remedy="config.json and the weights must belong together.")


def _require_shapes(layout: Mapping[str, tuple[str, bool]], shapes: Mapping[str, tuple[int, ...]], weights: StoredWeights) -> None:
    """Each tensor has the shape that the config gives it, and is of floating point."""
    for name, (ours, turned) in layout.items():
        expected, info = shapes[ours][::-1] if turned else shapes[ours], weights.infos[name]
        if info.shape != expected:
            raise CheckpointError(f"shape {list(info.shape)}", where=f"{weights.places[name]}: {name}", expected=f"{list(expected)}, by config.json")
        if info.dtype not in FLOATING:
            raise CheckpointError(f"numbers of type {info.dtype}", where=f"{weights.places[name]}: {name}", expected="floating point")


def require_tied(weights: StoredWeights, head: str, embedding: str) -> None:
    """A head that is stored although config.json ties it is the token embedding. Raises ``CheckpointError`` for another."""
    if head in weights.infos and not torch.equal(weights.tensor(head), weights.tensor(embedding)):
        raise CheckpointError("a head of its own", where=f"{weights.where}: {head}", expected="the token embedding, since config.json ties them")


def write_weights(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> None:
    """``model.safetensors``, or shards of at most ``shard_bytes`` (a larger tensor has one of its own) with their index."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    if len(groups) == 1:
        write_tensors(folder / WEIGHTS, groups[0])
        return
    files = [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    for file, group in zip(files, groups, strict=True):
        write_tensors(folder / file, group)
    places = {name: file for file, group in zip(files, groups, strict=True) for name in group}
    write_json(folder / INDEX, {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": places})


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    if (count := text.count(b'"dtype"')) > MOST_TENSORS:
        raise CheckpointError(f"{count:,} tensors", where=str(path), expected=f"at most {MOST_TENSORS:,}")
    try:
        header = parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"its header is not what safetensors has ({error})", where=str(path)) from error
    if not isinstance(header, dict):
        raise CheckpointError("its header lists no tensors", where=str(path))
    if len(header) > MOST_TENSORS + 1:  # names can be written so that the count above misses them
        raise CheckpointError(f"{len(header):,} tensors", where=str(path), expected=f"at most {MOST_TENSORS:,}")
    return header


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
