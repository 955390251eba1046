"""Optimizers against torch's on one recorded gradient sequence, against worked examples, and the listwise ones against the plain ones."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from underhood.base.errors import CheckpointError, ConfigError, ShapeError
from underhood.train import optim, optim_fast
from underhood.train.groups import Group
from underhood.train.optim_config import OptimConfig, build_optimizer

SHAPES = [(7, 5), (5,), (3, 9)]
MATRICES = [(7, 5), (3, 9), (7, 5)]


def gradients(shapes: list[tuple[int, ...]], steps: int, dtype: torch.dtype) -> list[list[Tensor]]:
    """A sequence whose sizes vary by a factor of 60."""
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(s, generator=generator, dtype=dtype) * (0.1 + i % 7) for s in shapes] for i in range(steps)]


def weights_after(kind, sequence: list[list[Tensor]], *, lr: float = 1e-2, weight_decay: float = 0.1, **options) -> list[Tensor]:
    """The weights after the whole sequence; ``kind`` is one of ours or of torch's."""
    generator = torch.Generator().manual_seed(2)
    parameters = {f"p{i}": nn.Parameter(torch.randn(g.shape, generator=generator, dtype=g.dtype)) for i, g in enumerate(sequence[0])}
    if kind.__module__.startswith("underhood"):
        optimizer = kind([Group(parameters=parameters, lr=lr, weight_decay=weight_decay)], **options)
    else:
        optimizer = kind(list(parameters.values()), lr=lr, weight_decay=weight_decay, **options)
    for step in sequence:
        for p, g in zip(parameters.values(), step, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach() for p in parameters.values()]


def distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float(((a - b).abs() / b.abs().clamp(min=1)).max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("module", [optim, optim_fast], ids=["plain", "fast"])
def test_adamw_is_torchs_over_1000_steps(module, dtype, tolerance) -> None:
    sequence = gradients(SHAPES, 1000, dtype)
    assert distance(weights_after(module.AdamW, sequence), weights_after(torch.optim.AdamW, sequence, betas=(0.9, 0.95))) < tolerance


def test_sgd_and_adam_are_torchs() -> None:
    sequence = gradients(SHAPES, 200, torch.float64)
    assert distance(weights_after(optim.SGD, sequence, momentum=0.9), weights_after(torch.optim.SGD, sequence, momentum=0.9)) < 1e-9
    assert distance(weights_after(optim.SGD, sequence), weights_after(torch.optim.SGD, sequence)) < 1e-9
    assert distance(weights_after(optim.Adam, sequence), weights_after(torch.optim.Adam, sequence)) < 1e-9


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_is_torchs() -> None:
    sequence = gradients(MATRICES, 50, torch.float32)
    assert distance(weights_after(optim.Muon, sequence), weights_after(torch.optim.Muon, sequence, momentum=0.95, nesterov=True)) < 1e-5


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Lion"])
def test_listwise_is_plain(name: str) -> None:
    sequence = gradients(SHAPES, 100, torch.float64)
    assert distance(weights_after(getattr(optim_fast, name), sequence), weights_after(getattr(optim, name), sequence)) < 1e-12


@pytest.mark.parametrize("name", ["Muon", "MuonMinimax"])
def test_listwise_muon_is_plain(name: str) -> None:
    sequence = gradients(MATRICES, 20, torch.float64)
    ours, plain = (weights_after(getattr(module, name), sequence, dtype=torch.float64) for module in (optim_fast, optim))
    assert distance(ours, plain) < 1e-11
    other = weights_after(getattr(optim, {"Muon": "MuonMinimax", "MuonMinimax": "Muon"}[name]), sequence, dtype=torch.float64)
    assert distance(plain, other) > 1e-3, "the two kinds differ"


@pytest.mark.parametrize("name", ["Muon", "MuonMinimax"])
def test_listwise_muon_is_plain_in_float32(name: str) -> None:
    """Rounds on a Gram matrix round off differently than rounds on the matrix itself: 20 steps of size 0.02 stay within 1e-5."""
    sequence = gradients([(48, 16), (16, 16), (16, 64)], 20, torch.float32)
    ours, plain = (weights_after(getattr(module, name), sequence, lr=0.02, dtype=torch.float32) for module in (optim_fast, optim))
    assert distance(ours, plain) < 1e-5


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (6, 6)], ids=["tall", "wide", "square"])
def test_inverse_root_times_the_matrix_is_orthogonalize(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for matrix in (x, 1e-3 * x, torch.zeros_like(x)):
        for quintics in (optim.NEWTON_SCHULZ, optim.MINIMAX):
            (root,) = optim_fast.inverse_roots([matrix], quintics=quintics)
            turned = matrix @ root if shape[0] > shape[1] else root @ matrix
            assert (turned - optim.orthogonalize(matrix, torch.float64, quintics)).abs().max() < 1e-11


def test_inverse_root_of_a_matrix_without_full_rank() -> None:
    """Its Gram matrix has eigenvalues that are zero but for rounding, of either sign; in float32 the rounds must not blow those up."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(64, 2, generator=generator) @ torch.randn(2, 96, generator=generator)
    for quintics in (optim.NEWTON_SCHULZ, optim.MINIMAX):
        (root,) = optim_fast.inverse_roots([x], quintics=quintics)
        assert (root @ x - optim.orthogonalize(x.double(), torch.float64, quintics)).abs().max() < 1e-2


def test_large_tensors_are_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = gradients(SHAPES, 20, torch.float64)
    whole = weights_after(optim_fast.AdamW, sequence)
    monkeypatch.setattr(optim_fast, "PIECE", 8)
    assert distance(weights_after(optim_fast.AdamW, sequence), whole) == 0


def test_lion_by_hand() -> None:
    """w = 1, m = 0, g = −2: sign((1−β₁)·g) = −1, so w = 1·(1 − 0.1·0.5) + 0.1; m = 0.01·(−2)."""
    p = torch.tensor([1.0])
    p.grad = torch.tensor([-2.0])
    lion = optim.Lion([Group(parameters={"p": p}, lr=0.1, weight_decay=0.5)])
    lion.step()
    assert p.item() == pytest.approx(0.95 + 0.1)
    assert lion.state["p"]["m"].item() == pytest.approx(-0.02)


def test_adamw_first_step_by_hand() -> None:
    """From zero state m̂ = g and v̂ = g², so the step is lr·sign(g) whatever the size of g."""
    p = torch.ones(3)
    p.grad = torch.tensor([1e-3, -1.0, 100.0])
    optim.AdamW([Group(parameters={"p": p}, lr=0.1)]).step()
    assert p.tolist() == pytest.approx([0.9, 1.1, 0.9], abs=1e-5)


def test_orthogonalize_brings_singular_values_near_one() -> None:
    g = torch.randn(24, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    singular = torch.linalg.svdvals(optim.orthogonalize(g, torch.float64))
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    turned = u.T @ optim.orthogonalize(g, torch.float64) @ vh.T
    assert (turned - turned.diagonal().diag()).abs().max() < 1e-6, "the directions are kept: it is diagonal in g's own basis"


def minimax_quintic(low: float, high: float) -> tuple[list[float], float]:
    """The odd quintic p whose largest |1 − p| on [low, high] is smallest, and that distance, by Remez's algorithm.

    Its error takes that size four times with alternating sign: at both ends and at the two places in between where p' is zero.
    """
    inner = np.array([0.7 * low + 0.3 * high, 0.3 * low + 0.7 * high])
    for _ in range(100):
        x = np.array([low, *inner, high])
        a, b, c, error = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], axis=1), np.ones(4))
        inner = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a])))
    return [a, b, c], error


def test_minimax_table_is_the_best_of_each_round() -> None:
    low, high = 1e-3, 1.0
    for found in optim.MINIMAX:
        best, error = minimax_quintic(low, 1.01 * high)
        assert found == pytest.approx(best, abs=1e-6)
        low, high = 1 - error, 1 + error


SPECTRA = {"flat": torch.ones(16), "steep": torch.logspace(0, -2.8, 16), "one large": torch.tensor([1.0] + [1.01e-3] * 15)}  # condition 1, 631 and 990


@pytest.mark.parametrize(("rounds", "bound"), [(3, 0.864), (4, 0.559)])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(16, 40), (40, 16)], ids=["wide", "tall"])
def test_minimax_singular_values_lie_within_the_bound(shape: tuple[int, int], spectrum: str, rounds: int, bound: float) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(drawn, full_matrices=False)
    g = 7 * u @ SPECTRA[spectrum].double().diag() @ vh
    found = optim.orthogonalize(g, torch.float64, optim.MINIMAX[:rounds])
    assert (torch.linalg.svdvals(found) - 1).abs().max() < bound
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    assert torch.linalg.matrix_norm(found - u @ vh, ord=2) < bound


@pytest.mark.parametrize("rank", [1, 2, 16])
def test_minimax_holds_in_bfloat16(rank: int) -> None:
    """A matrix of rank one has its singular value at the very end of the interval, where rounding up must not make it grow from round to round."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        g = torch.randn(16, rank, generator=generator) @ torch.randn(rank, 40, generator=generator)
        assert torch.linalg.svdvals(optim.orthogonalize(g, torch.bfloat16, optim.MINIMAX).float()).max() < 1.7


def test_muon_refuses_vectors() -> None:
    with pytest.raises(ShapeError, match="'gain' has shape"):
        optim.Muon([Group(parameters={"gain": torch.ones(3)}, lr=0.1)])


def test_no_gradient_no_update() -> None:
    used, unused = torch.ones(2), torch.ones(2)
    used.grad = torch.ones(2)
    optimizer = optim.AdamW([Group(parameters={"used": used, "unused": unused}, lr=0.1, weight_decay=0.5)])
    optimizer.step()
    assert unused.tolist() == [1, 1]
    assert "unused" not in optimizer.state


def test_scale_is_a_share_of_the_rate() -> None:
    p = torch.ones(1)
    p.grad = torch.ones(1)
    sgd = optim.SGD([Group(parameters={"p": p}, lr=0.4)])
    sgd.scale = 0.25
    sgd.step()
    assert p.item() == pytest.approx(0.9)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Lion", "Muon", "MuonMinimax"])
def test_state_survives_a_round_trip(kind: str) -> None:
    sequence = gradients([(4, 6), (6, 4)], 6, torch.float32)

    def fresh():
        parameters = {"blocks.0.a": torch.ones(4, 6), "blocks.0.b": torch.ones(6, 4)}
        return parameters, build_optimizer(parameters, OptimConfig(kind=kind))

    def run(parameters, optimizer, steps):
        for step in steps:
            for p, g in zip(parameters.values(), step, strict=True):
                p.grad = g.clone()
            optimizer.step()

    whole, optimizer = fresh()
    run(whole, optimizer, sequence)
    parts, first = fresh()
    run(parts, first, sequence[:3])
    again, second = fresh()
    for name, p in parts.items():
        again[name].copy_(p)
    second.load_state_dict(first.state_dict())
    run(again, second, sequence[3:])
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), again.values(), strict=True))


