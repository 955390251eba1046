"""Minimal pairs from ``tales``: one prefix, a right and a wrong continuation, by skill. Does the model prefer the right one?

Cheaper and less noisy than scoring generated text: no sampling, and every pair tests its skill. Chance is one half for a model that does
not look at the prefix, because the wrong continuation of one pair is as likely to be the right one of another: agreement, pronouns and
marks come in equal numbers of either kind, and a wrong name, number, place … is drawn as the right ones are.
"""

import dataclasses
import random
import re
from collections.abc import Iterator, Mapping

from underhood.base.rng import stream
from underhood.data.tales import VERSION, write
from underhood.data.tales_grammar import GRAMMAR, Grammar
from underhood.data.tales_score import distance, sentences, skill_of
from underhood.data.tales_slots import SLOTS, Said, slot_kind
from underhood.data.tales_words import WORDS
from underhood.data.tales_world import PRONOUNS, World

PAIR_SKILLS = ("agreement", "recall", "binding", "counting", "order", "quotes", "brackets", "names", "pronouns")
FARTHEST = 5  # pairs of recall and binding are spread evenly over distances 1 … 5


@dataclasses.dataclass(frozen=True)
class Pair:
    """``prefix`` goes on with ``right`` in the grammar and with ``wrong`` not. ``kind`` is what is in equal numbers within a skill.

    Recall: the wrong filler was never said in this story. Binding: it was, but of something or somebody else.
    """

    skill: str
    prefix: str
    right: str
    wrong: str
    kind: str = ""
    distance: int = 0  # sentences since the fact, for recall and binding


@dataclasses.dataclass(frozen=True)
class _Spot:
    """A slot of a story that shows a skill: where it is, what it allows, what could stand there instead."""

    skill: str
    at: int
    allowed: tuple[str, ...]
    rivals: tuple[str, ...]
    distance: int


_DISTANCES = tuple(str(d) for d in range(1, FARTHEST + 1))
KINDS: Mapping[str, tuple[str, ...]] = {
    "agreement": ("was", "were", "singular", "plural"),
    "recall": _DISTANCES,
    "binding": _DISTANCES,
    "counting": ("",),
    "order": ("",),
    "quotes": ("inside", "outside"),
    "brackets": ("inside", "outside"),
    "names": ("",),
    "pronouns": ("she", "he"),
}
OPPOSITE = {"she": "he", "her": "his", "girl": "boy", "She": "He"}
OPPOSITE |= {he: she for she, he in OPPOSITE.items()}


