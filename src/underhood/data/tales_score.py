"""What a generated text gets right, counted: sentences that parse, agreement, recall by distance, counting, order, quotes, names, pronouns.

Any text can be scored. A sentence is read by the templates with every filler that a slot could hold; then each slot that shows a skill
is right if the grammar would have allowed that filler there, after what the text itself said. So one wrong word costs one skill one point,
and a sentence that is no template costs a point of ``parsed`` and says nothing about the rest.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest

from underhood.data.tales_grammar import GRAMMAR, Grammar, Template, say
from underhood.data.tales_slots import RECALLS, SLOTS, Said, slot_kind
from underhood.data.tales_world import PRONOUNS, World

SKILLS = ("parsed", "agreement", "recall", "counting", "order", "quotes", "brackets", "names", "pronouns")
FAR = 6  # recall over more sentences is counted with this distance
MAX_SENTENCE = 400  # characters; a longer one is no template, and is not tried

_STORY_END = re.compile(r"(?:\n|<\|endoftext\|>)+")
_SENTENCE_END = re.compile(r"""[.!?]["')]*\s+(?=["(A-Z])""")


@dataclasses.dataclass(frozen=True)
class Share:
    """``right`` out of ``total``; the share of nothing is None."""

    right: int = 0
    total: int = 0

    def __add__(self, other: "Share") -> "Share":
        return Share(self.right + other.right, self.total + other.total)

    @property
    def share(self) -> float | None:
        return self.right / self.total if self.total else None

    def __str__(self) -> str:
        return f"{self.right}/{self.total}" + (f" = {100 * self.right / self.total:.1f} %" if self.total else "")


@dataclasses.dataclass(frozen=True)
class Scores:
    """Counts by skill, over all sentences; ``recall_at`` by how many sentences earlier the fact was said (``FAR``: that many or more).

    Recall of what was never said is wrong, and has no distance.
    """

    skills: Mapping[str, Share]
    recall_at: Mapping[int, Share]

    @property
    def sentences(self) -> int:
        return self.skills["parsed"].total

    def __getitem__(self, skill: str) -> Share:
        return self.skills[skill]

    def __add__(self, other: "Scores") -> "Scores":
        skills = {skill: self.skills[skill] + other.skills[skill] for skill in SKILLS}
        return Scores(skills, {d: self.recall_at[d] + other.recall_at[d] for d in self.recall_at})

    def to_plain(self) -> dict[str, dict[str, float | int | None]]:
        """``{"parsed": {"right": 9, "total": 10, "share": 0.9}, …, "recall_at_1": …}``."""
        named = dict(self.skills) | {f"recall_at_{d}": share for d, share in self.recall_at.items()}
        return {name: {"right": s.right, "total": s.total, "share": s.share} for name, s in named.items()}

    def __str__(self) -> str:
        rows = [f"{skill:<10} {share}" for skill, share in self.skills.items()]
        return "\n".join(rows + [f"recall at {d}{'+' if d == FAR else ' '} {share}" for d, share in self.recall_at.items() if share.total])


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One slot judged: what it shows, whether it is right, and for recall how many sentences ago the fact was said (0: never)."""

    skill: str
    right: bool
    distance: int = 0


def score(texts: str | Iterable[str], grammar: Grammar = GRAMMAR, *, prompts: Iterable[str] = ()) -> Scores:
    """The scores of a text, or of several together. New lines and ``<|endoftext|>`` end a story, and with it what is known.

    ``prompts``: what each text goes on from; it is read, and not counted.
    """
    texts = [texts] if isinstance(texts, str) else texts
    judged = [j for text, prompt in zip_longest(texts, prompts, fillvalue="") for j in _judge_text(text, prompt, grammar)]
    skills = {skill: _share(j.right for j in judged if j.skill == skill) for skill in SKILLS}
    recall = [j for j in judged if j.skill == "recall" and j.distance]
    return Scores(skills, {d: _share(j.right for j in recall if min(j.distance, FAR) == d) for d in range(1, FAR + 1)})


def _judge_text(text: str, prompt: str, grammar: Grammar) -> Iterator[Judgement]:
    first, *others = _STORY_END.split(text)
    yield from judge(first, grammar, prompt)
    for story in others:
        yield from judge(story, grammar)


def _share(rights: Iterable[bool]) -> Share:
    rights = list(rights)
    return Share(sum(rights), len(rights))


def sentences(story: str) -> list[str]:
    """The sentences of a text: they end at . ! or ? before a capital, a quote or a bracket."""
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(story)), len(story)]
    return [s for a, b in itertools.pairwise(cuts) if (s := story[a:b].strip())]


