"""From many heads to few: everything else is copied, and what does not fit is refused before anything is touched."""

import pytest
import torch

from underhood.base.errors import CheckpointError, ConfigError
from underhood.nn.attention import LatentConfig
from underhood.nn.convert import apart, load_exact, to_groups
from underhood.nn.gpt import GPT, GPTConfig, build_gpt, gpt2
from underhood.nn.grouped import pool_heads
from underhood.nn.llama import llama

SIZES = {"vocab_size": 11, "context": 8, "n_layer": 2, "n_head": 4, "width": 16}
IDS = torch.arange(8).unsqueeze(0)


@pytest.mark.parametrize("config", [GPTConfig(**SIZES, init="fan_in"), llama(**SIZES, init="fan_in")])  # type: ignore[arg-type]
def test_as_many_groups_as_heads_is_the_same_model(config: GPTConfig) -> None:
    model = build_gpt(config, 0).eval()
    torch.testing.assert_close(to_groups(model, 4)(IDS), model(IDS))


def test_keys_and_values_are_pooled_and_the_rest_is_copied() -> None:
    model = build_gpt(llama(**SIZES), 0)
    few = to_groups(model, 2).state_dict()
    for name, tensor in model.state_dict().items():
        expected = pool_heads(tensor, 4, 2) if ".key." in name or ".value." in name else tensor
        torch.testing.assert_close(few[name], expected, msg=name)


def test_one_matrix_for_three_is_cut() -> None:
    state = build_gpt(GPTConfig(**SIZES), 0).state_dict()  # type: ignore[arg-type]
    cut = apart(state)
    joined = torch.cat([cut[f"blocks.1.attention.{part}.weight"] for part in ("query", "key", "value")])
    assert torch.equal(joined, state["blocks.1.attention.qkv.weight"])
    assert len(cut) == len(state) + 2 * 2 * SIZES["n_layer"]


def test_weights_of_many_heads_are_refused_by_name_and_nothing_is_copied() -> None:
    model = build_gpt(llama(**SIZES), 0)
    few = GPT(to_groups(model, 2).config)
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attention\.key\.weight.*to_groups"):
        load_exact(few, model.state_dict())
    assert all(bool(p.isnan().all()) for p in few.parameters())


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_kv_head"):
        to_groups(build_gpt(llama(**SIZES), 0), 3)
    wide = LatentConfig(kv_rank=4, rope_width=4, nope_width=4, value_width=4)
    latent = GPT(llama(**SIZES, attention="underhood.nn.latent:LatentAttention", latent=wide))
    with pytest.raises(ConfigError, match="latent"):
        to_groups(latent, 1)


def test_gpt2_small_of_published_shape_converts() -> None:
    model = build_gpt(gpt2("small", vocab_size=64, n_layer=1), 0)
    assert to_groups(model, 4).blocks[0].attention.key.weight.shape == (4 * 64, 768)  # type: ignore[union-attr]
