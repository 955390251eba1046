"""Run with TRITON_INTERPRET=1: the kernels' largest errors against torch's attention in float64, one JSON line. ``all`` for every combination."""

import itertools
import json
import sys

import torch
import torch.nn.functional as F

from underhood.kernels.flash import flash_attention

# T, S, tile: one position, ragged ends, a past, one query, more queries than keys
FEW = [(1, 1, (16, 16)), (33, 33, (16, 32)), (20, 37, (32, 16)), (1, 40, (16, 16)), (40, 17, (16, 16)), (40, 40, (64, 64))]
SHAPES = [(1, 1), (16, 16), (33, 33), (20, 37), (1, 40), (40, 17)]
TILES = [(16, 16), (16, 32), (32, 16), (64, 64)]
HEADS = [(2, 2), (4, 2), (3, 1)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def case(T: int, S: int, tile: tuple[int, int], heads: tuple[int, int], causal: bool, dtype: str, width: int = 20) -> dict[str, float]:
    """The largest errors of the output and the gradients, relative to the largest true number of each where that is above 1."""
    (H, G), generator = heads, torch.Generator().manual_seed(T * 100 + S)
    q, k, v = (torch.randn(2, h, n, width, generator=generator).to(DTYPES[dtype]).requires_grad_() for h, n in ((H, T), (G, S), (G, S)))
    upstream = torch.randn(2, H, T, width, generator=generator).to(DTYPES[dtype])
    out = flash_attention(q, k, v, causal=causal, tile=tile)
    mine = (out, *torch.autograd.grad(out, (q, k, v), upstream))
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T) if causal else None
    true = F.scaled_dot_product_attention(*wide, attn_mask=mask, enable_gqa=True)
    theirs = (true, *torch.autograd.grad(true, wide, upstream.double()))
    names = ("out", "dq", "dk", "dv")
    return {name: far(a.detach().double(), b.detach()) for name, a, b in zip(names, mine, theirs, strict=True)}


def far(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found - true).abs().max() / true.abs().max().clamp(min=1))


def shapes(every: bool) -> list[tuple[int, int, tuple[int, int]]]:
    return [(T, S, tile) for (T, S), tile in itertools.product(SHAPES, TILES)] if every else FEW


def main() -> None:
    every, found = sys.argv[1:] == ["all"], []
    for (T, S, tile), causal in itertools.product(shapes(every), (False, True)):
        if not (causal and T > S):
            found.append({"case": f"{T} {S} {tile} causal={causal}", "dtype": "float32", **case(T, S, tile, (2, 2), causal, "float32", 20 if every else 5)})
    for heads, dtype in itertools.product(HEADS if every else HEADS[1:2], DTYPES):
        found.append({"case": f"heads {heads}", "dtype": dtype, **case(18, 21, (16, 16), heads, True, dtype)})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
