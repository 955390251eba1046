"""The network of scalars: worked by hand, and step for step beside torch."""

import math
import random

import pytest
import torch

from underhood.scalar.mlp import MLP, Layer, Neuron, train_step

POINTS, TARGETS = [[0.5, -1.0], [-0.2, 0.8], [1.5, 0.3]], [[1.0], [-1.0], [0.5]]


def test_a_neuron_and_a_step_by_hand() -> None:
    """One weight w = 2, no activation, input 3, target 5: output 6, loss 1, dL/dw = 2·1·3 = 6, dL/db = 2; at rate 0.1, w = 1.4, b = −0.2."""
    model = MLP(1, [1], random.Random(0))
    w, b = model.parameters()
    w.data = 2.0
    assert train_step(model, [[3.0]], [[5.0]], 0.1) == 1.0
    assert (w.data, b.data) == pytest.approx((1.4, -0.2))


def test_shapes_and_activations() -> None:
    assert len(Neuron(3, random.Random(0)).parameters()) == 4
    assert len(Layer(3, 5, random.Random(0))([0.1, 0.2, 0.3])) == 5
    model = MLP(2, [4, 4, 3], random.Random(0))
    assert len(model.parameters()) == 4 * 3 + 4 * 5 + 3 * 5
    assert [layer.neurons[0].activation for layer in model.layers] == ["tanh", "tanh", "none"]
    with pytest.raises(ValueError, match="zip"):
        model([1.0, 2.0, 3.0])


def test_weights_come_from_the_generator_alone_and_lie_within_their_bound() -> None:
    a, b, c = (MLP(4, [6, 1], random.Random(seed)).parameters() for seed in (1, 1, 2))
    assert [p.data for p in a] == [p.data for p in b]
    assert [p.data for p in a] != [p.data for p in c]
    assert max(abs(p.data) for p in a[:30]) <= 4**-0.5


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_twenty_steps_equal_torch(activation: str) -> None:
    ours = MLP(2, [5, 3, 1], random.Random(3), activation)  # type: ignore[arg-type]
    theirs = []
    for layer in ours.layers:
        theirs.append(torch.tensor([[w.data for w in n.weights] for n in layer.neurons], dtype=torch.float64, requires_grad=True))
        theirs.append(torch.tensor([n.bias.data for n in layer.neurons], dtype=torch.float64, requires_grad=True))
    optimizer = torch.optim.SGD(theirs, lr=0.1)
    bend = getattr(torch, activation)
    for _ in range(20):
        h = torch.tensor(POINTS, dtype=torch.float64)
        for i in range(0, 6, 2):
            h = h @ theirs[i].T + theirs[i + 1]
            h = bend(h) if i < 4 else h
        loss = torch.nn.functional.mse_loss(h, torch.tensor(TARGETS, dtype=torch.float64))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert train_step(ours, POINTS, TARGETS, 0.1) == pytest.approx(loss.item(), rel=1e-10)


def test_it_learns_the_exclusive_or() -> None:
    model = MLP(2, [8, 1], random.Random(0))
    corners = [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    losses = [train_step(model, corners, [[-1.0], [1.0], [1.0], [-1.0]], 0.2) for _ in range(200)]
    assert losses[0] > 0.5
    assert losses[-1] < 0.02
    assert all(math.isfinite(v) for v in losses)