def minimal_pairs(n: int, seed: int = 0, grammar: Grammar = GRAMMAR, skills: tuple[str, ...] = PAIR_SKILLS) -> list[Pair]:
    """``n`` pairs for each skill (rounded down to equal numbers of each kind), from stories that no corpus holds."""
    rng = stream(seed, f"tales/{VERSION}/pairs")
    room = {(skill, kind): n // len(KINDS[skill]) for skill in skills for kind in KINDS[skill]}
    kept = list[Pair]()
    totals = list[str]()  # the right numbers so far, from which the wrong ones are drawn
    while any(room.values()):
        pairs = list(_pairs_of(grammar, rng, totals))
        rng.shuffle(pairs)
        for key, pair in {(pair.skill, pair.kind): pair for pair in pairs}.items():  # one of a kind from a story: they hang together
            if room.get(key):
                room[key] -= 1
                kept.append(pair)
    return sorted(kept, key=lambda pair: (skills.index(pair.skill), pair.kind))


def _pairs_of(grammar: Grammar, rng: random.Random, totals: list[str]) -> Iterator[Pair]:
    """The pairs of one more story."""
    spots: list[_Spot | None] = []
    story = write(grammar, rng, lambda world, said, slot, at: spots.append(_spot(world, said, slot, at)))
    fillers = [choice.text for choice in story.choices if choice.what != "sentence"]
    for spot, right in zip(spots, fillers, strict=True):
        if spot:
            counting = spot.skill == "counting"
            yield from _filler_pairs(story.text, dataclasses.replace(spot, rivals=tuple(totals)) if counting else spot, right, rng)
            totals += [right] if counting else []
    yield from _mark_pairs(story.text)


def _spot(world: World, said: Said, slot: str, at: int) -> _Spot | None:
    slot = slot_kind(slot)
    skill = skill_of(world, said, slot)
    if not skill:
        return None
    allowed = tuple(SLOTS[slot].options(world, said))
    far = distance(world, said, slot) if skill == "recall" else 0
    return _Spot(skill, at, world.cast if skill == "names" else allowed, _rivals(world, skill, allowed[0]), far)


def _rivals(world: World, skill: str, right: str) -> tuple[str, ...]:
    """What could stand there as well as the right filler: the other values of its sort."""
    words = world.words
    if skill in ("agreement", "pronouns"):
        return ()  # their opposites
    if right in words.names:
        return words.names if skill == "names" else world.cast
    reasons = next((reasons for reasons in words.reasons.values() if right in reasons), ())
    sorts = (words.setting[world.setting].spots, words.colours, words.pet_names, tuple(words.reasons), reasons, words.favourites, words.deeds)
    return next((sort for sort in sorts if right in sort), ())


def _filler_pairs(text: str, spot: _Spot, right: str, rng: random.Random) -> Iterator[Pair]:
    """A pair for each skill that a filled slot shows: one, or for a recalled fact two, as its rivals were said before or not."""
    if spot.skill in ("agreement", "pronouns"):
        wrong, kind = _opposite(right)
        if wrong and wrong not in spot.allowed:
            yield _pair(text, spot, right, wrong, skill=spot.skill, kind=kind)
        return
    rivals = [rival for rival in spot.rivals if rival not in spot.allowed and rival != right]
    if spot.skill in ("recall", "order"):
        said = [rival for rival in rivals if re.search(rf"\b{re.escape(rival)}\b", text[: spot.at])]
        unsaid = [rival for rival in rivals if rival not in said]
        skills = {"recall": unsaid, "binding": said} if spot.skill == "recall" else {"order": said}
    else:
        skills = {spot.skill: rivals} if right.lower() not in PRONOUNS else {}
    for skill, found in skills.items():
        if found:
            kind = str(min(spot.distance, FARTHEST)) if spot.distance else ""
            yield _pair(text, spot, right, rng.choice(found), skill=skill, kind=kind)


def _opposite(right: str) -> tuple[str, str]:
    """The same word of the other number or gender, and the kind of the right one."""
    if right in OPPOSITE:
        return OPPOSITE[right], "she" if right in ("she", "her", "girl", "She") else "he"
    if right in ("was", "were"):
        return ("were" if right == "was" else "was"), right
    for singular, plural in WORDS.habits:
        if right in (singular, plural):
            return (plural, "singular") if right == singular else (singular, "plural")
    return "", ""


def _pair(text: str, spot: _Spot, right: str, wrong: str, *, skill: str, kind: str = "") -> Pair:
    """The continuations run to the end of the word, its full stop included; of the next word where one begins the other («hide», «hides»)."""
    at, end = spot.at, spot.at + len(right)
    nested = right.startswith(wrong) or wrong.startswith(right)
    tail = re.match(r"\S* \S*" if nested else r"\S*", text[end:])
    rest = tail.group() if tail else ""
    space = " " if text[at - 1] == " " else ""
    return Pair(skill, text[: at - len(space)], space + right + rest, space + wrong + rest, kind, spot.distance)


def _mark_pairs(text: str) -> Iterator[Pair]:
    """Closing a quote or a bracket that is open, and not closing one that is not."""
    for skill, close, mark in (("quotes", ',"', '"'), ("brackets", ").", "(")):
        at = text.find(close)
        if at >= 0:
            yield Pair(skill, text[:at], close, ".", "inside")
        plain = [sentence for sentence in sentences(text)[1:] if mark not in sentence and sentence.endswith(".")]
        if plain:
            at = text.index(plain[0]) + len(plain[0]) - 1
            yield Pair(skill, text[:at], ".", close, "outside")
