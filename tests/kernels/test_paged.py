"""Attention over pages: against torch in float64, and bit for bit the same whoever shares the batch and however pages are cut."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed: pip install numba")
LENGTHS = [1, 5, 16, 17, 40]


@pytest.fixture(scope="module")
def attend() -> Any:
    return importlib.import_module("underhood.kernels.paged").paged_attend


def texts(groups: int, width: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Keys and values (length, G, D) of a few requests."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, groups, width, generator=generator), torch.randn(n, groups, width, generator=generator)) for n in LENGTHS]


def paged(requests: list[tuple[Tensor, Tensor]], block: int, seed: int) -> tuple[Any, Any, Any]:
    """The same in pages of ``block`` positions that lie in any order; what no request owns is NaN."""
    needed = [-(-len(k) // block) for k, _ in requests]
    order = iter(np.random.default_rng(seed).permutation(sum(needed) + 3))
    pools = [np.full((sum(needed) + 3, block, *requests[0][0].shape[1:]), np.nan, np.float32) for _ in range(2)]
    table = np.full((len(requests), max(needed)), -1, np.int64)
    for row, request in enumerate(requests):
        for page in range(needed[row]):
            table[row, page] = next(order)
            for pool, numbers in zip(pools, request, strict=True):
                part = numbers[page * block : (page + 1) * block].numpy()
                pool[table[row, page], : len(part)] = part
    return pools[0], pools[1], table


def run(attend: Any, q: Tensor, requests: list[tuple[Tensor, Tensor]], block: int = 16, window: int = 0, seed: int = 0, threads: int = 1) -> Any:
    keys, values, table = paged(requests, block, seed)
    out = np.empty(q.shape, np.float32)
    attend(q.numpy(), keys, values, table, np.array([len(k) for k, _ in requests]), out, window, threads)
    return out


@pytest.mark.parametrize("window", [0, 1, 7, 100])
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 4, 64), (6, 2, 20), (3, 1, 7)])
def test_it_is_attention(attend: Any, heads: int, groups: int, width: int, window: int) -> None:
    requests, q = texts(groups, width), torch.randn(len(LENGTHS), heads, width, generator=torch.Generator().manual_seed(1))
    found = run(attend, q, requests, window=window)
    for row, request in enumerate(requests):
        seen = [x[-window:] if window else x for x in request]
        true = F.scaled_dot_product_attention(*(x.double().transpose(0, 1) for x in (q[row : row + 1], *seen)), enable_gqa=True)
        np.testing.assert_allclose(found[row], true[:, 0].numpy(), rtol=0, atol=3e-6)


def test_a_row_has_the_same_bits_in_any_company_and_in_any_pages(attend: Any) -> None:
    requests, q = texts(2, 32), torch.randn(len(LENGTHS), 4, 32, generator=torch.Generator().manual_seed(1))
    whole = run(attend, q, requests)
    for row in range(len(LENGTHS)):
        np.testing.assert_array_equal(run(attend, q[row : row + 1], requests[row : row + 1], seed=row + 1)[0], whole[row])
    np.testing.assert_array_equal(run(attend, q, requests, threads=2), whole)
    for block in (1, 3, 64):
        np.testing.assert_array_equal(run(attend, q, requests, block=block), whole)


def test_pages_may_hold_bfloat16(attend: Any) -> None:
    requests = [(k.bfloat16().float(), v.bfloat16().float()) for k, v in texts(2, 32)]
    q = torch.randn(len(LENGTHS), 4, 32, generator=torch.Generator().manual_seed(1))
    keys, values, table = paged(requests, 16, 0)
    halves = [torch.from_numpy(pool).bfloat16().view(torch.uint16).numpy() for pool in (keys, values)]
    out = np.empty(q.shape, np.float32)
    attend(q.numpy(), *halves, table, np.array(LENGTHS), out, 0, 1)
    np.testing.assert_allclose(out, run(attend, q, requests), rtol=0, atol=3e-7)  # compiled apart: softmax's sums may be grouped in another way


def test_nan_comes_through(attend: Any) -> None:
    requests, q = texts(2, 32), torch.ones(len(LENGTHS), 4, 32)
    requests[2][0][3, 1, 5] = torch.nan
    found = run(attend, q, requests)
    assert np.isnan(found[2, 2:]).all()
    assert np.isfinite(np.delete(found, 2, axis=0)).all()
    assert np.isfinite(found[2, :2]).all()
