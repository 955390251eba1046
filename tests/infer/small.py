"""Small models and random requests for the tests of the engine."""

import random

import torch

from underhood.base.rng import stream_seed
from underhood.infer.generation import Choice, Generation
from underhood.infer.sample import SampleConfig, generate
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.llama import llama
from underhood.nn.rope import RopeConfig
from underhood.text.bpe import BPE

TOKENIZER = BPE([], special=["<|endoftext|>"])
V, CONTEXT = TOKENIZER.vocab_size, 96
SIZES = {"vocab_size": V, "context": CONTEXT, "n_layer": 2, "n_head": 4, "width": 32, "init": "fan_in"}
GROUPED = {"attention": "underhood.nn.grouped:GroupedQueryAttention", "positions": "underhood.nn.rope:ScaledRotary", "rope": RopeConfig(), "n_kv_head": 2}
CONFIGS = {
    "gpt2": GPTConfig(**SIZES),  # type: ignore[arg-type]
    "llama": llama(**SIZES),
    "mistral": llama(**SIZES, **GROUPED, window=20),
    "qwen": llama(**SIZES, **GROUPED, head_dim=16, qk_gain=True, qkv_bias=True, window=9, window_from=1),
}


def model(name: str = "mistral") -> GPT:
    return build_gpt(CONFIGS[name], 0).eval()


def generations(count: int, seed: int = 0, *, longest: int = 50, most: int = 40) -> list[Generation]:
    """Random prompts, lengths, temperatures and seeds; some prompts begin alike."""
    draw = random.Random(seed)
    stem = [draw.randrange(256) for _ in range(40)]
    found = []
    for i in range(count):
        prompt = stem[: draw.choice([0, 0, 20, 40])] + [draw.randrange(256) for _ in range(draw.randrange(1, longest - 40))]
        sample = SampleConfig(temperature=draw.choice([0.0, 0.7, 1.0]), top_p=draw.choice([None, 0.9]), max_tokens=draw.randrange(1, most))
        found.append(Generation(prompt=tuple(prompt), sample=sample, seed=i, client=str(draw.randrange(3))))
    return found


def alone(model: GPT, asked: Generation) -> list[int]:
    """What `underhood sample` gives."""
    return list(generate(model, asked.prompt, asked.sample, torch.Generator().manual_seed(stream_seed(asked.seed, "sample"))))


def tokens(choice: Choice) -> list[int]:
    return [info.id for piece in choice.pieces for info in piece.tokens]


def text(choice: Choice) -> str:
    return "".join(piece.text for piece in choice.pieces)
