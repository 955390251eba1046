"""Layers, bigram, character model, sampling and training: by hand, beside torch, and against the closed form."""

import math

import numpy as np
import pytest
import torch

from underhood.base.errors import ConfigError, DataError, NonFinite
from underhood.tensor.bigram import Bigram
from underhood.tensor.charmodel import CharModel, windows
from underhood.tensor.layers import Embedding, Linear
from underhood.tensor.sample import continue_text, draw
from underhood.tensor.tensor import Tensor
from underhood.tensor.train import TrainConfig, evaluate, fit, train_step


def text(n: int, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A chain over four characters in which i is followed by i + 1 four times in five, else by anything."""
    rng = np.random.default_rng(seed)
    ids = [0]
    for _ in range(n - 1):
        ids.append((ids[-1] + 1) % 4 if rng.random() < 0.8 else int(rng.integers(4)))
    return np.array(ids)


ENTROPY = -(0.85 * math.log(0.85) + 3 * 0.05 * math.log(0.05))  # of that chain: 0.8 + 0.2/4 for the next, 0.2/4 for each other


def test_layers_by_hand() -> None:
    linear = Linear(2, 1, np.random.default_rng(0))
    linear.weight.data, linear.bias.data = np.array([[2.0], [3.0]], np.float32), np.array([1.0], np.float32)
    assert linear(Tensor(np.array([[1.0, 10.0]], np.float32))).data.tolist() == [[33.0]]
    table = Embedding(3, 2, np.random.default_rng(0))
    table.weight.data = np.array([[0, 1], [2, 3], [4, 5]], np.float32)
    rows = table(np.array([[2, 0], [2, 2]]))
    assert rows.data.tolist() == [[[4, 5], [0, 1]], [[4, 5], [4, 5]]]
    rows.sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.tolist() == [[1, 1], [0, 0], [3, 3]]


def test_initial_sizes() -> None:
    assert Linear(400, 300, np.random.default_rng(0)).weight.data.std() == pytest.approx(0.05, rel=0.02)
    assert Embedding(300, 400, np.random.default_rng(0)).weight.data.std() == pytest.approx(1.0, rel=0.02)


def test_windows_by_hand() -> None:
    x, y = windows(np.array([1, 2, 3, 4]), 2)
    assert (x.tolist(), y.tolist()) == ([[1, 2], [2, 3]], [3, 4])
    with pytest.raises(DataError, match="2 characters"):
        windows(np.array([1, 2]), 2)


def test_the_bigram_by_hand() -> None:
    """«aab»: a is followed by a once and by b once, b by nothing; with one added: ½ ½, and ½ ½."""
    table = np.exp(Bigram.count(np.array([0, 0, 1]), 2).table.data)
    np.testing.assert_allclose(table, 0.5)
    assert evaluate(Bigram.count(np.array([0, 0, 1]), 2), np.array([0, 1, 0])) == pytest.approx(math.log(2))
    with pytest.raises(DataError):
        Bigram.count(np.array([0]), 2)
    with pytest.raises(DataError):
        Bigram.count(np.array([0, 1]), 2, smoothing=0.0)


def test_counting_reaches_the_entropy_of_the_source_and_training_reaches_counting() -> None:
    train, val = text(20_000), text(5000, seed=1)
    counted = evaluate(Bigram.count(train, 4), val)
    assert counted == pytest.approx(ENTROPY, abs=0.03)
    model = Bigram.trainable(4)
    assert evaluate(model, val) == pytest.approx(math.log(4))
    fit(model, train, TrainConfig(steps=800, batch=128, learning_rate=4.0), 0)
    assert evaluate(model, val) == pytest.approx(counted, abs=0.01)


def test_the_character_model_equals_torch_over_twenty_steps() -> None:
    model = CharModel(5, 3, context=3, width=4, hidden=6)
    table, w1, b1, w2, b2 = theirs = [torch.tensor(p.data, requires_grad=True) for p in model.parameters()]
    optimizer = torch.optim.SGD(theirs, lr=0.3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 5, (16, 3)), rng.integers(0, 5, 16)
        logits = torch.tanh(table[torch.tensor(x)].reshape(16, -1) @ w1 + b1) @ w2 + b2
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert train_step(model, x, y, 0.3) == pytest.approx(loss.item(), rel=1e-4)
    for ours, reference in zip(model.parameters(), theirs, strict=True):
        np.testing.assert_allclose(ours.data, reference.detach().numpy(), rtol=1e-3, atol=1e-5)


def test_the_same_seed_gives_the_same_run_to_the_bit_and_another_seed_another() -> None:
    def run(seed: int) -> list[float]:
        model = CharModel(4, seed, context=2, width=3, hidden=8)
        losses: list[float] = []
        fit(model, text(500), TrainConfig(steps=30, batch=8), seed, lambda step, loss: losses.append(loss))
        return losses

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_parameter_has_a_random_stream_of_its_own() -> None:
    """Another embedding width leaves the output layer's start as it is."""
    a, b = CharModel(4, 0, width=3, hidden=8), CharModel(4, 0, width=5, hidden=8)
    assert (a.output.weight.data == b.output.weight.data).all()


def test_a_loss_that_is_no_number_names_its_step() -> None:
    model = CharModel(4, 0, context=2, width=3, hidden=8)
    model.output.bias.data[0] = np.nan
    with pytest.raises(NonFinite, match="step 0"):
        fit(model, text(100), TrainConfig(steps=5, batch=4), 0)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    """A chi-square of 10,000 draws below its 99.9 % point for three degrees of freedom, 16.27."""
    logits = np.array([0.3, -0.2, 0.1, 0.5])
    p = torch.softmax(torch.tensor(logits) / temperature, 0).numpy()
    rng = np.random.default_rng(1)
    counts = np.bincount([draw(logits, temperature, rng) for _ in range(10_000)], minlength=4)
    assert float(((counts - 10_000 * p) ** 2 / (10_000 * p)).sum()) < 16.27


def test_draw_at_its_ends() -> None:
    rng = np.random.default_rng(0)
    assert [draw(np.array([0.0, 2.0, 1.0]), 0.0, rng) for _ in range(5)] == [1] * 5
    assert draw(np.array([-1e30, 0.0, -1e30]), 0.01, rng) == 1
    with pytest.raises(ConfigError, match="temperature"):
        draw(np.array([0.0, 1.0]), -0.1, rng)


def test_continuing_a_text() -> None:
    """A table that always says "the next one": 0 is followed by 1 2 3 0 …"""
    model = Bigram(Tensor(np.roll(np.eye(4), 1, axis=1) * 100))
    assert continue_text(model, np.array([0]), 6, 1.0, np.random.default_rng(0)).tolist() == [1, 2, 3, 0, 1, 2]
