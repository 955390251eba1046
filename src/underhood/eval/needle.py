"""Does a model use a long text? A fact is hidden in filler and asked for at the end; the truth is known, for the text is made here.

- ``bury`` hides needles at given depths in a text of an exact length; ``retrieved`` says for each text whether the likeliest tokens are the answer;
  ``retrieval`` does both for every length and depth, with one needle or several ("needle in a haystack": Kamradt 2023; several: Hsieh et al. 2024, RULER,
  arXiv 2404.06654, §3).
- ``facts`` and ``spell`` make needles of words, for any tokenizer; ``Ledger`` makes texts of ids in which facts change, for models too small for words.
- ``loss_by_position`` is the other question: how well each position is predicted. A model can do that well and yet find nothing.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from underhood.base.errors import ConfigError, DataError
from underhood.eval.perplexity import Model, inference
from underhood.train.loss import cross_entropy

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon", "Kim", "Leo", "Mia", "Ned", "Ola", "Pia")
WORDS = (
    "apple",
    "bread",
    "candle",
    "door",
    "engine",
    "feather",
    "garden",
    "hammer",
    "island",
    "jacket",
    "key",
    "lemon",
    "mirror",
    "needle",
    "orange",
    "pencil",
)
BATCH_TOKENS = 16_384


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needle:
    """A fact in ids: how it is stated, how it is asked for, and what answers."""

    fact: tuple[int, ...]
    question: tuple[int, ...]
    answer: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Haystack:
    """A text that ends with the question and its answer."""

    ids: tuple[int, ...]
    answer: tuple[int, ...]  # the last of ``ids``


def bury(filler: Sequence[int], needles: Sequence[Needle], depths: Sequence[float], length: int, *, asked: int = 0) -> Haystack:
    """A text of ``length`` ids: filler, in it each needle's fact at its depth (0: first, 1: right before the question), then ``asked``'s question and answer.

    Depth is a share of the filler. Raises ``DataError`` where facts, question and answer do not fit or the filler is too short.
    """
    needle = needles[asked]
    room = length - sum(len(n.fact) for n in needles) - len(needle.question) - len(needle.answer)
    if room < 0 or len(filler) < room:
        raise DataError(f"{length} tokens with {len(needles)} facts and {len(filler)} tokens of filler", expected="room for them all, and filler for the rest")
    ids, used = list[int](), 0
    for depth, n in sorted(zip(depths, needles, strict=True), key=lambda pair: pair[0]):
        if not 0 <= depth <= 1:
            raise DataError(f"depth {depth}", expected="a share of the filler, 0 … 1")
        upto = round(depth * room)
        ids += [*filler[used:upto], *n.fact]
        used = upto
    return Haystack(ids=(*ids, *filler[used:room], *needle.question, *needle.answer), answer=needle.answer)


def retrieved(model: Model, texts: Sequence[Haystack], *, batch_tokens: int = BATCH_TOKENS) -> list[bool]:
    """For each text, whether at every token of the answer the likeliest one is right: what greedy decoding would have written."""
    found: dict[int, bool] = {}
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i].ids), len(texts[i].answer)))
    with inference(model):
        while order:
            same = [i for i in order if len(texts[i].ids) == len(texts[order[0]].ids) and len(texts[i].answer) == len(texts[order[0]].answer)]
            batch = same[: max(1, batch_tokens // len(texts[same[0]].ids))]
            ids, n = torch.tensor([texts[i].ids for i in batch]), len(texts[batch[0]].answer)
            right = (model(ids[:, :-1])[:, -n:].argmax(-1) == ids[:, -n:]).all(-1)
            found |= dict(zip(batch, right.tolist(), strict=True))
            order = [i for i in order if i not in found]
    return [found[i] for i in range(len(texts))]


def retrieval(
    model: Model,
    make: Callable[[random.Random, int], list[Needle]],
    fill: Callable[[random.Random, int], Sequence[int]],
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    needles: int = 1,
    count: int = 20,
    seed: int = 0,
) -> dict[tuple[int, float], float]:
    """The share of answers found, by length and by the depth of the needle that is asked for; the other ``needles`` - 1 lie anywhere.

    ``make(rng, n)`` gives n needles with different questions, ``fill(rng, n)`` at least n ids of filler. Every cell has ``count`` texts of its own.
    """
    grid = {}
    for length in lengths:
        for depth in depths:
            rng = random.Random(f"{seed}/{length}/{depth}")
            made = [(make(rng, needles), [depth, *(rng.random() for _ in range(needles - 1))]) for _ in range(count)]
            hits = retrieved(model, [bury(fill(rng, length), some, where, length) for some, where in made])
            grid[length, depth] = sum(hits) / count
    return grid


def facts(rng: random.Random, count: int) -> list[tuple[str, str, str]]:
    """``count`` made-up facts about different people: statement, question and answer in words; the answers differ too. At most sixteen."""
    if not 1 <= count <= len(NAMES):
        raise DataError(f"{count} facts", expected=f"1 … {len(NAMES)}: one for each name")
    about = zip(rng.sample(NAMES, count), rng.sample(WORDS, count), strict=True)
    return [(f" The secret word of {name} is {word}.", f" The secret word of {name} is", f" {word}") for name, word in about]


def spell(encode: Callable[[str], Sequence[int]], fact: tuple[str, str, str]) -> Needle:
    """A fact of words as a needle of ids; the statement is spelled as question, answer and full stop are, so that no token straddles their border."""
    statement, question, answer = fact
    asked, answered = tuple(encode(question)), tuple(encode(answer))
    return Needle(fact=(*asked, *answered, *encode(statement[len(question) + len(answer) :])), question=asked, answer=answered)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger:
    """Texts of ids about a few things whose values change: filler, statements "thing value", and at the end a question for each thing.

    Every thing is stated ``times`` times, and its last statement holds. Ids: filler 0 … filler-1, then things, then ``values`` values of the first thing,
    of the second, and so on. To answer, a model must find the statements of a thing, and know which of them is nearest.
    """

    filler: int = 16
    things: int = 4
    values: int = 8
    times: int = 2

    def __post_init__(self) -> None:
        for field in ("filler", "things", "values", "times"):
            if getattr(self, field) < 1:
                raise ConfigError(f"found {getattr(self, field)}", where=field, expected="at least 1")

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        return self.filler + self.things * (1 + self.values)

    def texts(self, count: int, length: int, generator: torch.Generator) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """``count`` texts of ``length`` ids, and targets: the last value at each question, -100 elsewhere. Raises ``DataError`` for too short a text."""
        told, hay = self.things * self.times, length - 2 * self.things
        if hay // 2 < told:
            raise DataError(f"{length} tokens", expected=f"at least {2 * self.things + 2 * told}, for {told} statements and {self.things} questions")
        ids = torch.randint(self.filler, (count, length), generator=generator)
        things = shuffled(count, told, generator) % self.things
        values = self.value(things, torch.randint(self.values, (count, told), generator=generator))
        places = 2 * shuffled(count, hay // 2, generator)[:, :told].sort(1).values
        ids.scatter_(1, places, self.filler + things).scatter_(1, places + 1, values)
        last = torch.zeros(count, self.things, dtype=torch.long)
        for i in range(told):
            last.scatter_(1, things[:, i : i + 1], values[:, i : i + 1])
        asked = shuffled(count, self.things, generator)
        ids[:, hay::2], ids[:, hay + 1 :: 2] = self.filler + asked, last.gather(1, asked)
        targets = torch.full_like(ids, -100)
        targets[:, hay::2] = ids[:, hay + 1 :: 2]
        return ids, targets

    def value(self, thing: Tensor, number: Tensor) -> Tensor:
        """The ids of each ``thing``'s values."""
        return self.filler + self.things + thing * self.values + number

    def needles(self, rng: random.Random, count: int) -> list[Needle]:
        """Statements about ``count`` different things."""
        things = rng.sample(range(self.things), count)
        pairs = [(self.filler + t, int(self.value(torch.tensor(t), torch.tensor(rng.randrange(self.values))))) for t in things]
        return [Needle(fact=pair, question=pair[:1], answer=pair[1:]) for pair in pairs]

    def fill(self, rng: random.Random, length: int) -> list[int]:
        """``length`` ids that state nothing."""
        return [rng.randrange(self.filler) for _ in range(length)]


def shuffled(rows: int, width: int, generator: torch.Generator) -> Int[Tensor, "rows width"]:
    """0 … width-1 in another random order in every row."""
    return torch.rand(rows, width, generator=generator).argsort(1)


def loss_by_position(model: Model, inputs: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Float[Tensor, "T"]:
    """Nats at each position, the mean over texts; exp of it is the perplexity there."""
    with inference(model):
        logits = model(inputs)
        return torch.stack([cross_entropy(logits[:, t], targets[:, t]) for t in range(inputs.shape[1])])


def in_pieces(losses: Float[Tensor, "T"], pieces: int) -> list[float]:
    """Means over ``pieces`` stretches of equal length, the first positions first. Raises ``DataError`` where they cannot be equal."""
    if pieces < 1 or len(losses) % pieces:
        raise DataError(f"{len(losses)} positions in {pieces} pieces", expected="a divisor of the length")
    return [float(piece.mean()) for piece in losses.view(pieces, -1)]
