"""Texts of different lengths at once get what each gets alone."""

import pytest
import torch

from underhood.base.errors import ShapeError
from underhood.infer.forward import hidden_at, hidden_padded
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.llama import llama
from underhood.nn.rope import RopeConfig

SIZES = {"vocab_size": 60, "context": 24, "n_layer": 2, "n_head": 4, "width": 32}
SCALED = {"attention": "underhood.nn.grouped:GroupedQueryAttention", "positions": "underhood.nn.rope:ScaledRotary", "n_kv_head": 2}
MODELS = {
    "learned": GPTConfig(**SIZES),  # type: ignore[arg-type]
    "sinusoids": GPTConfig(**SIZES, positions="Sinusoidal"),  # type: ignore[arg-type]
    "rotary": llama(**SIZES),
    "scaled": llama(**SIZES, **SCALED, rope=RopeConfig(kind="yarn", factor=2, original_context=12)),
    "window": llama(**SIZES, **SCALED, rope=RopeConfig(), window=5),
    "none": GPTConfig(**SIZES, positions="Positions"),  # type: ignore[arg-type]
}
LENGTHS = (7, 1, 4)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> GPT:
    return build_gpt(MODELS[request.param], 0).eval()


class OneText:
    """A layer cache that keeps nothing: every text is whole in the call."""

    def extend(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return k, v


@torch.no_grad()
def test_filler_on_either_side_changes_nothing(model: GPT) -> None:
    width = 9
    texts = [torch.randint(0, 60, (n,)) for n in LENGTHS]
    ids, real = torch.full((6, width), 3), torch.zeros(6, width, dtype=torch.bool)
    for i, text in enumerate(texts):
        for row, begin in ((i, 0), (i + 3, width - len(text))):
            ids[row, begin : begin + len(text)], real[row, begin : begin + len(text)] = text, True
    hidden = hidden_padded(model, ids, real)
    for i, text in enumerate(texts):
        alone = model.hidden(text[None])[0]
        torch.testing.assert_close(hidden[i][real[i]], alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(hidden[i + 3][real[i + 3]], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_flat_text_is_the_text(model: GPT) -> None:
    ids = torch.randint(0, 60, (8,))
    flat = hidden_at(model, ids, torch.arange(8), [OneText()] * 2)
    torch.testing.assert_close(flat, model.hidden(ids[None])[0], rtol=1e-5, atol=1e-5)


def test_beyond_the_context_is_an_error(model: GPT) -> None:
    with pytest.raises(ShapeError, match="at most 24"):
        hidden_at(model, torch.zeros(1, dtype=torch.long), torch.tensor([24]), [OneText()] * 2)
    with pytest.raises(ShapeError, match="no tokens"):
        hidden_at(model, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), [OneText()] * 2)
