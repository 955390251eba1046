"""What may fill the slots of a sentence of ``tales``.

Each slot knows two things: ``options``, the fillers that the grammar allows here and their weights, given the world so far and the
slots of this sentence already filled; and ``vocabulary``, every filler that could be read there at all. Writing draws from the first,
parsing walks it, and scoring reads with the second and asks whether the first would have allowed it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from underhood.data.tales_words import Words
from underhood.data.tales_world import World

Said = Mapping[str, str]
Options = Mapping[str, float] | tuple[str, ...]  # weights, or fillers that are equally likely

NOTHING: tuple[str, ...] = ()
POSSESSIVES = {"she": "her", "he": "his", "they": "their"}


Filler = Callable[[World, Said], Options]


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place to fill: what is allowed here, what could be read here, and which skill a wrong filler shows the lack of."""

    options: Filler
    vocabulary: Callable[[Words], Iterable[str]]
    skill: str | Callable[[World, Said], str] = ""


def slot_kind(slot: str) -> str:
    """``"name2"`` is filled as ``"name"`` is."""
    return slot.rstrip("0123456789")


# --- who -------------------------------------------------------------------------------------------------------------


def _new_name(world: World, said: Said) -> Options:
    pool = {"brother": world.words.boys, "sister": world.words.girls}.get(said.get("relation", ""), world.words.names)
    return tuple(name for name in pool if name not in world.cast and name != said.get("newname"))


def _subject(*, without: str = "", plural: bool = False) -> Filler:
    """A name of the cast or its pronoun; ``without``: only people of whom no fact of this kind is known; ``plural``: or «they»."""

    def options(world: World, said: Said) -> Options:
        people = [name for name in world.cast if not without or world.fact(without, name) is None]
        weights = dict.fromkeys(people, 1.0 / max(1, len(people)))
        if world.topic in people:
            weights[world.pronoun(world.topic)] = 1.2
        if plural and len(world.cast) > 1:
            weights["they"] = 0.6
        return weights if said.get("lead") or said.get("close") else {text[0].upper() + text[1:]: weight for text, weight in weights.items()}

    return options


def subject_of(said: Said) -> str:
    """The words of a sentence that say whom it is about, or ""."""
    return next((said[slot] for slot in SUBJECTS if slot in said), "")


def _their(world: World, said: Said) -> Options:
    whom = world.person(subject_of(said))
    return (POSSESSIVES[world.pronoun(whom)],) if whom else NOTHING


def _article(world: World, said: Said) -> Options:
    return ("the", *_their(world, said))


def _he_or_she(world: World, said: Said) -> Options:
    return (world.pronoun(subject_of(said)),)


def _he_or_she_asked_for(world: World, said: Said) -> Options:
    return (world.pronoun(world.pending[1]).capitalize(),) if world.pending else NOTHING


def _child(world: World, said: Said) -> Options:
    return ("girl",) if said["newname"] in world.words.female else ("boy",)


def _other(world: World, said: Said) -> Options:
    whom = world.person(subject_of(said))
    return tuple(name for name in world.cast if name != whom)


def _answerer(world: World, said: Said) -> Options:
    return tuple(name for name in world.cast if world.pending and name != world.pending[2])


# --- things, and facts about them ------------------------------------------------------------------------------------


def _spot(world: World, said: Said) -> Options:
    """A spot where nothing lies yet."""
    setting = world.words.setting.get(world.setting)
    return tuple(spot for spot in setting.spots if spot not in world.values("place")) if setting else NOTHING


def _seat(world: World, said: Said) -> Options:
    setting = world.words.setting.get(world.setting)
    return setting.seats if setting else NOTHING


def _new(field: str, kind: str) -> Filler:
    """A filler that is no value of a fact of this kind yet, so that a question has one answer."""
    return lambda world, said: tuple(word for word in getattr(world.words, field) if word not in world.values(kind))


def _new_thing(world: World, said: Said) -> Options:
    return tuple(thing for thing in world.words.things if world.fact("colour", thing) is None)


def _open(kind: str) -> Filler:
    """Whom or what there is a fact of this kind about that the tale has not come back to."""
    return lambda world, said: world.open(kind)


def _known(kind: str, slot: str, *, note: bool = False) -> Filler:
    """The value (or note) of the fact of this kind about what ``slot`` of this sentence says."""

    def options(world: World, said: Said) -> Options:
        fact = world.fact(kind, world.person(said[slot]))
        return NOTHING if fact is None else (fact.note if note else fact.value,)

    return options


def _answer(world: World, said: Said) -> Options:
    """The value of the fact that was asked for."""
    fact = world.fact(*world.pending[:2]) if world.pending else None
    return (fact.value,) if fact else NOTHING


def answer_skill(world: World, said: Said) -> str:
    """Which skill the answer to the waiting question shows."""
    kind = world.pending[0] if world.pending else ""
    return {"": "", "count": "counting", "first": "order", "last": "order"}.get(kind, "recall")


