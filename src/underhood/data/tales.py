"""``tales``: short stories from a grammar whose every choice is known, so that the best reachable loss is known too.

generate(3, seed=0)          three stories, their choices, their bits
floor(stories)               the entropy in bits per byte, end mark included
parse(text)                  the one derivation of a story                       (tales_parse)
score(text)                  what generated text gets right, with counts         (tales_score)
minimal_pairs(200, seed=0)   right and wrong continuations by skill              (tales_pairs)
"""

import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from underhood.base.errors import DataError
from underhood.base.rng import stream
from underhood.data.tales_grammar import END, GRAMMAR, Grammar, Template, say
from underhood.data.tales_slots import SLOTS, Options, slot_kind
from underhood.data.tales_world import World

VERSION = 1  # changes whenever the same seed would give another text
END_BYTES = 1  # a story's end mark counts as one byte, as a newline would

T = TypeVar("T")
Watch = Callable[[World, Mapping[str, str], str, int], None]  # (world, slots filled so far, slot to be filled, where in the text)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One draw: what was decided (``"sentence"`` or a slot), what came out, and how probable that was."""

    what: str
    text: str
    p: float


@dataclasses.dataclass(frozen=True)
class Story:
    """A tale with the choices that made it; ``bits`` is −log2 of its probability, the choice to end included."""

    text: str
    choices: tuple[Choice, ...]

    @property
    def bits(self) -> float:
        return -sum(math.log2(choice.p) for choice in self.choices)


def generate(n: int, seed: int, version: int = VERSION, grammar: Grammar = GRAMMAR) -> list[Story]:
    """``n`` stories; the first m of them are the same for every n ≥ m. Raises ``DataError`` for a version that this is not."""
    if version != VERSION:
        raise DataError(f"version {version} of tales", expected=f"version {VERSION}", remedy="Another release of underhood writes that one.")
    if n < 0:
        raise DataError(f"{n} stories", where="tales", expected="0 or more")
    rng = stream(seed, f"tales/{version}")
    return [write(grammar, rng) for _ in range(n)]


def floor(stories: Iterable[Story]) -> float:
    """Bits per byte of the best possible model: −Σ log2 p(choice) ÷ bytes, end marks included."""
    stories = list(stories)
    return sum(s.bits for s in stories) / sum(len(s.text.encode()) + END_BYTES for s in stories)


def write(grammar: Grammar, rng: random.Random, watch: Watch | None = None) -> Story:
    """One story, drawn sentence by sentence and slot by slot."""
    world, text, choices = grammar.begin(), "", list[Choice]()
    while True:
        likely = grammar.next_sentence(world)
        template = pick(likely, rng)
        if not isinstance(template, Template):
            choices.append(Choice("sentence", END, likely[template]))
            return Story(text, tuple(choices))
        choices.append(Choice("sentence", template.name, likely[template]))
        text += " " if text else ""
        said: dict[str, str] = {}
        for before, slot in template.parts:
            text += before
            if slot:
                if watch:
                    watch(world, said, slot, len(text))
                filler, p = draw(SLOTS[slot_kind(slot)].options(world, said), rng)
                choices.append(Choice(slot, filler, p))
                said[slot] = filler
                text += filler
        say(template, world, said)


def draw(options: Options, rng: random.Random) -> tuple[str, float]:
    """A filler and its probability."""
    if isinstance(options, tuple):
        return options[rng.randrange(len(options))], 1 / len(options)
    filler = pick(options, rng)
    return filler, options[filler] / sum(options.values())


def pick(weights: Mapping[T, float], rng: random.Random) -> T:
    """One of the keys, as often as its weight says."""
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def probabilities(options: Options) -> list[tuple[str, float]]:
    """Every filler with its probability, as ``draw`` has it."""
    if isinstance(options, tuple):
        return [(filler, 1 / len(options)) for filler in options]
    total = sum(options.values())
    return [(filler, weight / total) for filler, weight in options.items()]
