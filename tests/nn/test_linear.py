"""``Linear``: equal to its plain twin and to torch's, and to a product that can be done by hand."""

import pytest
import torch

from underhood.nn.linear import Linear, linear


def test_by_hand() -> None:
    x = torch.tensor([1.0, 2.0])
    weight = torch.tensor([[1.0, 1.0], [3.0, -1.0], [0.0, 10.0]])
    assert linear(x, weight, torch.tensor([0.5, 0.0, -20.0])).tolist() == [3.5, 1.0, 0.0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 5, 3), (0, 3)])
def test_equals_plain_and_torch(bias: bool, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = Linear(3, 4, bias=bias), torch.nn.Linear(3, 4, bias=bias)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape, generator=generator)
    assert torch.equal(ours(x), theirs(x))
    torch.testing.assert_close(ours(x), linear(x, ours.weight, ours.bias))


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in ((2, 3), (4, 3), (4,))]
    assert torch.autograd.gradcheck(linear, given)


def test_unset_weights_are_nan() -> None:
    layer = Linear(2, 2)
    assert layer.weight.isnan().all()
    assert layer(torch.ones(2)).isnan().all()
