"""Llama from transformers' files: the same logits, and an error for everything that would change the maths."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from underhood.base.errors import CheckpointError
from underhood.interop.llama import load_llama, read_config
from underhood.lab.baselines.block import torch_llama
from underhood.lab.patch import applied
from underhood.projects.registry import find_break

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

PLAIN = {"attention": "MultiHeadAttention", "block": "underhood.nn.llama:LlamaBlock", "positions": "Rotary", "rope": None, "epsilon": 1e-6} | dict.fromkeys(
    ("n_kv_head", "head_dim", "qkv_bias", "output_bias")
)  # the parts of project 7
SIZES = {"vocab_size": 131, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64}
IDS = torch.randint(131, (2, 64), generator=torch.Generator().manual_seed(0))


def reference(**fields: Any) -> Any:
    """transformers' model with random weights of a size at which its logits differ clearly."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, "bos_token_id": 0, "eos_token_id": 0, **fields})).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_((1.0 if "norm" in name else 0.0) + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def saved(folder: Path, **fields: Any) -> Any:
    """A reference whose files lie in ``folder``."""
    model = reference(**fields)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("parts", [PLAIN, {}])
def test_logits_equal_transformers(tmp_path: Path, tie: bool, parts: dict[str, Any]) -> None:
    theirs = saved(tmp_path, tie_word_embeddings=tie)
    ours = load_llama(tmp_path, **parts)
    with torch.no_grad():
        expected = theirs(IDS).logits
        assert expected.std() > 0.5
        assert (ours(IDS) - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
        weights = dict(ours.state_dict())
        assert (torch_llama(IDS, weights, ours.config) - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())


def test_gradients_equal_transformers(tmp_path: Path) -> None:
    theirs = saved(tmp_path)
    ours = load_llama(tmp_path)
    for logits in (ours(IDS), theirs(IDS).logits):
        logits.square().mean().backward()
    theirs_grad = theirs.model.layers[0].self_attn.q_proj.weight.grad
    torch.testing.assert_close(ours.blocks[0].attention.query.weight.grad, theirs_grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["neighbours_turned", "gate_swapped", "frequencies_too_close", "values_turned"])
def test_a_broken_stack_loads_the_weights_without_a_word(tmp_path: Path, name: str) -> None:
    """Every tensor has its place and its shape, and the logits are wrong."""
    theirs = saved(tmp_path)
    _, broken = find_break(f"block.{name}")
    with applied(broken.patches), torch.no_grad():
        found = load_llama(tmp_path, **PLAIN)(IDS)
        assert found.isfinite().all()
        assert (found - theirs(IDS).logits).abs().max() > 0.1


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"hidden_act": "quick_gelu"}, "hidden_act"),
        ({"attention_bias": "yes"}, "attention_bias"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": -16}, "head_dim"),
        ({"head_dim": 15}, "head_dim"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 500000.0}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "speed": 3}}, "speed"),
        ({"rope_parameters": None, "rope_scaling": {"type": "su", "factor": 2.0}}, "rope_type"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.*what rope_parameters says"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}, "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5}},
            "rope_scaling",
        ),
        ({"rope_parameters": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}}, "as rope_type"),
        ({"rope_theta": 500000.0}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": None}}, "factor"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "factor"),
        ({"rope_parameters": {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}}, ": factor"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "factor"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"pretraining_tp": 2}, "pretraining_tp"),
        ({"sliding_window": 8}, "sliding_window"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps"),
        ({"model_type": "mamba"}, "model_type"),
    ],
)
def test_what_would_change_the_maths_is_refused(tmp_path: Path, fields: dict[str, Any], names: str) -> None:
    good = transformers.LlamaConfig(**SIZES).to_dict()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(good | fields))
    with pytest.raises(CheckpointError, match=names):
        read_config(path)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())
    for fields, says in (({"num_hidden_layers": 2}, "has no place"), ({"num_hidden_layers": 4}, "is missing"), ({"intermediate_size": 81}, "by config.json")):
        path.write_text(json.dumps(good | fields))
        with pytest.raises(CheckpointError, match=says):
            load_llama(tmp_path)
    path.write_text("[]")
    with pytest.raises(CheckpointError, match="not an object"):
        load_llama(tmp_path)
    path.write_text("{")
    with pytest.raises(CheckpointError):
        load_llama(tmp_path)


def test_a_rotation_that_is_told_twice_alike_is_read(tmp_path: Path) -> None:
    good = transformers.LlamaConfig(**SIZES).to_dict()
    path = tmp_path / "config.json"
    told = {"rope_type": "linear", "factor": 2.0}
    path.write_text(json.dumps(good | {"rope_theta": 5e5, "rope_parameters": {**told, "rope_theta": 5e5}, "rope_scaling": {"type": "linear", **told}}))
    rope = read_config(path).rope
    assert rope is not None
    assert (rope.kind, rope.factor, rope.base) == ("linear", 2.0, 5e5)


@torch.no_grad()
def test_yarn_takes_its_factor_from_the_contexts_where_it_is_null(tmp_path: Path) -> None:
    """As transformers does, which refuses a file that leaves it out."""
    theirs = saved(tmp_path, rope_parameters={"rope_type": "yarn", "rope_theta": 10_000.0, "factor": None, "original_max_position_embeddings": 16})
    assert json.loads((tmp_path / "config.json").read_text())["rope_parameters"]["factor"] is None
    expected = theirs(IDS).logits
    assert (load_llama(tmp_path)(IDS) - expected).abs().max() <= 1e-4 * max(1, expected.abs().max())


@pytest.mark.parametrize("fields", [{"rope_interleaved": False}, {"rope_interleaved": None}])
def test_rotation_of_halves_may_be_said(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(transformers.LlamaConfig(**SIZES).to_dict() | fields))
    assert read_config(path).n_head == 4


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_null_heads_of_keys_and_values_are_as_many_as_of_queries(tmp_path: Path, family: str) -> None:
    """As in transformers, whose defaults (32 in Qwen) hold only where the field is left out. Its Mistral refuses null; ours reads it alike."""
    kind = getattr(transformers, f"{family}Config")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(kind(**SIZES).to_dict() | {"num_key_value_heads": None}))
    assert read_config(path).n_kv_head == kind(**SIZES, num_key_value_heads=None).num_key_value_heads == 4


def test_a_null_width_of_heads_is_refused_where_transformers_refuses_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for family, width in (("Llama", 12), ("Mistral", 12), ("Qwen3", None)):
        kind = getattr(transformers, f"{family}Config")
        path.write_text(json.dumps(kind(**SIZES, num_key_value_heads=2).to_dict() | {"head_dim": None}))
        if width is None:
            with pytest.raises(CheckpointError, match="head_dim"):
                read_config(path)
            with pytest.raises(Exception, match="head_dim"):
                kind(**SIZES, head_dim=None)
        else:
            assert read_config(path).head_dim == kind(**SIZES, num_key_value_heads=2, head_dim=None).head_dim == width
