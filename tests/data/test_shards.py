"""Shards: what is written is read, memory-mapped; damage is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from underhood.base.errors import DataError, FileSystemError
from underhood.data.sampler import Batches, SequentialSampler
from underhood.data.shards import META, Shards, write_shards

DOCUMENTS = [list(range(10)), [], list(range(100, 125)), [7]]
FLAT = [i for document in DOCUMENTS for i in document]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "s", DOCUMENTS, vocab_size=200, tokenizer_sha256="abc", source="test", n_bytes=50, shard_tokens=8)
    return tmp_path / "s"


def test_reading_gives_what_was_written(folder: Path) -> None:
    shards = Shards(folder)
    assert len(shards) == len(FLAT)
    assert shards[:].tolist() == FLAT
    assert [shards[i] for i in (0, 8, -1)] == [FLAT[0], FLAT[8], FLAT[-1]]
    for a in range(0, 36, 5):
        for b in range(a, 40, 7):
            assert shards[a:b].tolist() == FLAT[a:b]
    with pytest.raises(IndexError):
        shards[36]
    with pytest.raises(ValueError, match="steps"):
        shards[::2]


def test_the_files_are_little_endian_and_as_small_as_the_vocabulary_allows(tmp_path: Path) -> None:
    for vocab, size, kind in ((1 << 16, 2, "uint16"), ((1 << 16) + 1, 4, "uint32")):
        meta = write_shards(tmp_path / kind, [[258, 1]], vocab_size=vocab)
        raw = (tmp_path / kind / "00000.bin").read_bytes()
        assert meta.dtype == kind
        assert raw == (258).to_bytes(size, "little") + (1).to_bytes(size, "little")


def test_shards_are_memory_mapped_and_feed_batches(folder: Path) -> None:
    shards = Shards(folder)
    assert all(isinstance(part, np.memmap) for part in shards._parts)
    x, y = Batches(shards, SequentialSampler(len(shards), 5, 3), 5).next()
    assert x.flatten().tolist() == FLAT[:15]
    assert y.flatten().tolist() == FLAT[1:16]


def test_the_description_says_what_they_are(folder: Path) -> None:
    meta = json.loads((folder / META).read_text())
    assert (meta["tokens"], meta["vocab_size"], meta["n_bytes"], meta["source"]) == ([8, 8, 8, 8, 4], 200, 50, "test")
    Shards(folder, tokenizer_sha256="abc").verify()
    with pytest.raises(DataError, match="another tokenizer"):
        Shards(folder, tokenizer_sha256="def")


@pytest.mark.parametrize("bad", [-1, 200])
def test_an_id_outside_the_vocabulary_writes_nothing(tmp_path: Path, bad: int) -> None:
    with pytest.raises(DataError, match=f"id {bad} in document 1; expected 0 … 199"):
        write_shards(tmp_path / "s", [[1], [bad]], vocab_size=200)
    assert list(tmp_path.iterdir()) == []


def test_no_tokens_and_a_folder_that_exists_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="no tokens"):
        write_shards(tmp_path / "t", [[], []], vocab_size=200)
    with pytest.raises(FileSystemError, match="exists already"):
        write_shards(folder, [[1]], vocab_size=200)
    assert not (tmp_path / "t").exists()


def test_damage_is_named(folder: Path) -> None:
    shard = folder / "00001.bin"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1])
    with pytest.raises(DataError, match=r"00001.bin: 15 bytes; expected 16"):
        Shards(folder)
    shard.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    with pytest.raises(DataError, match=r"00001.bin: its checksum differs"):
        Shards(folder).verify()
    shard.unlink()
    with pytest.raises(DataError, match=r"00001.bin: missing"):
        Shards(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "another version"),
        ({"dtype": "float64"}, "damaged"),
        ({"tokens": "many"}, "damaged"),
        ({"tokens": [8, -8]}, "damaged"),
        ({"sha256": []}, "damaged"),
        ({"extra": 1}, "not a description"),
    ],
)
def test_a_damaged_description_is_named(folder: Path, change: dict[str, object], message: str) -> None:
    meta = json.loads((folder / META).read_text()) | change
    (folder / META).write_text(json.dumps(meta))
    with pytest.raises(DataError, match=message):
        Shards(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_a_description_that_is_no_json_object_is_named(folder: Path, text: str) -> None:
    (folder / META).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=META):
        Shards(folder)
