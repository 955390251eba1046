"""The costs of a block: counted as torch counts them, timed within reason."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from underhood.nn.attention import AttentionConfig
from underhood.nn.block import BlockConfig
from underhood.nn.init import fan_in, init_parameters
from underhood.nn.llama import LlamaBlock
from underhood.projects.block import measure


def test_operations_equal_torchs_count() -> None:
    block = LlamaBlock(BlockConfig(attend=AttentionConfig(width=measure.WIDTH, n_head=measure.HEADS, bias=False), hidden=measure.HIDDEN))
    init_parameters(block, 0, fan_in)
    with FlopCounterMode(display=False) as counter:
        block(torch.zeros(1, measure.TOKENS, measure.WIDTH))
    matrices = sum(p.numel() for p in block.parameters() if p.ndim == 2)
    assert counter.get_total_flops() == measure.flops_of(matrices)


def test_the_figures_are_those_of_a_real_machine() -> None:
    found = measure.measure()
    C, F = measure.WIDTH, measure.HIDDEN
    assert found["block"]["parameters"] == 4 * C * C + 3 * C * F + 2 * C
    for group in ("norm", "activation", "rotation"):
        assert all(value > 0 for value in found[group].values())
    assert found["block"]["ms"] > 0