def judge(story: str, grammar: Grammar = GRAMMAR, prompt: str = "") -> Iterator[Judgement]:
    """Everything that can be said of a story, sentence by sentence; ``prompt`` is what stood before it."""
    world = grammar.begin()
    for sentence in sentences(prompt):
        _take_in(sentence, world, grammar)
    for sentence in sentences(story):
        yield from _marks(sentence)
        yield from _take_in(sentence, world, grammar)


def _take_in(sentence: str, world: World, grammar: Grammar) -> list[Judgement]:
    """Judge a sentence and let it change what is known."""
    asked, reading = world.pending, _read(sentence, world, grammar)
    judgements = [Judgement("parsed", reading is not None)]
    if reading:
        template, said, slots = reading
        judgements += slots
        say(template, world, said)
    else:
        world.n, world.topic = world.n + 1, ""
    if world.pending is asked:
        world.pending = None  # a question waits for one sentence only
    return judgements


def _marks(sentence: str) -> Iterator[Judgement]:
    """Quotes and brackets, whether or not the sentence parses."""
    if '"' in sentence:
        yield Judgement("quotes", sentence.count('"') % 2 == 0)
    if "(" in sentence or ")" in sentence:
        depths = list(itertools.accumulate((c == "(") - (c == ")") for c in sentence))
        yield Judgement("brackets", min(depths) >= 0 and depths[-1] == 0)


def _read(sentence: str, world: World, grammar: Grammar) -> tuple[Template, Said, list[Judgement]] | None:
    """The kindest reading of a sentence: the template with the fewest wrong slots, one that may stand here before another."""
    if len(sentence) > MAX_SENTENCE:
        return None
    expected = grammar.next_sentence(world)
    readings = []
    for template, pattern in _patterns(grammar):
        match = pattern.fullmatch(sentence)
        if match:
            said = match.groupdict()
            judgements = list(_judge_slots(template, said, world))
            readings.append((sum(not j.right for j in judgements), template not in expected, template, said, judgements))
    return min(readings, key=lambda reading: reading[:2])[2:] if readings else None


@functools.cache
def _patterns(grammar: Grammar) -> list[tuple[Template, re.Pattern[str]]]:
    """Each template as a pattern of everything that its slots could hold; quotes and brackets may be missing."""
    return [(template, re.compile("".join(_part(before, slot, grammar) for before, slot in template.parts))) for template in grammar.templates]


def _part(before: str, slot: str, grammar: Grammar) -> str:
    text = re.sub(r'(\\\(|\\\)|")', r"(?:\1)?", re.escape(before))
    if not slot:
        return text
    fillers = sorted(SLOTS[slot_kind(slot)].vocabulary(grammar.words), key=len, reverse=True)
    return f"{text}(?P<{slot}>{'|'.join(map(re.escape, fillers))})"


def _judge_slots(template: Template, said: Said, world: World) -> Iterator[Judgement]:
    """The slots of a sentence that show a skill, each after the ones before it."""
    before: dict[str, str] = {}
    for _, slot in template.parts:
        if slot:
            judgement = _judge(world, before, slot_kind(slot), said[slot])
            if judgement:
                yield judgement
            before[slot] = said[slot]


def _judge(world: World, said: Said, slot: str, filler: str) -> Judgement | None:
    skill = skill_of(world, said, slot)
    if skill == "names":
        if filler.lower() in PRONOUNS:
            return Judgement("pronouns", world.refers(filler))
        return Judgement("names", filler in world.cast)
    if not skill:
        return None
    allowed = tuple(SLOTS[slot].options(world, said))
    if skill == "pronouns" and not allowed:
        return None  # nobody it could mean: the name that is missing is another skill's
    return Judgement(skill, filler in allowed, distance(world, said, slot) if skill == "recall" else 0)


def skill_of(world: World, said: Said, slot: str) -> str:
    """The skill that a slot shows here, or ""."""
    skill = SLOTS[slot].skill
    return skill if isinstance(skill, str) else skill(world, said)


def distance(world: World, said: Said, slot: str) -> int:
    """How many sentences before this one (or before the question that it answers) the recalled fact was said; 0 if it never was."""
    if slot == "answer":
        fact = world.fact(*world.pending[:2]) if world.pending else None
        return world.n - 1 - fact.at if fact else 0
    kind, about = RECALLS[slot]
    fact = world.fact(kind, world.person(said[about]))
    return world.n - fact.at if fact else 0
