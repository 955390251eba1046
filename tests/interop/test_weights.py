"""The header of a safetensors file from a stranger: every claim is checked before the library sees the file."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from underhood.base.errors import CheckpointError
from underhood.interop.weights import INDEX, LARGEST_HEADER, TensorInfo, open_weights, read_header, read_weights, write_weights

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def write(path: Path, header: Any, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = path / "model.safetensors"
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return file


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(4, dtype=torch.bfloat16), "none": torch.ones(0, 3)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "model.safetensors")
    assert {n: i.shape for n, i in header.items()} == {"b": (2, 3), "a": (4,), "none": (0, 3)}
    read = read_weights(tmp_path / "model.safetensors")
    assert all(torch.equal(read[n], t) for n, t in tensors.items())
    mapped = open_weights(tmp_path)
    assert all(torch.equal(mapped.tensor(n), t) for n, t in tensors.items())
    assert read_header(write(tmp_path, GOOD)) == {"a": TensorInfo("F32", (2,), 0, 8)}


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"", "its header"),
        (b"{", "its header"),
        (b"\xff\xff", "its header"),
        (b"[]", "lists no tensors"),
        (b"[" * 200_000, "nested too deeply|its header"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "stands twice"),
        (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "stands twice"),
        ({"a": 3}, "not an entry"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "not an entry"),
        ({"a": {**GOOD["a"], "extra": 1}}, "not an entry"),
        ({"a": {**GOOD["a"], "dtype": "F3"}}, "numbers of type 'F3'"),
        ({"a": {**GOOD["a"], "dtype": ["F32"]}}, "numbers of type|its header"),
        ({"a": {**GOOD["a"], "shape": [-2]}}, "whole numbers"),
        ({"a": {**GOOD["a"], "shape": [2.0]}}, "whole numbers"),
        ({"a": {**GOOD["a"], "shape": [True, 2]}}, "whole numbers"),
        ({"a": {**GOOD["a"], "shape": [2**60, 2**60]}}, "whole numbers"),
        ({"a": {**GOOD["a"], "shape": [1] * 9 + [2]}}, "whole numbers"),
        ({"a": {**GOOD["a"], "shape": [3]}}, r"8 bytes for a F32 of shape \[3\]; expected 12"),
        ({"a": {**GOOD["a"], "data_offsets": [8, 0]}}, "bytes for"),
        ({"a": {**GOOD["a"], "data_offsets": [0]}}, "whole numbers"),
        ({"a": {**GOOD["a"], "data_offsets": [8, 16]}}, "begin at 8; expected 0"),
        ({"a": GOOD["a"], "b": GOOD["a"]}, "b: its bytes begin at 0; expected 8"),
        ({}, "8 bytes of tensors; expected 0"),
        ({"a" * 300_000: {**GOOD["a"], "shape": [3]}}, r"aaa: 8 bytes"),
    ],
)
def test_damaged_and_hostile_headers(tmp_path: Path, header: Any, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read_weights(write(tmp_path, header))
    assert "model.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [0, 1, 10**6, LARGEST_HEADER + 1, 2**63, 2**64 - 1])
def test_wrong_header_lengths(tmp_path: Path, length: int) -> None:
    with pytest.raises(CheckpointError, match="header"):
        read_weights(write(tmp_path, GOOD, length=length))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path, GOOD).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_weights(tmp_path / "model.safetensors")


def test_hundreds_of_thousands_of_empty_tensors_are_refused_at_once(tmp_path: Path) -> None:
    header = {f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(150_000)}
    file = write(tmp_path, header, b"")
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="150,000 tensors; expected at most"):
        read_weights(file)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickles_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=f"{name} is a pickle, which runs code"):
        open_weights(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        open_weights(tmp_path)
    with pytest.raises(CheckpointError, match="No such file"):
        read_weights(tmp_path / "model.safetensors")


TENSORS = {"a": torch.arange(6.0), "b": torch.ones(2, 3), "c": torch.zeros(5, dtype=torch.bfloat16)}


def test_shards_are_one_model(tmp_path: Path) -> None:
    write_weights(tmp_path, TENSORS, shard_bytes=40)
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 2
    found = open_weights(tmp_path)
    assert all(torch.equal(found.tensor(n), t) for n, t in TENSORS.items())
    assert found.infos["b"].shape == (2, 3)
    assert torch.equal(found.renamed({"x": "b"}).tensor("x"), TENSORS["b"])


def index(tmp_path: Path, **places: str) -> None:
    """Shards as above, their index with other places for some tensors."""
    write_weights(tmp_path, TENSORS, shard_bytes=40)
    path = tmp_path / INDEX
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"weight_map": held["weight_map"] | places}))


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ({"a": "../model-00001-of-00002.safetensors"}, "in the same folder"),
        ({"a": "/etc/passwd"}, "in the same folder"),
        ({"a": "weights.bin"}, "in the same folder"),
        ({"d": "model-00001-of-00002.safetensors"}, "the tensor d is not in it"),
        ({"a": "model-00002-of-00002.safetensors"}, "the tensor a is not in it"),
        ({"a": "model-00003-of-00002.safetensors"}, "is missing"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, places: dict[str, str], says: str) -> None:
    index(tmp_path, **places)
    with pytest.raises(CheckpointError, match=says):
        open_weights(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": "a"}'])
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        open_weights(tmp_path)
