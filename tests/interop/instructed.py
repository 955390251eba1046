"""A small random Llama as its makers publish one: a tokenizer that puts ``<s>`` before a text, a chat template, and ends that only its files name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SPECIAL, ADDED = ("<s>", "</s>", "<|end|>"), ("<think>", "</think>")
TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '[' + message.role + ']' + content + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[assistant]' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""


def tokenizer() -> Any:
    """Every byte a token, then the special and the added ones."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    made.add_tokens([AddedToken(name, normalized=False) for name in ADDED])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    whole.chat_template = TEMPLATE
    return whole


def instructed(folder: Path, *, dtype: torch.dtype = torch.float32, family: str = "Llama") -> Any:
    """Save one in ``folder`` and give transformers' model. Among its ends are ids that it comes to write."""
    words = tokenizer()
    fields = {"vocab_size": len(words), "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = getattr(transformers, f"{family}Config")(**fields, max_position_embeddings=128, bos_token_id=256, eos_token_id=257)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_((1.0 if "norm" in name else 0.0) + 0.15 * torch.randn(parameter.shape, generator=generator))
    model = model.to(dtype)
    ends = [257, *(max(text[:24], key=text.index) for text in (written(model, words, PROMPT, eos_token_id=None), asked(model, words, eos_token_id=None)))]
    model.generation_config = transformers.GenerationConfig(bos_token_id=256, eos_token_id=ends, pad_token_id=257, do_sample=True, top_p=0.9)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model


PROMPT = "Once upon"
MESSAGES = [{"role": "user", "content": "Hi there"}]


def written(model: Any, words: Any, prompt: str, **options: Any) -> list[int]:
    """What transformers writes after ``prompt``, greedily: the new ids, the end among them."""
    return continued(model, words(prompt, return_tensors="pt")["input_ids"], **options)


def asked(model: Any, words: Any, **options: Any) -> list[int]:
    """What transformers answers to ``MESSAGES``."""
    ids = words.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    return continued(model, ids, **options)


@torch.no_grad()
def continued(model: Any, ids: torch.Tensor, **options: Any) -> list[int]:
    """The new ids after ``ids``."""
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, top_p=1.0, pad_token_id=257, **options)
    return [int(i) for i in out[0, ids.shape[1] :]]


def named_ends(folder: Path) -> list[int]:
    """What generation_config.json in ``folder`` says."""
    found: list[int] = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    return found
