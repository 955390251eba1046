"""``Embedding``: a lookup is a one-hot product; ids outside the vocabulary are named."""

import pytest
import torch

from underhood.base.errors import ShapeError
from underhood.nn.embedding import Embedding, embed


def table() -> Embedding:
    layer = Embedding(3, 2)
    layer.load_state_dict({"weight": torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])})
    return layer


def test_by_hand() -> None:
    assert table()(torch.tensor([[2, 0]])).tolist() == [[[4.0, 5.0], [0.0, 1.0]]]


def test_equals_one_hot_product_with_gradients() -> None:
    ids = torch.tensor([[1, 1, 0], [2, 1, 1]])
    layer = table().double()
    looked_up = layer(ids)
    assert torch.equal(looked_up, embed(ids, layer.weight))
    (fast,) = torch.autograd.grad(looked_up.square().sum(), layer.weight)
    (plain,) = torch.autograd.grad(embed(ids, layer.weight).square().sum(), layer.weight)
    torch.testing.assert_close(fast, plain)
    assert fast.tolist() == [[0.0, 2.0], [16.0, 24.0], [8.0, 10.0]]


@pytest.mark.parametrize("wrong", [-1, 3, 1000])
def test_an_unknown_id_is_named(wrong: int) -> None:
    with pytest.raises(ShapeError, match=rf"id {wrong} is not in the vocabulary; expected ids from 0 to 2"):
        table()(torch.tensor([[0, wrong]]))
