"""Norms: against torch, by hand, and in half precision where squares overflow."""

import pytest
import torch

from underhood.nn.norm import BareRMSNorm, LayerNorm, RMSNorm, layer_norm, rms_norm


def gaussian(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def test_by_hand() -> None:
    x = torch.tensor([1.0, 3.0])
    assert layer_norm(x, 0.0).tolist() == [-1.0, 1.0]  # mean 2, deviation 1
    torch.testing.assert_close(rms_norm(torch.tensor([3.0, 4.0]), 0.0), torch.tensor([3.0, 4.0]) / 12.5**0.5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(8,), (2, 3, 8), (1, 8), (0, 8)])
def test_layer_norm_equals_torch(bias: bool, shape: tuple[int, ...]) -> None:
    ours, theirs = LayerNorm(8, bias=bias), torch.nn.LayerNorm(8, bias=bias)
    with torch.no_grad():
        for i, p in enumerate(theirs.parameters()):
            p.copy_(gaussian(8) + i)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(gaussian(*shape)), theirs(gaussian(*shape)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-6, 0.1])
def test_rms_norm_equals_torch(epsilon: float) -> None:
    ours, theirs = RMSNorm(8, epsilon=epsilon), torch.nn.RMSNorm(8, eps=epsilon)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(gaussian(2, 3, 8)), theirs(gaussian(2, 3, 8)), atol=1e-5, rtol=1e-5)
    assert torch.equal(BareRMSNorm(8, epsilon=epsilon)(gaussian(2, 8)), rms_norm(gaussian(2, 8), epsilon))
    assert not list(BareRMSNorm(8).parameters())


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_gradients(norm: object) -> None:
    assert torch.autograd.gradcheck(norm, gaussian(3, 5, dtype=torch.float64).requires_grad_(), eps=1e-6, atol=1e-5, rtol=1e-3)


def test_layer_norm_ignores_shift_and_scale() -> None:
    x = gaussian(4, 16, dtype=torch.float64)
    torch.testing.assert_close(layer_norm(3 * x + 7, 0.0), layer_norm(x, 0.0))
    torch.testing.assert_close(rms_norm(3 * x, 0.0), rms_norm(x, 0.0))
    assert not torch.allclose(rms_norm(x + 7, 0.0), rms_norm(x, 0.0))


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_large_tiny_and_zero_rows_finite(norm: object, dtype: torch.dtype) -> None:
    for size in (1e4, 1e-6, 0.0):  # 1e4² overflows float16, 1e-6² underflows it
        x = (gaussian(2, 64) * size).to(dtype)
        out = norm(x)  # type: ignore[operator]
        assert out.dtype == dtype
        assert out.isfinite().all()
        torch.testing.assert_close(out.double(), norm(x.double()), atol=2e-2, rtol=2e-2)  # type: ignore[operator]