def test_state_of_another_model_is_refused() -> None:
    def adamw(name: str, *shape: int) -> optim.AdamW:
        p = torch.ones(shape)
        p.grad = torch.ones(shape)
        optimizer = optim.AdamW([Group(parameters={name: p}, lr=0.1)])
        optimizer.step()
        return optimizer

    state = adamw("w", 3).state_dict()
    with pytest.raises(CheckpointError, match="belongs to no parameter"):
        adamw("other", 3).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"m/w.*expected \[4\]"):
        adamw("w", 4).load_state_dict(state)


@pytest.mark.parametrize("module", [optim, optim_fast], ids=["plain", "fast"])
@pytest.mark.parametrize("name", ["Muon", "MuonMinimax"])
def test_muon_leaves_the_rest_to_adamw(module, name: str) -> None:
    names = {"tokens.weight": (8, 4), "blocks.0.up.weight": (4, 4), "blocks.0.norm.weight": (4,)}
    parameters = {name: torch.ones(shape) for name, shape in names.items()}
    built = build_optimizer(parameters, OptimConfig(kind=f"{module.__name__}:{name}", lr=0.02, other_lr=0.005, weight_decay=0.3))
    assert [type(part) for part in built.parts] == [getattr(module, name), module.AdamW]
    found = {name: (group.lr, group.weight_decay) for group in built.groups for name in group.parameters}
    assert found == {"tokens.weight": (0.005, 0.3), "blocks.0.up.weight": (0.02, 0.3), "blocks.0.norm.weight": (0.005, 0.0)}
    built.scale = 0.5
    assert built.scale == 0.5


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        OptimConfig(lr=-1)
    with pytest.raises(ConfigError, match=r"optim\.beta2"):
        OptimConfig(beta2=1.0)
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        OptimConfig(lr=math.nan)
