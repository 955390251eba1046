"""Every way to write a text greedily that must write what the plain path would: by guesses that are judged, and by the engine.

The guesses here come from somebody who knows the text and is wrong about every third token, so that both verdicts occur. The engine has company, pages
for about half of it, prompts cut in pieces, and guesses. ``underhood.interop.verify`` asks the naive path about every token that is written.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from underhood.infer.engine import Compiled, Engine, EngineConfig
from underhood.infer.generation import Generation
from underhood.infer.lookup import Lookup
from underhood.infer.sample import SampleConfig, generate
from underhood.infer.speculate import Draft, speculate
from underhood.nn.gpt import GPT

Asked = tuple[list[int], int]  # a prompt, and how many tokens are to follow
Writer = Callable[[GPT, Sequence[Asked]], list[list[int]]]
SIZE, GUESSES = 4, 3


def drafted(model: GPT, asked: Sequence[Asked]) -> list[list[int]]:
    """Through ``speculate``."""
    draft = _Knows(model, asked)
    return [list(speculate(model, draft, prompt, _greedy(n), torch.Generator(), k=GUESSES)) for prompt, n in asked]


def by_engine(model: GPT, asked: Sequence[Asked], compiled: Compiled | None = None) -> list[list[int]]:
    """Through the engine, all at once; steps of few tokens in ``compiled`` kernels, and single tokens' attention."""
    needed = [-(-(len(prompt) + n) // SIZE) for prompt, n in asked]
    config = EngineConfig(block_size=SIZE, n_blocks=max(needed) + sum(needed) // 2, tokens_per_step=16, max_running=8, compiled_up_to=6, guesses=GUESSES)
    engine, draft = Engine(model, NoText(model.config.vocab_size), config, compiled=compiled), _Knows(model, asked)
    choices = [engine.submit(Generation(prompt=tuple(prompt), sample=_greedy(n)))[0] for prompt, n in asked]
    for choice in choices:
        choice.lookup = draft
    while engine.busy:
        engine.step()
    return [[info.id for piece in choice.pieces for info in piece.tokens] for choice in choices]


def _greedy(n: int) -> SampleConfig:
    return SampleConfig(temperature=0, max_tokens=n)


class _Knows(Draft, Lookup):
    """What the model writes with a cache, every third token wrong."""

    def __init__(self, model: GPT, asked: Sequence[Asked]) -> None:
        self.vocab_size = model.config.vocab_size
        self.texts = [[*prompt, *generate(model, prompt, _greedy(n), torch.Generator())] for prompt, n in asked]

    def guesses(self, text: Sequence[int], count: int) -> list[int]:
        """Of the first text that begins so."""
        n = len(text)
        whole = next((t for t in self.texts if t[:n] == list(text)), [])
        return [(token + (i % 3 == 2)) % self.vocab_size for i, token in enumerate(whole[n : n + count], n)]

    def propose(self, text: Sequence[int], count: int, uniform: Tensor) -> tuple[list[int], Tensor]:
        """The same, with certainty."""
        guesses = self.guesses(text, count)
        return guesses, F.one_hot(torch.tensor(guesses, dtype=torch.long), self.vocab_size).double()


class NoText:
    """A tokenizer for those who ask for tokens alone."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        """Nothing."""
        return []

    def decode(self, ids: Any) -> str:
        """Nothing."""
        return ""

    def decode_bytes(self, ids: Any) -> bytes:
        """Nothing."""
        return b""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Nothing."""
