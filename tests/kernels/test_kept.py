"""What is compiled is kept on disk, by one process at a time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

numba = pytest.importorskip("numba")


def doubled(x: Any) -> Any:
    """To be compiled."""
    return x + x


def test_nobody_else_compiles_while_code_is_kept_and_what_is_kept_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba reads the index, picks a name and writes both files, with nothing that holds off another process between."""
    from numba.core.caching import IndexDataCacheFile

    from underhood.kernels.simd import compiled

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    save, busy = IndexDataCacheFile.save, []

    def watched(self: Any, key: Any, data: Any) -> None:
        def another() -> None:
            with pytest.raises(Timeout):
                FileLock(next(tmp_path.rglob("kernels.lock"))).acquire(timeout=0)
            busy.append(key)

        with ThreadPoolExecutor(1) as other:
            other.submit(another).result()
        save(self, key, data)

    monkeypatch.setattr(IndexDataCacheFile, "save", watched)
    first = compiled()(doubled)
    assert (first(2), first(0.25), len(busy)) == (4, 0.5, 2)
    again = compiled()(doubled)
    assert (again(0.25), again(2), len(busy)) == (0.5, 4, 2)
    assert sum(again.stats.cache_hits.values()) == 2
