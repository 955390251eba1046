"""What the checks of speculation compare with and feed it: models of random weights, plain greedy text, and drafts whose guesses are known."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.llama import llama

AGREES = 1e-9
V = 40
SMALL = llama(vocab_size=V, context=48, n_layer=2, n_head=2, width=16, init="fan_in")
FOUR = llama(vocab_size=4, context=8, n_layer=1, n_head=1, width=8, init="fan_in")


def numbers(*values: float) -> Tensor:
    """float64."""
    return torch.tensor(values, dtype=torch.float64)


class Counting(GPT):
    """A GPT that counts the positions it works through, in ``read``."""

    read: Tensor

    def hidden(self, ids: Tensor, cache: Any = None, **options: Any) -> Tensor:
        """As a GPT's."""
        self.read += ids.shape[1]
        return super().hidden(ids, cache, **options)


def model(rng: random.Random, config: GPTConfig = SMALL, *, dtype: torch.dtype = torch.float64) -> Counting:
    """A model of random weights. It is given: what it says is what is to be written, and nobody asks whether it is right."""
    made = build_gpt(config, rng.getrandbits(31)).to(dtype).eval()
    made.__class__ = Counting
    assert isinstance(made, Counting)
    made.read = torch.zeros((), dtype=torch.long)
    return made


@torch.no_grad()
def logits_after(given: GPT, ids: Sequence[int]) -> Tensor:
    """Logits (T V) at every position, all recomputed."""
    logits: Tensor = given(torch.tensor([list(ids)]))
    return logits[0]


def likeliest(given: GPT, ids: Sequence[int], count: int) -> list[int]:
    """Greedy text: the whole read anew for each token."""
    text = list(ids)
    for _ in range(count):
        text.append(int(logits_after(given, text)[-1].argmax()))
    return text[len(ids) :]


def first_beyond(probabilities: Tensor, uniform: float) -> int:
    """The first token whose cumulative probability exceeds ``uniform``."""
    return int(torch.searchsorted(probabilities.cumsum(-1), torch.tensor([uniform], dtype=probabilities.dtype), right=True))


class Scripted:
    """A draft that knows the text: of its guesses those whose place ``wrong`` names are another token. Remembers what it was asked and shown."""

    def __init__(self, text: Sequence[int], wrong: Sequence[int] = (), *, most: int = 99, vocabulary: int = V) -> None:
        self.text, self.wrong, self.most, self.vocabulary = list(text), set(wrong), most, vocabulary
        self.asked, self.shown, self.random = list[tuple[int, int]](), list[Tensor](), list[list[float]]()

    def observe(self, hidden: Tensor) -> None:
        """Note it."""
        self.shown.append(hidden.detach().clone())

    def propose(self, text: Sequence[int], count: int, uniform: Tensor) -> tuple[list[int], Tensor]:
        """What the text will be, except where it is to be wrong."""
        self.asked.append((len(text), count))
        self.random.append(uniform.tolist())
        places = range(len(text), min(len(text) + count, len(text) + self.most, len(self.text)))
        guesses = [(self.text[i] + (i in self.wrong)) % self.vocabulary for i in places]
        return guesses, torch.eye(self.vocabulary, dtype=torch.float64)[guesses]


class Fixed:
    """A draft that draws every guess from ``q`` with the number that it is given."""

    def __init__(self, q: Tensor) -> None:
        self.q = q

    def observe(self, hidden: Tensor) -> None:
        """Nothing."""

    def propose(self, text: Sequence[int], count: int, uniform: Tensor) -> tuple[list[int], Tensor]:
        """Drawn from q."""
        return [first_beyond(self.q, float(uniform[i])) for i in range(count)], self.q.expand(count, -1)


class Counts:
    """A tally that keeps what it is told."""

    def __init__(self) -> None:
        self.noted = list[tuple[int, int]]()

    def note(self, proposed: int, new: int) -> None:
        """One pass."""
        self.noted.append((proposed, new))
