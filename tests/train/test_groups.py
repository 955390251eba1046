"""Which parameters decay."""

import pytest
import torch
from torch import nn

from underhood.base.errors import ConfigError
from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.train.groups import Group, check_groups, decay_groups, named_once


def test_gains_and_biases_of_a_gpt_do_not_decay() -> None:
    model = build_gpt(GPTConfig(vocab_size=11, context=8, n_layer=1, n_head=2, width=8), 0)
    groups = decay_groups(named_once(model), lr=1.0, weight_decay=0.1)
    decay = {name: group.weight_decay for group in groups for name in group.parameters}
    assert set(decay) == {name for name, _ in model.named_parameters()}
    assert {name for name, d in decay.items() if d} == {name for name, p in model.named_parameters() if p.ndim == 2}


def test_a_tied_weight_is_listed_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    model["b"].weight = model["a"].weight
    assert list(named_once(model)) == ["a.weight"]


def test_what_is_frozen_is_not_listed() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert list(named_once(model)) == ["weight"]


def test_twice_and_nothing_are_refused() -> None:
    p = torch.ones(2)
    with pytest.raises(ConfigError, match="two groups"):
        check_groups([Group(parameters={"a": p}, lr=1), Group(parameters={"b": p}, lr=1)])
    with pytest.raises(ConfigError, match="no parameter"):
        check_groups([Group(parameters={}, lr=1)])
