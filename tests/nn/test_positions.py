"""Positions: the tables by hand and against transformers' formula, rotation by its defining property."""

import math

import pytest
import torch

from underhood.base.errors import ConfigError
from underhood.nn.positions import Learned, Positions, Rotary, Sinusoidal, frequencies, rotary_angles, rotate, sinusoids

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_sinusoids_by_hand() -> None:
    table = sinusoids(3, 4)
    assert table[0].tolist() == [0.0, 1.0, 0.0, 1.0]
    torch.testing.assert_close(table[2], torch.tensor([math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]))
    assert sinusoids(3, 5).shape == (3, 5)


def test_frequencies_fall_from_one_to_nearly_a_ten_thousandth() -> None:
    assert frequencies(4).tolist() == pytest.approx([1.0, 0.01])
    assert (frequencies(64).diff() < 0).all()


@pytest.mark.parametrize("kind", [Learned, Sinusoidal])
def test_added_positions_start_where_told(kind: type[Positions]) -> None:
    positions = kind(9, 8, 4).double()
    if isinstance(positions, Learned):
        positions.table.load_state_dict({"weight": torch.arange(72.0).reshape(9, 8).double()})
    whole = positions.add(torch.zeros(1, 9, 8, dtype=torch.float64))
    torch.testing.assert_close(positions.add(X, start=3) - X, whole[:, 3:8].expand(2, -1, -1))
    assert positions.rotation(X) is None


def test_no_positions_change_nothing() -> None:
    none = Positions(9, 8, 4)
    assert none.add(X) is X
    assert none.rotation(X) is None
    assert not list(none.parameters())


def test_rotation_by_hand() -> None:
    quarter = torch.tensor([[math.pi / 2]], dtype=torch.float64)
    turned = rotate(torch.tensor([[1.0, 0.0]], dtype=torch.float64), quarter.cos(), quarter.sin())
    torch.testing.assert_close(turned, torch.tensor([[0.0, 1.0]], dtype=torch.float64))


def test_a_rotated_product_depends_on_the_distance_alone() -> None:
    rotary = Rotary(40, 8, 4).double()
    q, k = torch.randn(2, 1, 1, 1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def product(m: int, n: int) -> float:
        one = torch.zeros(1, 1, 8, dtype=torch.float64)
        return float((rotary.rotation(one, m)(q) * rotary.rotation(one, n)(k)).sum())

    assert product(5, 2) == pytest.approx(product(33, 30), abs=1e-5)  # the angles are kept in float32
    assert product(5, 2) != pytest.approx(product(5, 3), abs=1e-3)


def test_rotation_keeps_lengths_and_has_the_halved_layout_of_llama() -> None:
    T, D = 5, 8
    angles = rotary_angles(T, D).double()
    x = torch.randn(2, 3, T, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    turned = rotate(x, angles.cos(), angles.sin())
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[..., 0, :], x[..., 0, :])
    pairs = torch.view_as_complex(torch.stack([x[..., : D // 2], x[..., D // 2 :]], dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat([pairs.real, pairs.imag], dim=-1))


def test_an_odd_head_cannot_be_rotated() -> None:
    with pytest.raises(ConfigError, match="even head width"):
        Rotary(8, 6, 3)


@pytest.mark.parametrize("kind", [Learned, Sinusoidal, Rotary])
def test_a_table_is_not_read_past_its_end(kind: type[Positions]) -> None:
    """A slice would return what is left of it; a single row would then be added everywhere."""
    positions = kind(9, 8, 4).double()
    for start in (5, 8, 9):
        with pytest.raises(RuntimeError):
            positions.add(X, start)
            positions.rotation(X, start)


def test_rotation_equals_transformers() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    q = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(1))
    angles = torch.outer(torch.arange(3, 8), frequencies(8)).float().repeat(1, 2)[None]
    theirs, _ = llama.apply_rotary_pos_emb(q, q, angles.cos(), angles.sin())
    torch.testing.assert_close(Rotary(9, 16, 8).rotation(torch.zeros(1, 5, 16), start=3)(q), theirs)