def _answers(words: Words) -> Iterable[str]:
    reasons = [reason for _, reasons in words.feelings for reason in reasons]
    feelings = [feeling for feeling, _ in words.feelings]
    return (*_spots(words), *words.colours, *words.pet_names, *feelings, *reasons, *words.favourites, *words.names, *words.numbers, *words.deeds)


def _keeper(world: World, said: Said) -> Options:
    return tuple(name for name in world.cast if name in world.values("owner"))


def _kept(world: World, said: Said) -> Options:
    return tuple(thing for thing in world.about("owner") if world.facts["owner"][thing].value == said["keeper"])


def _seeker(world: World, said: Said) -> Options:
    """Who can ask where a thing is: not the one who put it there."""
    fact = world.fact("place", said["placed"])
    return tuple(name for name in world.cast if not fact or name != fact.note)


def _asker(world: World, said: Said) -> Options:
    """Who can ask the other what they like best."""
    return tuple(name for name in world.cast if len(world.cast) == 2 and all(other == name or other in world.open("likes") for other in world.cast))


# --- counting --------------------------------------------------------------------------------------------------------


def number(words: Words, text: str) -> int:
    """ "three" as 3; 0 for a word that is no number."""
    return words.numbers.index(text) + 1 if text in words.numbers else 0


def count_of(world: World, name: str) -> int:
    fact = world.fact("count", name)
    return number(world.words, fact.value) if fact else 0


def _gainer(world: World, said: Said) -> Options:
    return tuple(name for name in world.about("count") if count_of(world, name) + 2 <= len(world.words.numbers))


def _more(world: World, said: Said) -> Options:
    room = len(world.words.numbers) - count_of(world, said["gainer"])
    return world.words.numbers[1 : max(0, min(5, room))]


def _loser(world: World, said: Said) -> Options:
    return tuple(name for name in world.about("count") if count_of(world, name) > 2)


def _fewer(world: World, said: Said) -> Options:
    return world.words.numbers[: max(0, min(4, count_of(world, said["loser"]) - 2))]


# --- creatures and their verbs ---------------------------------------------------------------------------------------


def is_plural(world: World, said: Said) -> bool:
    """Whether the last subject takes «were»: a creature by its form, people by how many they are."""
    heads = [filler for slot, filler in said.items() if slot_kind(slot) == "head"]
    return heads[-1] in world.words.plurals if heads else subject_of(said).lower() == "they" or "other" in said


def _was(world: World, said: Said) -> Options:
    return ("were",) if is_plural(world, said) else ("was",)


def _habit(world: World, said: Said) -> Options:
    return tuple(many if is_plural(world, said) else one for one, many in world.words.habits)


# --- the table -------------------------------------------------------------------------------------------------------


def _any(field: str) -> Slot:
    return Slot(lambda world, said: getattr(world.words, field), lambda words: getattr(words, field))


def _once(field: str) -> Slot:
    """Any of these that the tale has not used."""
    return Slot(lambda world, said: tuple(word for word in getattr(world.words, field) if word not in world.used), lambda words: getattr(words, field))


def _among(*choices: str) -> Slot:
    return Slot(lambda world, said: choices, lambda words: choices)


def _spots(words: Words) -> Iterable[str]:
    return dict.fromkeys(spot for setting in words.settings for spot in setting.spots)


def _subjects(words: Words) -> Iterable[str]:
    return (*words.names, "She", "He", "They", "she", "he", "they")


def _names(words: Words) -> Iterable[str]:
    return words.names


def _things(words: Words) -> Iterable[str]:
    return words.things


def _at(world: World, said: Said) -> Options:
    return tuple(f"{s.at} the {s.name}" for s in world.words.settings)


def _person(options: Filler, vocabulary: Callable[[Words], Iterable[str]] = _names) -> Slot:
    return Slot(options, vocabulary, "names")


LEADS = {"": 0.7, "Then ": 0.12, "Soon ": 0.06, "Later, ": 0.06, "After that, ": 0.06}
SUBJECTS = ("some", "one", "unliked", "uncounted", "unfelt", "petless", "keeper", "gainer", "loser", "speaker", "asker", "seeker", "name", "orderer", "newname")

# the slots that repeat a fact: its kind, and the slot that says whom or what it is about
RECALLS = {
    "lies": ("place", "placed"),
    "feels": ("feeling", "moved"),
    "still": ("feeling", "felt"),
    "owner": ("owner", "owned"),
    "pet": ("pet", "petowner"),
    "loved": ("likes", "liker"),
}

