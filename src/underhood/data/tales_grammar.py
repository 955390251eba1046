"""The grammar of ``tales``: the kinds of sentence, when each may be said, and what it makes true.

A template is a line of text whose slots are those of ``tales_slots``. A tale is drawn sentence by sentence: ``next_sentence`` gives the
probability of each template (or of the end), then each slot is filled in turn. All of it depends on the words already said and on
nothing else, so a reader who follows the text knows every probability: that is what makes the entropy exact.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import cached_property

from underhood.data.tales_slots import Said, count_of, number, subject_of
from underhood.data.tales_words import WORDS, Words
from underhood.data.tales_world import BOTH, World

END = "end"  # the choice to stop: the end mark of the text
Weight = Callable[[World], float]
Effect = Callable[[World, Said], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
    """One kind of sentence. ``weight`` is 0 where it may not be said; ``effect`` is what it does to the world."""

    name: str
    kind: str  # open, fact, recall, answer, filler, ending, moral
    text: str
    weight: Weight
    effect: Effect

    @cached_property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """(text before the slot, slot) in order; the last slot is "" where the line ends in text."""
        pieces = [*re.split(r"\{(\w+)\}", self.text), ""]
        return tuple(zip(pieces[::2], pieces[1::2], strict=True))


@dataclasses.dataclass(frozen=True)
class Grammar:
    """A language of tales: its words, its templates and how long a tale may get."""

    words: Words
    templates: tuple[Template, ...]
    body: int = 6  # sentences before an ending is possible
    most: int = 10  # sentences after which the ending follows
    longest: int = 400  # characters after which the ending follows: every tale fits in 256 tokens

    def begin(self) -> World:
        return World(self.words)

    @cached_property
    def by_kind(self) -> dict[str, tuple[Template, ...]]:
        return {kind: tuple(t for t in self.templates if t.kind == kind) for kind in dict.fromkeys(t.kind for t in self.templates)}

    def next_sentence(self, world: World) -> dict[Template | str, float]:
        """The probability of each template, or of ``END``, as the next thing in the tale."""
        weights: dict[Template | str, float] = {}
        for kind, share in self.shares(world).items():
            found = [(t, weight) for t in self.by_kind.get(kind, ()) if (weight := t.weight(world))]
            total = sum(weight for _, weight in found)
            for template, weight in found:
                weights[template] = share * weight / total
            if kind == END:
                weights[END] = share
        total = sum(weights.values()) or 1.0
        return {template: weight / total for template, weight in weights.items()} or {END: 1.0}

    def shares(self, world: World) -> Mapping[str, float]:
        """How likely each kind of sentence is next; those that cannot be said drop out."""
        if world.n == 0:
            return {"open": 1.0}
        if world.closing:
            return {"moral": 0.5, END: 0.5} if world.closing == 1 else {END: 1.0}
        if world.pending:
            return {"answer": 1.0}
        if world.n >= self.most or world.length >= self.longest:
            return {"ending": 1.0}
        if world.n < 4:
            return {"fact": 0.6, "recall": 0.12, "filler": 0.28}
        ending = 0.15 * (1 + world.n - self.body) if world.n >= self.body and world.recalls else 0.0
        return {"fact": 0.2, "recall": 0.45, "filler": 0.25, "ending": ending}


# --- effects ---------------------------------------------------------------------------------------------------------


def _nothing(world: World, said: Said) -> None:
    pass


def _open_with(world: World, said: Said) -> None:
    world.cast += (said["newname"],) + ((said["newname2"],) if "newname2" in said else ())
    world.setting = said["setting"] if "setting" in said else said["at"].rpartition(" ")[2]


def _join(world: World, said: Said) -> None:
    world.cast += (said["newname"],)


def _put(world: World, said: Said) -> None:
    world.state("place", said["newthing"], said["spot"], note=world.person(said["one"]))
    world.state("colour", said["newthing"], said["newcolour"])


def _move(world: World, said: Said) -> None:
    world.state("place", said["placed"], said["spot"], note=world.person(said["one"]))


def _give(world: World, said: Said) -> None:
    world.state("owner", said["newthing"], said["other"])
    world.state("colour", said["newthing"], said["newcolour"])


def _give_back(world: World, said: Said) -> None:
    world.state("owner", said["kept"], said["other"])


def _have_pet(world: World, said: Said) -> None:
    world.state("pet", world.person(said["petless"]), said["petname"], note=said["newpet"])


def _feel(world: World, said: Said) -> None:
    whom = world.person(said["unfelt"])
    world.state("feeling", whom, said["feeling"])
    world.state("reason", whom, said["reason"])


def _like(world: World, said: Said) -> None:
    world.state("likes", world.person(said["unliked"]), said["favourite"])


def _have(world: World, said: Said) -> None:
    """A first count; there is nothing to work out before it changes."""
    world.state("count", world.person(said["uncounted"]), said["start"], note=said["item"], asked=True)


def _count_to(world: World, name: str, total: int) -> None:
    fact, numbers = world.fact("count", name), world.words.numbers
    if fact and 0 < total <= len(numbers):
        world.state("count", name, numbers[total - 1], note=fact.note)


def _find(world: World, said: Said) -> None:
    _count_to(world, said["gainer"], count_of(world, said["gainer"]) + number(world.words, said["more"]))


def _lose(world: World, said: Said) -> None:
    _count_to(world, said["loser"], count_of(world, said["loser"]) - number(world.words, said["fewer"]))


def _order(world: World, said: Said) -> None:
    world.state("first", said["orderer"], said["deed"])
    world.state("last", said["orderer"], said["deed3"])


def _ask(kind: str, slot: str, asker: str = "") -> Effect:
    """A question about the fact of this kind about what ``slot`` says."""

    def effect(world: World, said: Said) -> None:
        world.pending = (kind, said[slot], said.get(asker, ""))

    return effect


def _ask_other(world: World, said: Said) -> None:
    other = next((name for name in world.cast if name != said["asker"]), "")
    world.pending = ("likes", other, said["asker"])


def _come_back(kind: str, slot: str) -> Effect:
    return lambda world, said: world.recall(kind, said[slot])


def _reply(world: World, said: Said) -> None:
    if world.pending:
        world.recall(*world.pending[:2])
    world.pending = None


def _total(world: World, said: Said) -> None:
    world.recall("count", said["counter"])


def _use(slot: str) -> Effect:
    def effect(world: World, said: Said) -> None:
        world.used |= {said[slot]}

    return effect


def _close(world: World, said: Said) -> None:
    world.closing += 1


def say(template: Template, world: World, said: Said) -> None:
    """Let the sentence change ``world``: its effect, whom the next pronoun means, and one sentence more."""
    topic = _topic(template, world, said)
    template.effect(world, said)
    world.topic = topic
    world.n += 1
    world.length += 1 + sum(len(before) for before, _ in template.parts) + sum(map(len, said.values()))


def _topic(template: Template, world: World, said: Said) -> str:
    """Whom «she», «he» or «they» means after this sentence; nobody where it could be either of two."""
    if "newname2" in said or {"name", "other"} <= said.keys():
        return BOTH
    subject = subject_of(said)
    return world.person(subject) if subject and template.name != "join" else ""


# --- when each may be said -------------------------------------------------------------------------------------------


def _always(weight: float) -> Weight:
    return lambda world: weight


def _if_two(weight: float) -> Weight:
    return lambda world: weight if len(world.cast) == 2 else 0.0


def _if_one(weight: float) -> Weight:
    return lambda world: weight if len(world.cast) == 1 else 0.0


def _if_open(kind: str, weight: float, *, two: bool = False) -> Weight:
    """If the tale can come back to a fact of this kind (``two``: and there are two people to talk)."""
    return lambda world: weight if world.open(kind) and (not two or len(world.cast) == 2) else 0.0


def _if_new(kind: str, weight: float) -> Weight:
    """If somebody has no fact of this kind."""
    return lambda world: weight if any(world.fact(kind, name) is None for name in world.cast) else 0.0


def _if_things(weight: float) -> Weight:
    """Three things are enough for a tale."""
    return lambda world: weight if len(world.about("colour")) < 3 else 0.0


def _if_asked(*kinds: str, asker: bool = False) -> Weight:
    return lambda world: float(world.pending is not None and world.pending[0] in kinds and bool(world.pending[2]) == asker)


def _if_unused(field: str, weight: float) -> Weight:
    return lambda world: weight if any(word not in world.used for word in getattr(world.words, field)) else 0.0


def _some_count(low: int, high: int, weight: float) -> Weight:
    return lambda world: weight if any(low <= count_of(world, name) <= high for name in world.about("count")) else 0.0


def _can_ask_other(world: World) -> float:
    return 1.0 if len(world.cast) == 2 and world.open("likes") else 0.0


def _has_kept(world: World) -> float:
    return 1.0 if len(world.cast) == 2 and world.about("owner") else 0.0


TEMPLATES = (
    Template("go", "open", "{time}, {newname} and {newname2} went to the {setting}.", _always(2), _open_with),
    Template("go alone", "open", "{time}, {newname} went to the {setting}.", _always(1), _open_with),
    Template("child", "open", "{newname} was a {nature} {child} who loved the {setting}.", _always(1), _open_with),
    Template("pair", "open", "{newname} and {their} {relation} {newname2} were {at}.", _always(2), _open_with),
    Template("join", "fact", "{lead}{name}'s {relation} {newname} came too.", lambda w: _if_one(2.5)(w) * (w.n < 5), _join),
    # facts
    Template("put", "fact", "{lead}{one} {verb} {article} {newcolour} {newthing} {spot}.", _if_things(3), _put),
    Template("move", "fact", "{lead}{one} took the {placed} and put it {spot}.", _if_open("place", 1), _move),
    Template("give", "fact", "{lead}{one} gave the {newcolour} {newthing} to {other}.", lambda w: _if_two(1.5)(w) * _if_things(1)(w), _give),
    Template("give back", "fact", "{lead}{keeper} gave the {kept} back to {other}.", _has_kept, _give_back),
    Template("pet", "fact", "{petless} had a {size} {newpet} called {petname}.", _if_new("pet", 1.2), _have_pet),
    Template("feel", "fact", "{unfelt} {was} {feeling} because {reason}.", _if_new("feeling", 1.5), _feel),
    Template("like", "fact", "{unliked} liked {favourite} best of all.", _if_new("likes", 1.5), _like),
    Template("have", "fact", "{uncounted} had {start} {item}.", _if_new("count", 2), _have),
    Template("find", "fact", "{lead}{gainer} found {more} more {gained}.", _some_count(1, 10, 12), _find),
    Template("lose", "fact", "{lead}{loser} lost {fewer} of the {lost}.", _some_count(3, 12, 6), _lose),
    Template("order", "fact", "First {orderer} {deed}, then {heshe} {deed2}, and last of all {heshe2} {deed3}.", _if_new("first", 1), _order),
    # coming back to them
    Template("where", "recall", "Where was the {placed}?", _if_open("place", 1), _ask("place", "placed")),
    Template("where is", "recall", '"Where is the {placed}?" asked {seeker}.', _if_open("place", 1.5, two=True), _ask("place", "placed", "seeker")),
    Template("still", "recall", "The {placed} was still {lies}.", _if_open("place", 0.7), _come_back("place", "placed")),
    Template("plays", "recall", "{petowner} played with {pet}.", _if_open("pet", 0.8), _come_back("pet", "petowner")),
    Template("still feels", "recall", "{felt} was still {still}.", _if_open("feeling", 0.6), _come_back("feeling", "felt")),
    Template("still likes", "recall", "{liker} still liked {loved} best of all.", _if_open("likes", 0.6), _come_back("likes", "liker")),
    Template("belongs", "recall", "The {owned} belonged to {owner} now.", _if_open("owner", 1), _come_back("owner", "owned")),
    Template("colour", "recall", "What colour was the {coloured}?", _if_open("colour", 1), _ask("colour", "coloured")),
    Template("who has", "recall", "Who had the {owned} now?", _if_open("owner", 1.5), _ask("owner", "owned")),
    Template("pet name", "recall", "What was the name of {petowner}'s {petkind}?", _if_open("pet", 1), _ask("pet", "petowner")),
    Template("how", "recall", "How did {felt} feel?", _if_open("feeling", 0.8), _ask("feeling", "felt")),
    Template("why", "recall", "Why was {moved} {feels}?", _if_open("reason", 0.8), _ask("reason", "moved")),
    Template("what", "recall", "What did {liker} like best?", _if_open("likes", 1), _ask("likes", "liker")),
    Template("what do you", "recall", '"What do you like best?" asked {asker}.', _can_ask_other, _ask_other),
    Template("now", "recall", "Now {counter} had {total} {counted}.", _if_open("count", 8), _total),
    Template("how many", "recall", "How many did {counter} have now?", _if_open("count", 4), _ask("count", "counter")),
    Template("first", "recall", "What did {starter} do first?", _if_open("first", 1), _ask("first", "starter")),
    Template("last", "recall", "What did {finisher} do last?", _if_open("last", 1), _ask("last", "finisher")),
    # answers
    Template("it was", "answer", "It was {answer}.", _if_asked("place", "colour", "pet"), _reply),
    Template("it is", "answer", '"It is {answer}," said {answerer}.', _if_asked("place", asker=True), _reply),
    Template("had it", "answer", "{answer} had it.", _if_asked("owner"), _reply),
    Template("felt", "answer", "{asked} felt {answer}.", _if_asked("feeling"), _reply),
    Template("because", "answer", "Because {answer}.", _if_asked("reason"), _reply),
    Template("liked", "answer", "{asked} liked {answer}.", _if_asked("likes"), _reply),
    Template("i like", "answer", '"I like {answer} best," said {answerer}.', _if_asked("likes", asker=True), _reply),
    Template("had", "answer", "{asked} had {answer}.", _if_asked("count"), _reply),
    Template("did", "answer", "{asked} {answer}.", _if_asked("first", "last"), _reply),
    # the rest
    Template("creature", "filler", "The {head} {near} {was} {condition}.", _always(2), _nothing),
    Template("seen", "filler", "The {head} that {name} saw {was} {condition}.", _always(1), _nothing),
    Template("habit", "filler", '"The {head} {near} {habit} {manner}," said {speaker}.', _always(2), _nothing),
    Template("watch", "filler", "{lead}{some} {was} watching the {head}.", _always(1), _nothing),
    Template("but", "filler", "The {head} {near} {was} {condition}, but the {head2} {was2} {condition2}.", _always(0.7), _nothing),
    Template("rest", "filler", "{name} (who {was} {mood}) sat down {seat}.", _if_unused("moods", 0.5), _use("mood")),
    Template("both", "filler", "{name} and {other} (who {was} {mood}) sat down {seat}.", lambda w: _if_two(0.5)(w) * _if_unused("moods", 1)(w), _use("mood")),
    Template("sit", "filler", "{lead}{some} sat down {seat} ({aside}).", _if_unused("asides", 0.7), _use("aside")),
    Template("think", "filler", "{lead}{some} {thought} {their} {matter}.", _always(1), _nothing),
    Template("weather", "filler", "{weather}", _if_unused("weather", 0.8), _use("weather")),
    Template("remark", "filler", '"{remark}" said {speaker}.', _if_unused("remarks", 1), _use("remark")),
    # the end
    Template("ending", "ending", "{close}{some} {ending}.", _always(1), _close),
    Template("moral", "moral", "{moral}", _always(1), _close),
)

GRAMMAR = Grammar(WORDS, TEMPLATES)
