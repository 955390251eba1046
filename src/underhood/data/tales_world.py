"""What a tale has said so far: who is in it, what is true, and what was just asked. Sentences read it and change it."""

import dataclasses

from underhood.data.tales_words import Words

PRONOUNS = ("she", "he", "they")
BOTH = "both"  # the topic of a sentence about two people


@dataclasses.dataclass(frozen=True)
class Fact:
    """Something a sentence said: its value, the number of that sentence, and whether the tale has come back to it."""

    value: str
    at: int
    asked: bool = False
    note: str = ""  # what is counted, or what a feeling is due to


NONE: dict[str, Fact] = {}


@dataclasses.dataclass
class World:
    """The state from which the next sentence is drawn; derived from the text alone, so that a reader can follow it."""

    words: Words
    setting: str = ""
    cast: tuple[str, ...] = ()
    topic: str = ""  # whom «she», «he» or «they» would be: a name, BOTH or nobody
    facts: dict[str, dict[str, Fact]] = dataclasses.field(default_factory=dict)  # kind -> whom or what -> fact
    used: frozenset[str] = frozenset()  # weather, asides and the like are said once
    pending: tuple[str, str, str] | None = None  # a question that waits for its answer: (kind, whom or what, who asks)
    n: int = 0  # sentences so far
    length: int = 0  # characters so far
    recalls: int = 0
    closing: int = 0  # 1 after the ending, 2 after the moral

    def copy(self) -> "World":
        return dataclasses.replace(self, facts={kind: dict(facts) for kind, facts in self.facts.items()})

    def state(self, kind: str, about: str, value: str, *, note: str = "", asked: bool = False) -> None:
        """This sentence says a new fact; one about nobody (a reader who lost track) is not kept."""
        if about:
            self.facts.setdefault(kind, {})[about] = Fact(value, self.n, asked, note)

    def recall(self, kind: str, about: str) -> None:
        """This sentence comes back to a fact; it will not be asked for again."""
        self.recalls += 1
        fact = self.fact(kind, about)
        if fact:
            self.facts[kind][about] = dataclasses.replace(fact, asked=True)

    def fact(self, kind: str, about: str) -> Fact | None:
        return self.facts.get(kind, NONE).get(about)

    def about(self, kind: str) -> tuple[str, ...]:
        """Whom or what there is a fact of this kind about."""
        return tuple(self.facts.get(kind, NONE))

    def open(self, kind: str) -> tuple[str, ...]:
        """The same, where the tale has not come back to the fact yet."""
        return tuple(about for about, fact in self.facts.get(kind, NONE).items() if not fact.asked)

    def values(self, kind: str) -> set[str]:
        return {fact.value for fact in self.facts.get(kind, NONE).values()}

    def pronoun(self, name: str) -> str:
        """ "she", "he", or "they" for two; an unknown name goes by "they" too."""
        if name in self.words.female:
            return "she"
        return "he" if name in self.words.boys else "they"

    def person(self, text: str) -> str:
        """Whom a subject names: a name as it is, a pronoun by the topic, ``BOTH``, or nobody ("")."""
        if text.lower() == "they":
            return BOTH
        if text.lower() in ("she", "he"):
            return self.topic if self.topic != BOTH else ""
        return text

    def refers(self, pronoun: str) -> bool:
        """Whether a pronoun at the head of a sentence means somebody: «they» two people, «she» and «he» the topic."""
        if pronoun.lower() == "they":
            return len(self.cast) > 1
        return bool(self.topic) and self.pronoun(self.topic) == pronoun.lower()
