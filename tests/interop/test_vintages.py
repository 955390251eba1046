"""``config.json`` as published models have it: older ones hold what transformers keeps elsewhere by now, or nowhere, and nothing of it enters a logit."""

import json
from pathlib import Path
from typing import Any

import pytest

from underhood.base.errors import CheckpointError
from underhood.interop import gpt2, llama
from underhood.interop.fields import BOOKKEEPING, GENERATION

GPT2: dict[str, Any] = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1,
    "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
    "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}  # fmt: skip
LARGER: dict[str, Any] = {**GPT2, "n_special": 0, "predict_special_tokens": True}
LLAMA2: dict[str, Any] = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008, "max_length": 4096, "max_position_embeddings": 2048,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "pad_token_id": 0, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.31.0.dev0",
    "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu",
    "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
    "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.40.1",
    "use_cache": True, "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
WHOLE: dict[str, Any] = {  # what a library of those days wrote when it was told to leave no default out
    "add_cross_attention": False, "bad_words_ids": None, "begin_suppress_tokens": None, "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None,
    "decoder_start_token_id": None, "diversity_penalty": 0.0, "do_sample": False, "early_stopping": False, "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None, "finetuning_task": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False, "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "length_penalty": 1.0, "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_hidden_states": False, "output_scores": False, "pad_token_id": None, "prefix": None, "problem_type": None,
    "pruned_heads": {}, "remove_invalid_values": False, "repetition_penalty": 1.0, "return_dict": True, "return_dict_in_generate": False,
    "sep_token_id": None, "suppress_tokens": None, "task_specific_params": None, "temperature": 1.0, "tf_legacy_loss": False,
    "tie_encoder_decoder": False, "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50, "top_p": 1.0, "torch_dtype": None,
    "torchscript": False, "typical_p": 1.0, "use_bfloat16": False,
}  # fmt: skip
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "gpt2": (GPT2, 124_439_808),
    "gpt2-medium": ({**LARGER, "n_embd": 1024, "n_head": 16, "n_layer": 24}, 354_823_168),
    "gpt2-large": ({**LARGER, "n_embd": 1280, "n_head": 20, "n_layer": 36}, 774_030_080),
    "gpt2-xl": ({**LARGER, "n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True}, 1_557_611_200),
    "llama-2-7b": (LLAMA2, 6_738_415_616),
    "qwen2-0.5b": (QWEN2, 494_032_768),
    "gpt2, whole": ({**WHOLE, **GPT2}, 124_439_808),
    "llama-2-7b, whole": ({**WHOLE, **LLAMA2}, 6_738_415_616),
    "qwen2-0.5b, whole": ({**WHOLE, **QWEN2}, 494_032_768),
}


def read(folder: Path, fields: dict[str, Any]) -> Any:
    path = folder / "config.json"
    path.write_text(json.dumps(fields))
    return (gpt2 if fields["model_type"] == "gpt2" else llama).read_config(path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read(tmp_path: Path, name: str) -> None:
    fields, parameters = PUBLISHED[name]
    assert read(tmp_path, fields).n_params == parameters


def test_what_transformers_knows_of_writing_is_known() -> None:
    transformers = pytest.importorskip("transformers")
    assert set(transformers.GenerationConfig().to_dict()) - {"_from_model_config"} <= GENERATION | BOOKKEEPING
    assert not GENERATION & BOOKKEEPING


@pytest.mark.parametrize("fields", [GPT2, LLAMA2, QWEN2], ids=["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("n_special", 4), ("pruned_heads", {"0": [1]}), ("add_cross_attention", True), ("use_mrope", True), ("cross_attention_hidden_size", 8), ("odd", False)],
)
def test_what_might_change_the_maths_stays_an_error(tmp_path: Path, fields: dict[str, Any], field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=field):
        read(tmp_path, {**fields, field: value})


@pytest.mark.parametrize("field", ["max_position_embeddings", "num_hidden_layers", "intermediate_size", "model_type"])
def test_a_missing_field_is_named_as_one(tmp_path: Path, field: str) -> None:
    """Nothing is guessed; transformers' defaults are of one size of a family, and null is another mistake."""
    path = tmp_path / "config.json"
    for fields, says in (
        ({n: v for n, v in LLAMA2.items() if n != field}, "the field is missing; expected"),
        ({**LLAMA2, field: None}, "found None; expected"),
    ):
        path.write_text(json.dumps(fields))
        with pytest.raises(CheckpointError, match=f"{field}: {says}"):
            llama.read_config(path)


@pytest.mark.parametrize("fields", [GPT2, LLAMA2], ids=["gpt2", "llama"])
def test_a_field_that_says_nothing_is_no_field(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert read(tmp_path, {**fields, "odd": None}) == read(tmp_path, fields)
