"""The validation loss: still, token-weighted, and without a trace."""

import pytest
import torch
import torch.nn.functional as F

from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.train.loss import IGNORE
from underhood.train.validate import validation_loss


def test_is_torchs_mean_over_tokens_with_dropout_off() -> None:
    model = build_gpt(GPTConfig(vocab_size=9, context=6, n_layer=1, n_head=1, width=8, dropout=0.5), 0)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(0, 9, (4, 6), generator=generator) for _ in range(2))
    y[0, 1:] = IGNORE
    found = [validation_loss(model, [(x[:1], y[:1]), (x[1:], y[1:])]) for _ in range(2)]
    assert found[0] == found[1]
    assert model.training
    model.eval()
    with torch.no_grad():
        assert found[0] == pytest.approx(F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item(), abs=1e-6)
    validation_loss(model, [(x, y)])
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
