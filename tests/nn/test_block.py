"""The block: the residual formula, and causality."""

import torch

from underhood.nn.attention import AttentionConfig
from underhood.nn.block import Block, BlockConfig, PostNormBlock
from underhood.nn.init import fan_in, init_parameters

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def block(**options: object) -> Block:
    layer = Block(BlockConfig(attend=AttentionConfig(width=8, n_head=2), hidden=16, **options)).double()  # type: ignore[arg-type]
    init_parameters(layer, 0, fan_in, residual="plain")
    return layer


def test_is_torchs_pre_norm_encoder_layer() -> None:
    ours = block(activation="relu")
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True, dtype=torch.float64)
    names = {"self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.output."}
    names |= {"linear1.": "feedforward.up.", "linear2.": "feedforward.down.", "norm1.": "norm1.", "norm2.": "norm2."}
    state = ours.state_dict()
    theirs.load_state_dict({t + kind: state[o + kind] for t, o in names.items() for kind in ("weight", "bias")})
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(X), theirs(X, src_mask=future))


def test_zeroed_branches_leave_the_stream_alone() -> None:
    layer = block()
    init_parameters(layer, 0, fan_in, residual="zero")
    assert torch.equal(layer(X), X)


def test_parts_are_found_by_name() -> None:
    layer = block(norm="BareRMSNorm", feedforward="GatedFeedForward", activation="silu")
    assert not [n for n, _ in layer.named_parameters() if n.startswith("norm")]
    assert layer.feedforward.gate.weight.shape == (16, 8)


def test_gradients() -> None:
    layer = block()
    assert torch.autograd.gradcheck(layer, X[:1, :3].clone().requires_grad_())


def test_post_norm_is_torchs_encoder_layer() -> None:
    config = BlockConfig(attend=AttentionConfig(width=8, n_head=2), hidden=16, activation="relu")
    ours = PostNormBlock(config).double()
    init_parameters(ours, 0, fan_in, residual="plain")
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, dtype=torch.float64)
    names = {"self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.output."}
    names |= {"linear1.": "feedforward.up.", "linear2.": "feedforward.down.", "norm1.": "norm1.", "norm2.": "norm2."}
    state = ours.state_dict()
    theirs.load_state_dict({t + kind: state[o + kind] for t, o in names.items() for kind in ("weight", "bias")})
    torch.testing.assert_close(ours(X), theirs(X, src_mask=torch.ones(5, 5, dtype=torch.bool).triu(1)))


def test_post_norm_puts_the_stream_back_to_size_and_pre_norm_does_not() -> None:
    after = PostNormBlock(BlockConfig(attend=AttentionConfig(width=8, n_head=2), hidden=16)).double()
    init_parameters(after, 0, fan_in)
    torch.testing.assert_close(after(100 * X).square().mean(-1), torch.ones(2, 5, dtype=torch.float64), atol=1e-4, rtol=1e-4)
    assert block()(100 * X).square().mean() > 1000
    assert after.state_dict().keys() == block().state_dict().keys()
