"""Reading a tale back: every derivation of a text, of which the grammar promises one.

The writer's walk with the draws replaced by a search: each allowed sentence, each allowed filler that the text goes on with.
"""

from collections.abc import Iterator

from underhood.base.errors import DataError
from underhood.data.tales import Choice, Story, probabilities
from underhood.data.tales_grammar import GRAMMAR, Grammar, Template, say
from underhood.data.tales_slots import SLOTS, slot_kind
from underhood.data.tales_world import World

Read = tuple[int, dict[str, str], tuple[Choice, ...]]  # where the text goes on, the slots filled, the choices


def parse(text: str, grammar: Grammar = GRAMMAR) -> Story:
    """The one derivation of ``text``: equal, choice for choice, to the story that was written. Raises ``DataError`` if it is no tale."""
    found = list(derivations(text, grammar))
    if not found:
        raise DataError(f"{text[:60]!r} … is no tale", expected="a whole story of this grammar", remedy="`score` reads texts that are not.")
    assert len(found) == 1, f"the grammar is ambiguous: {len(found)} derivations of {text!r}"
    return found[0]


def derivations(text: str, grammar: Grammar = GRAMMAR) -> Iterator[Story]:
    """Every way in which the grammar writes ``text``."""
    yield from _from(text, 0, grammar.begin(), (), grammar)


def _from(text: str, at: int, world: World, choices: tuple[Choice, ...], grammar: Grammar) -> Iterator[Story]:
    for template, p in grammar.next_sentence(world).items():
        if not isinstance(template, Template):
            if at == len(text):
                yield Story(text, (*choices, Choice("sentence", template, p)))
            continue
        start = at + 1 if at else 0
        if at and text[at:start] != " ":
            continue
        for end, said, filled in _sentence(text, start, template, world):
            after = world.copy()
            say(template, after, said)
            yield from _from(text, end, after, (*choices, Choice("sentence", template.name, p), *filled), grammar)


def _sentence(text: str, at: int, template: Template, world: World) -> Iterator[Read]:
    """Every way to read ``template`` at ``text[at:]``."""
    reads: list[Read] = [(at, {}, ())]
    for before, slot in template.parts:
        reads = [(at + len(before), said, filled) for at, said, filled in reads if text.startswith(before, at)]
        if slot:
            reads = [go_on for read in reads for go_on in _slot(text, slot, world, read)]
    yield from reads


def _slot(text: str, slot: str, world: World, read: Read) -> Iterator[Read]:
    at, said, filled = read
    for filler, p in probabilities(SLOTS[slot_kind(slot)].options(world, said)):
        if text.startswith(filler, at):
            yield at + len(filler), {**said, slot: filler}, (*filled, Choice(slot, filler, p))
