"""GPT-2 from transformers' files and back: the same logits, the same greedy text, and an error for everything that would change the maths."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from underhood.base.errors import CheckpointError, ConfigError
from underhood.infer.sample import SampleConfig, generate
from underhood.interop.export import save_model
from underhood.interop.gpt2 import load_gpt2, write_config
from underhood.interop.models import load_their_tokenizer
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.text.bpe import BPE

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SIZES = {"vocab_size": 131, "n_positions": 128, "n_embd": 48, "n_layer": 3, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
IDS = torch.randint(131, (2, 128), generator=torch.Generator().manual_seed(0))


def reference(**fields: Any) -> Any:
    """transformers' model with random weights of a size at which its logits differ clearly."""
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**SIZES, **fields})).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_((1.0 if "ln_" in name and name.endswith("weight") else 0.0) + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpt2")
    reference().save_pretrained(path)
    return path


def changed(folder: Path, to: Path, **fields: Any) -> Path:
    """A copy whose config.json has other fields."""
    config = json.loads((folder / "config.json").read_text()) | fields
    to.mkdir(exist_ok=True)
    (to / "config.json").write_text(json.dumps(config))
    (to / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return to


@pytest.mark.parametrize("kernel", ["plain", "sdpa"])
def test_logits_equal_transformers(folder: Path, kernel: str) -> None:
    ours = load_gpt2(folder, kernel=kernel)
    with torch.no_grad():
        expected = reference()(IDS).logits
        assert expected.std() > 0.5
        assert (ours(IDS) - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())


def test_gradients_equal_transformers(folder: Path) -> None:
    ours, theirs = load_gpt2(folder), reference()
    ours(IDS).logsumexp(-1).mean().backward()
    theirs(IDS).logits.logsumexp(-1).mean().backward()
    torch.testing.assert_close(ours.tokens.weight.grad, theirs.transformer.wte.weight.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(ours.blocks[0].attention.qkv.weight.grad, theirs.transformer.h[0].attn.c_attn.weight.grad.T, atol=1e-6, rtol=1e-4)


def test_the_same_hundred_greedy_tokens(tmp_path: Path) -> None:
    theirs = reference(tie_word_embeddings=False)
    theirs.transformer.wpe.weight.data *= 8  # or random weights repeat one token
    theirs.save_pretrained(tmp_path)
    for prompt in ([5, 6, 7], [100]):
        greedy = SampleConfig(temperature=0, max_tokens=100)
        ours = list(generate(load_gpt2(tmp_path), prompt, greedy, torch.Generator()))
        settings = {"do_sample": False, "max_new_tokens": 100, "min_new_tokens": 100, "pad_token_id": 0, "eos_token_id": None}
        expected = theirs.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), **settings)[0]
        assert prompt + ours == expected.tolist()
        assert len(set(ours)) > 20


@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu", "silu"])
def test_other_activations_inner_widths_and_untied_heads(tmp_path: Path, activation: str) -> None:
    theirs = reference(activation_function=activation, n_inner=40, tie_word_embeddings=False, layer_norm_epsilon=1e-3)
    theirs.save_pretrained(tmp_path)
    ours = load_gpt2(tmp_path)
    assert not ours.config.tie
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), theirs(IDS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_read_as_float32(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    reference().to(dtype).save_pretrained(tmp_path)
    ours = load_gpt2(tmp_path)
    assert ours.tokens.weight.dtype == torch.float32
    torch.testing.assert_close(ours.tokens.weight, load_gpt2(folder).tokens.weight, atol=2e-2, rtol=1e-2)


def test_older_files_without_prefix_and_with_masks(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    changed(folder, tmp_path)
    weights = {n.removeprefix("transformer."): t.contiguous() for n, t in load_file(folder / "model.safetensors").items()}
    weights["h.0.attn.bias"] = torch.ones(1, 1, 128, 128).tril()
    save_file(weights, tmp_path / "model.safetensors")
    assert torch.equal(load_gpt2(tmp_path)(IDS), load_gpt2(folder)(IDS))


@pytest.mark.parametrize("changes", [{}, {"fused_qkv": False}, {"tie": False, "dropout": 0.1, "hidden": 20, "activation": "gelu"}])
def test_round_trip_through_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    ours = build_gpt(GPTConfig(vocab_size=131, context=128, n_layer=2, width=32, init="fan_in", **changes), 0).eval()
    save_model(ours, tmp_path / "out")
    theirs, loading = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(IDS).logits, ours(IDS), atol=1e-5, rtol=1e-5)
        again = load_gpt2(tmp_path / "out")
        torch.testing.assert_close(again(IDS), ours(IDS))
    assert write_config(again.config) == write_config(ours.config) | {"n_inner": again.config.hidden}


@pytest.mark.parametrize(
    "changes",
    [{"norm": "RMSNorm"}, {"bias": False}, {"qk_norm": True}, {"logit_cap": 5.0}, {"activation": "relu_squared"}],
)
def test_what_the_layout_cannot_say_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        save_model(GPT(GPTConfig(vocab_size=7, width=8, n_head=2, **changes)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: found True; expected False"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"model_type": "gptj"}, "model_type: found 'gptj'"),
        ({"rotary_dim": 16}, "rotary_dim: a field that GPT-2 does not have"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"activation_function": "mish"}, "activation_function: found 'mish'"),
        ({"n_layer": 2}, r"transformer.h.2.attn.c_attn.bias has no place"),
        ({"n_layer": 4}, "transformer.h.3.attn.c_attn.bias is missing"),
        ({"n_embd": 52}, r"shape \[.*\]; expected|hidden width"),
        ({"n_inner": 100}, r"c_fc"),
        ({"vocab_size": 130}, r"wte.weight: shape \[131, 48\]; expected \[130, 48\]"),
        ({"n_positions": 64}, "wpe"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ({"n_head": 5}, "equal heads"),
        ({"n_head": -4}, "n_head: found -4"),
        ({"n_head": 10**30}, "n_head"),
        ({"n_head": "4"}, "n_head: found '4'"),
        ({"n_layer": None}, "n_layer: found None"),
        ({"n_layer": True}, "n_layer: found True"),
        ({"layer_norm_epsilon": 0}, "epsilon"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon"),
        ({"resid_pdrop": 2}, "resid_pdrop"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ],
)
def test_configs_at_odds_with_the_maths_or_the_weights(folder: Path, tmp_path: Path, fields: dict[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        load_gpt2(changed(folder, tmp_path, **fields))


def test_a_tied_head_that_differs_is_a_contradiction(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    for shift in (0, 1):
        changed(folder, tmp_path)
        save_file(weights | {"lm_head.weight": weights["transformer.wte.weight"] + shift}, tmp_path / "model.safetensors")
        if shift:
            with pytest.raises(CheckpointError, match=r"lm_head.weight: a head of its own"):
                load_gpt2(tmp_path)
        else:
            load_gpt2(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_damaged_configs(folder: Path, tmp_path: Path, content: bytes) -> None:
    changed(folder, tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_gpt2(tmp_path)


def test_tokenizer_in_either_form(tmp_path: Path) -> None:
    from underhood.text.alphabet import to_chars
    from underhood.text.vocabulary import token_bytes

    bpe = BPE.train(["the cat sat on the mat, the end of the cat"], 270, special=("<|endoftext|>",))
    (tmp_path / "one").mkdir()
    bpe.save(tmp_path / "one" / "tokenizer.json")
    tokens = [to_chars(t) for t in token_bytes(bpe.merges)]
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)} | bpe.special))
    (tmp_path / "two" / "merges.txt").write_text("\n".join(["#version: 0.2", *(f"{tokens[a]} {tokens[b]}" for a, b in bpe.merges), ""]))
    (tmp_path / "two" / "config.json").write_text('{"model_type": "gpt2"}')
    text = "the mat é <|endoftext|>"
    for name in ("one", "two"):
        assert load_their_tokenizer(tmp_path / name).encode(text) == bpe.encode(text)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_their_tokenizer(tmp_path)