SLOTS: Mapping[str, Slot] = {
    # who: those of the skill "names" must be people whom the tale has introduced
    "newname": Slot(_new_name, _names),
    "name": _person(lambda world, said: world.cast),
    "speaker": _person(lambda world, said: world.cast),
    "orderer": _person(lambda world, said: tuple(n for n in world.cast if world.fact("first", n) is None)),
    "one": _person(_subject(), _subjects),
    "some": _person(_subject(plural=True), _subjects),
    "unliked": _person(_subject(without="likes"), _subjects),
    "uncounted": _person(_subject(without="count"), _subjects),
    "unfelt": _person(_subject(without="feeling"), _subjects),
    "petless": _person(_subject(without="pet"), _subjects),
    "other": _person(_other),
    "answerer": _person(_answerer),
    "asker": _person(_asker),
    "seeker": _person(_seeker),
    "keeper": _person(_keeper),
    "gainer": _person(_gainer),
    "loser": _person(_loser),
    "counter": _person(_open("count")),
    "felt": _person(_open("feeling")),
    "moved": _person(_open("reason")),
    "liker": _person(_open("likes")),
    "petowner": _person(_open("pet")),
    "starter": _person(_open("first")),
    "finisher": _person(_open("last")),
    "child": Slot(_child, lambda words: ("girl", "boy"), "pronouns"),
    "their": Slot(_their, lambda words: POSSESSIVES.values(), "pronouns"),
    "article": Slot(_article, lambda words: ("the", *POSSESSIVES.values()), "pronouns"),
    "heshe": Slot(_he_or_she, lambda words: POSSESSIVES, "pronouns"),
    "asked": Slot(_he_or_she_asked_for, lambda words: ("She", "He", "They"), "pronouns"),
    "relation": _among("brother", "sister", "cousin", "friend"),
    # what a fact is about, and what it says
    "placed": Slot(_open("place"), _things),
    "coloured": Slot(_open("colour"), _things),
    "owned": Slot(_open("owner"), _things),
    "kept": Slot(_kept, _things),
    "lies": Slot(_known(*RECALLS["lies"]), _spots, "recall"),
    "petkind": Slot(_known("pet", "petowner", note=True), lambda words: words.pets),
    "feels": Slot(_known(*RECALLS["feels"]), lambda words: words.reasons, "recall"),
    "still": Slot(_known(*RECALLS["still"]), lambda words: words.reasons, "recall"),
    "owner": Slot(_known(*RECALLS["owner"]), _names, "recall"),
    "pet": Slot(_known(*RECALLS["pet"]), lambda words: words.pet_names, "recall"),
    "loved": Slot(_known(*RECALLS["loved"]), lambda words: words.favourites, "recall"),
    "answer": Slot(_answer, _answers, answer_skill),
    "total": Slot(_known("count", "counter"), lambda words: words.numbers, "counting"),
    "counted": Slot(_known("count", "counter", note=True), lambda words: words.items),
    "gained": Slot(_known("count", "gainer", note=True), lambda words: words.items),
    "lost": Slot(_known("count", "loser", note=True), lambda words: words.items),
    # agreement of subject and verb
    "head": Slot(lambda world, said: world.words.heads.get(world.setting, NOTHING), lambda words: [h for heads in words.heads.values() for h in heads]),
    "near": Slot(lambda world, said: world.words.near.get(world.setting, NOTHING), lambda words: [n for near in words.near.values() for n in near]),
    "was": Slot(_was, lambda words: ("was", "were"), "agreement"),
    "habit": Slot(_habit, lambda words: [form for pair in words.habits for form in pair], "agreement"),
    # new facts
    "setting": Slot(lambda world, said: tuple(world.words.setting), lambda words: words.setting),
    "at": Slot(_at, lambda words: [f"{s.at} the {s.name}" for s in words.settings]),
    "newthing": Slot(_new_thing, _things),
    "newcolour": Slot(_new("colours", "colour"), lambda words: words.colours),
    "spot": Slot(_spot, _spots),
    "seat": Slot(_seat, lambda words: dict.fromkeys(seat for setting in words.settings for seat in setting.seats)),
    "newpet": _any("pets"),
    "petname": Slot(_new("pet_names", "pet"), lambda words: words.pet_names),
    "feeling": Slot(lambda world, said: tuple(world.words.reasons), lambda words: words.reasons),
    "reason": Slot(lambda world, said: world.words.reasons[said["feeling"]], lambda words: [r for _, reasons in words.feelings for r in reasons]),
    "favourite": Slot(_new("favourites", "likes"), lambda words: words.favourites),
    "start": Slot(lambda world, said: world.words.numbers[1:6], lambda words: words.numbers),
    "more": Slot(_more, lambda words: words.numbers),
    "fewer": Slot(_fewer, lambda words: words.numbers),
    "item": _any("items"),
    "deed": Slot(lambda world, said: tuple(d for d in world.words.deeds if d not in said.values()), lambda words: words.deeds),
    # the rest
    "lead": Slot(lambda world, said: LEADS if world.n > 1 else ("",), lambda words: LEADS),
    "close": _among("At last, ", "In the end, ", "That evening, "),
    "verb": _among("put", "left", "hid"),
    "time": _any("times"),
    "nature": _any("natures"),
    "size": _any("sizes"),
    "condition": _any("conditions"),
    "manner": _any("manners"),
    "thought": _any("thoughts"),
    "matter": _any("matters"),
    "weather": _once("weather"),
    "remark": _once("remarks"),
    "mood": _once("moods"),
    "aside": _once("asides"),
    "ending": _any("endings"),
    "moral": _any("morals"),
}
