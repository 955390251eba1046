"""The Triton kernels: against torch under the interpreter, compiled to matrix instructions without a GPU, and, where there is one, run on it.

The interpreter has to be chosen before the module is imported, so it runs in a process of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from underhood.base.errors import ConfigError, ShapeError
from underhood.nn.attention import causal_mask
from underhood.nn.dropout import Dropout

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed: pip install -e '.[gpu]'")
SCRIPT = Path(__file__).parent / "interpreted.py"
OUTPUT = {"float32": 5e-6, "bfloat16": 2**-7, "float16": 2**-11}  # computed wide, rounded once; to bfloat16 the interpreter rounds towards zero
GRADIENT = {"float32": 5e-6, "bfloat16": 2**-6, "float16": 2**-9}  # these also start from an output that was rounded


@cache
def interpreted(*arguments: str) -> list[dict[str, Any]]:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def hold(cases: list[dict[str, Any]]) -> None:
    for found in cases:
        assert found["out"] <= OUTPUT[found["dtype"]], found
        for name in ("dq", "dk", "dv"):
            assert found[name] <= GRADIENT[found["dtype"]], (name, found)


def test_the_interpreted_kernels_equal_torch_forward_and_backward() -> None:
    cases = interpreted()
    assert len(cases) == 14
    hold(cases)


@pytest.mark.slow
def test_all_tile_sizes_ragged_ends_heads_and_dtypes() -> None:
    cases = interpreted("all")
    assert len(cases) == 53
    hold(cases)


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "instruction"), [(90, "wgmma.mma_async"), (80, "mma.sync")])
def test_the_kernels_compile_to_matrix_instructions(capability: int, instruction: str) -> None:
    """Triton and its assembler need no GPU to compile for one."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from underhood.kernels import flash

    for kernel in (flash.forward_kernel, flash.query_kernel, flash.key_kernel):
        numbers = {"scale": "fp32", "LOG_SUM": "*fp32", "ROW_SUM": "*fp32"} | dict.fromkeys(("T", "S", "R", "D"), "i32")
        options = {"CAUSAL": True, "WIDE": False, "ROWS": 64, "COLS": 64, "WIDTH": 64}
        signature = {n: "constexpr" if n in options else numbers.get(n, "*bf16") for n in kernel.arg_names}
        made = triton.compile(ASTSource(kernel, signature, constexprs=options), target=GPUTarget("cuda", capability, 32))
        assert instruction in made.asm["ptx"]
        assert len(made.asm["cubin"]) > 0


def test_what_cannot_be_taken_is_refused() -> None:
    from underhood.kernels.flash import flash_attention

    x = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ConfigError, match="on the CPU"):
        flash_attention(x, x, x)
    with pytest.raises(ConfigError, match="float64"):
        flash_attention(x.double(), x.double(), x.double())
    with pytest.raises(ConfigError, match="powers of two"):
        flash_attention(x, x, x, tile=(24, 16))
    with pytest.raises(ShapeError, match="multiple"):
        flash_attention(torch.zeros(1, 3, 4, 8), x, x)
    with pytest.raises(ShapeError, match="query 0 has nothing"):
        flash_attention(x, x[:, :, :2], x[:, :, :2], causal=True)


def test_what_the_kernels_do_not_take_goes_to_the_plain_tiles() -> None:
    from underhood.kernels.flash import flash

    x = torch.randn(1, 2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = causal_mask(4)
    expected = F.scaled_dot_product_attention(x, x, x, attn_mask=mask)
    torch.testing.assert_close(flash(x, x, x, causal=True, mask=None, dropout=Dropout(0.0))[0], expected)
    torch.testing.assert_close(flash(x.float(), x.float(), x.float(), causal=False, mask=mask, dropout=Dropout(0.0))[0], expected.float())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (128, 128), (1000, 1000), (77, 333), (1, 517)])
@pytest.mark.parametrize("tile", [(64, 64), (128, 32), (32, 128)])
def test_the_compiled_kernels_equal_torch(T: int, S: int, tile: tuple[int, int], dtype: torch.dtype, causal: bool) -> None:
    """In 16 bits our error against float64 is at most twice that of torch's own kernel."""
    from underhood.kernels.flash import flash_attention

    generator = torch.Generator("cuda").manual_seed(T + S)
    q, k, v = (torch.randn(2, h, n, 64, generator=generator, device="cuda", dtype=dtype).requires_grad_() for h, n in ((4, T), (2, S), (2, S)))
    upstream = torch.randn(2, 4, T, 64, generator=generator, device="cuda", dtype=dtype)
    mask = causal_mask(T, S, device="cuda") if causal else None

    def results(wide: bool, ours: bool) -> list[torch.Tensor]:
        leaves = [x.detach().to(torch.float64 if wide else dtype).requires_grad_() for x in (q, k, v)]
        attention = flash_attention(*leaves, causal=causal, tile=tile) if ours else F.scaled_dot_product_attention(*leaves, attn_mask=mask, enable_gqa=True)
        return [attention.detach().double(), *(g.double() for g in torch.autograd.grad(attention, leaves, upstream.to(attention.dtype)))]

    true = results(wide=True, ours=False)
    for mine, theirs, exact in zip(results(wide=False, ours=True), results(wide=False, ours=False), true, strict=True):
        allowed = 2 * float((theirs - exact).abs().max()) + 1e-4 * float(exact.abs().max())
        assert float((mine - exact).abs().max()) <= allowed
