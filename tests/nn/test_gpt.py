"""The whole model: sizes known from the paper, FLOPs against torch's counter, causality, and its errors. Its logits against transformers: tests/interop."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from underhood.base.config import from_plain, override, to_plain
from underhood.base.errors import ConfigError, ShapeError, UnknownName
from underhood.infer.cache import KVCache
from underhood.nn.gpt import GPT, GPTConfig, build_gpt, gpt2

SMALL = GPTConfig(vocab_size=31, context=16, n_layer=2, n_head=2, width=24, init="fan_in")
IDS = torch.randint(31, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "count"), [("small", 124_439_808), ("medium", 354_823_168), ("large", 774_030_080), ("xl", 1_557_611_200)])
def test_gpt2_sizes(size: str, count: int) -> None:
    assert gpt2(size).n_params == count


def test_parameters_by_formula() -> None:
    V, T, C, L = 31, 16, 24, 2
    assert SMALL.n_params == V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C
    assert override(SMALL, {"tie": False, "bias": False, "positions": "Rotary"}).n_params == 2 * V * C + L * (12 * C * C + 2 * C) + C


@pytest.mark.parametrize("changes", [{}, {"feedforward": "GatedFeedForward", "hidden": 20, "tie": False, "fused_qkv": False}])
def test_flops_equal_torchs_count(changes: dict[str, object]) -> None:
    config = override(SMALL, changes)
    model = build_gpt(config, 0)
    with FlopCounterMode(display=False) as forward:
        logits = model(IDS)
    assert forward.get_total_flops() == config.flops_per_token(16) * IDS.numel()
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert forward.get_total_flops() + backward.get_total_flops() == config.flops_per_token(16, training=True) * IDS.numel()


def test_a_later_token_never_changes_an_earlier_logit() -> None:
    for positions in ("Learned", "Sinusoidal", "Rotary", "Positions"):
        model = build_gpt(override(SMALL, {"positions": positions}), 0)
        changed = IDS.clone()
        changed[:, 9] = (changed[:, 9] + 1) % 31
        gap = (model(changed) - model(IDS)).abs().amax((0, 2))
        assert (gap[:9] == 0).all()
        assert (gap[9:] > 0).all()


def test_positions_matter() -> None:
    for positions in ("Learned", "Sinusoidal", "Rotary"):
        model = build_gpt(override(SMALL, {"positions": positions}), 0)
        swapped = IDS[:1, [1, 0, 2]]
        assert not torch.allclose(model(swapped)[:, 2], model(IDS[:1, :3])[:, 2], atol=1e-4)


def test_rows_of_a_batch_are_independent() -> None:
    model = build_gpt(SMALL, 0)
    torch.testing.assert_close(model(IDS)[1:], model(IDS[1:]), atol=1e-5, rtol=1e-5)


def test_untied_and_tied_heads() -> None:
    tied, untied = build_gpt(SMALL, 0), build_gpt(override(SMALL, {"tie": False}), 0)
    assert tied.head_weight is tied.tokens.weight
    assert untied.head_weight.shape == (31, 24)
    assert "head.weight" not in dict(tied.named_parameters())
    torch.testing.assert_close(untied(IDS), untied.hidden(IDS) @ untied.head_weight.T)


def test_the_cap_bounds_logits_and_keeps_their_order() -> None:
    free, capped = build_gpt(SMALL, 0), build_gpt(override(SMALL, {"logit_cap": 0.5}), 0)
    assert capped(IDS).abs().max() < 0.5 < free(IDS).abs().max()
    assert torch.equal(capped(IDS).argmax(-1), free(IDS).argmax(-1))


def test_with_a_cache_as_without() -> None:
    for positions in ("Learned", "Sinusoidal", "Rotary"):
        model = build_gpt(override(SMALL, {"positions": positions}), 0).double()
        cache = KVCache(2, 16)
        pieces = [model(piece, cache) for piece in IDS.split([5, 1, 1, 9], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(IDS))


def test_learns_the_one_sequence_it_sees() -> None:
    model = build_gpt(SMALL, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1  # from ln 31 = 3.4


def test_every_parameter_gets_a_gradient() -> None:
    model = build_gpt(SMALL, 0)
    model(IDS).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or "qkv.bias" in name, name  # softmax ignores what a key's bias adds to a whole row


def test_dropout_is_off_in_evaluation_and_repeatable_in_training() -> None:
    config = override(SMALL, {"dropout": 0.2})
    one, two = build_gpt(config, 0), build_gpt(config, 0)
    assert torch.equal(one(IDS), two(IDS))
    assert not torch.equal(one(IDS), two.eval()(IDS))
    assert torch.equal(two(IDS), two(IDS))


def test_uninitialised_weights_are_seen_at_once() -> None:
    assert GPT(SMALL)(IDS).isnan().all()


@pytest.mark.parametrize("shape", [(2, 17), (16,), (2, 0), (1, 2, 3)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="expected"):
        build_gpt(SMALL, 0)(torch.zeros(shape, dtype=torch.long))


def test_a_full_cache_counts_towards_the_context() -> None:
    model, cache = build_gpt(SMALL, 0), KVCache(2, 16)
    model(IDS[:, :15], cache)
    with pytest.raises(ShapeError, match="17 tokens; expected at most 16"):
        model(IDS[:, :2], cache)


@pytest.mark.parametrize(
    "changes",
    [{"n_head": 5}, {"width": 0}, {"dropout": 1.0}, {"n_layer": -1}, {"epsilon": 0.0}, {"logit_cap": -1.0}, {"vocab_size": 0}, {"hidden": 0}],
)
def test_wrong_configs(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        override(SMALL, changes)


def test_unknown_parts_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'gelu_tanh'"):
        GPT(override(SMALL, {"activation": "gelu_tan"}))
    with pytest.raises(UnknownName, match="Did you mean 'small'"):
        gpt2("smal")


def test_the_config_is_plain_data() -> None:
    config = gpt2("small", dropout=0.1)
    assert from_plain(GPTConfig, to_plain(config)) == config
