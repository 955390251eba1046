"""The Llama block: the same as the block that takes its parts from a config, and weights for either."""

import dataclasses

import pytest
import torch

from underhood.base.errors import ConfigError
from underhood.nn.fast import fast
from underhood.nn.gpt import GPT, build_gpt
from underhood.nn.llama import llama

CONFIG = llama(vocab_size=17, context=12, n_layer=2, n_head=2, width=16, hidden=24, init="fan_in")
IDS = torch.randint(17, (2, 12), generator=torch.Generator().manual_seed(0))


def test_equals_the_block_with_the_same_parts() -> None:
    written = build_gpt(CONFIG, 0)
    chosen = GPT(dataclasses.replace(CONFIG, block="underhood.nn.block:Block"))
    chosen.load_state_dict(written.state_dict())
    with torch.no_grad():
        assert torch.equal(written(IDS), chosen(IDS))


def test_has_no_biases_and_no_table_of_positions() -> None:
    names = [name for name, _ in build_gpt(CONFIG, 0).named_parameters()]
    assert not [name for name in names if name.endswith("bias") or name.startswith("positions")]
    C, F = 16, 24
    assert CONFIG.n_params == 2 * 17 * C + C + 2 * (4 * C * C + 3 * C * F + 2 * C)


def test_the_fast_parts_compute_the_same() -> None:
    slow = build_gpt(CONFIG, 0)
    quick = GPT(fast(CONFIG))
    quick.load_state_dict(slow.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(quick(IDS), slow(IDS), atol=1e-5, rtol=1e-5)


def test_sizes_are_checked_as_everywhere() -> None:
    with pytest.raises(ConfigError):
        llama(vocab_size=17, width=15, n_head=2)
    assert llama(vocab_size=17, tie=True).tie
