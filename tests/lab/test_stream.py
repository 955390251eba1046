"""The probe of the residual stream: by hand, and that it changes nothing."""

import re

import pytest
import torch

from underhood.lab.stream import residual_stream, stream_plot
from underhood.nn.gpt import GPTConfig, build_gpt

CONFIG = GPTConfig(vocab_size=11, context=8, n_layer=3, n_head=2, width=8, init="fan_in")
IDS = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(0))


def test_one_entry_before_and_one_after_each_block() -> None:
    model = build_gpt(CONFIG, 0)
    stream = residual_stream(model, IDS)
    with torch.no_grad():
        x = model.tokens(IDS) + model.positions.table.weight
        assert stream[0].mean_square == pytest.approx(float(x.square().mean()))
        assert stream[0].update_ratio == 0
        y = model.blocks[0](x)
    assert len(stream) == 4
    assert stream[1].mean_square == pytest.approx(float(y.square().mean()))
    assert stream[1].update_ratio == pytest.approx(float(((y - x).norm(dim=-1) / x.norm(dim=-1)).mean()), rel=1e-5)
    assert stream[1].mean_share == pytest.approx(float((y.mean(-1) ** 2 / y.square().mean(-1)).mean()), rel=1e-5)


def test_silent_blocks_add_nothing_and_a_constant_stream_is_all_mean() -> None:
    model = build_gpt(GPTConfig(**{**vars(CONFIG), "residual_init": "zero"}), 0)
    assert [layer.update_ratio for layer in residual_stream(model, IDS)] == [0, 0, 0, 0]
    with torch.no_grad():
        model.tokens.weight.fill_(2.0)
        model.positions.table.weight.zero_()
    assert residual_stream(model, IDS)[0].mean_share == pytest.approx(1.0)
    assert residual_stream(model, IDS)[0].mean_square == pytest.approx(4.0)


def test_no_hook_stays_and_the_mode_is_kept() -> None:
    model = build_gpt(CONFIG, 0).train()
    residual_stream(model, IDS)
    assert model.training
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in model.blocks)


def test_the_plot_says_its_numbers() -> None:
    stream = residual_stream(build_gpt(CONFIG, 0), IDS)
    drawn = stream_plot({"pre-norm": stream, "post-norm": stream})
    assert drawn.count("<polyline") == 2
    assert re.search(r"aria-label=\"mean square of the stream", drawn)
