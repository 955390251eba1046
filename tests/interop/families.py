"""Small models of every family with random weights, as transformers saves them: the cases that change the maths, one or more for each family."""

from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

V = 131
SHAPE: dict[str, Any] = {"vocab_size": V, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
SHAPE |= {"max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0}
GPT2: dict[str, Any] = {"vocab_size": V, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}


def rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **fields}}


LLAMA3 = rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=16)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {**GPT2}),
    "gpt2, head of its own": ("GPT2", {**GPT2, "tie_word_embeddings": False}),
    "llama 2": ("Llama", {**SHAPE}),
    "llama, grouped heads, tied": ("Llama", {**SHAPE, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama, wide heads, biases": ("Llama", {**SHAPE, "num_key_value_heads": 1, "head_dim": 20, "attention_bias": True, "mlp_bias": True}),
    "llama 3": ("Llama", {**SHAPE, "num_key_value_heads": 2, **LLAMA3}),
    "llama, linear": ("Llama", {**SHAPE, **rope("linear", factor=2.0)}),
    "llama, dynamic": ("Llama", {**SHAPE, "max_position_embeddings": 24, **rope("dynamic", factor=2.0)}),
    "smollm": ("Llama", {**SHAPE, "num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True, **rope("default", rope_theta=100_000.0)}),
    "mistral, window": ("Mistral", {**SHAPE, "num_key_value_heads": 2, "sliding_window": 8}),
    "mistral, no window": ("Mistral", {**SHAPE, "num_key_value_heads": 2, "sliding_window": None, "head_dim": 16}),
    "qwen2": ("Qwen2", {**SHAPE, "num_key_value_heads": 2}),
    "qwen2, window from a layer on": (
        "Qwen2",
        {**SHAPE, "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen2.5, yarn": ("Qwen2", {**SHAPE, "num_key_value_heads": 2, "tie_word_embeddings": True, **YARN}),
    "qwen3": ("Qwen3", {**SHAPE, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}),
    "qwen3, biases": ("Qwen3", {**SHAPE, "num_key_value_heads": 4, "head_dim": 8, "attention_bias": True}),
}


def reference(case: str) -> Any:
    """transformers' model with random weights of a size at which its logits differ clearly."""
    kind, fields = CASES[case]
    config = getattr(transformers, f"{kind}Config")(**fields)
    name = f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, name)._from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            middle = 1.0 if "norm" in name or ".ln_" in name else 0.0
            parameter.copy_(middle + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def saved(folder: Path, case: str) -> Any:
    """A reference whose files lie in ``folder``."""
    model = reference(case)
    model.save_pretrained(folder)
    return model


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Any:
    """Each family in turn."""
    return request.param
