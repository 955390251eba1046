"""The words of ``tales``: people, places, things, feelings and deeds that its sentences are filled with.

Everything is ASCII, so that a character is a byte. A smaller ``Words`` makes a smaller language: tests use one whose every story can be listed.
"""

import dataclasses
from functools import cached_property


@dataclasses.dataclass(frozen=True)
class Setting:
    """A place where a story happens: what one says of being there, where things can be put, and who else is there (singular, plural)."""

    name: str
    at: str  # "in", "at" or "on": «they were at the beach»
    spots: tuple[str, ...]  # «under the bench»
    seats: tuple[str, ...]  # where a person can sit
    creatures: tuple[tuple[str, str], ...]
    marks: tuple[tuple[str, str], ...]  # what a creature can be near; its number must not mislead the verb


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    """The vocabulary of one language of tales."""

    girls: tuple[str, ...]
    boys: tuple[str, ...]
    settings: tuple[Setting, ...]
    times: tuple[str, ...]
    natures: tuple[str, ...]
    things: tuple[str, ...]
    colours: tuple[str, ...]
    pets: tuple[str, ...]
    pet_names: tuple[str, ...]
    sizes: tuple[str, ...]
    feelings: tuple[tuple[str, tuple[str, ...]], ...]  # a feeling and its possible reasons
    favourites: tuple[str, ...]
    items: tuple[str, ...]  # counted, in the plural
    deeds: tuple[str, ...]  # in the past tense, without a subject
    conditions: tuple[str, ...]  # what a creature was
    habits: tuple[tuple[str, str], ...]  # what a creature does: (singular, plural) in the present tense
    manners: tuple[str, ...]
    thoughts: tuple[str, ...]  # «talked about»
    matters: tuple[str, ...]  # «her homework»
    weather: tuple[str, ...]
    remarks: tuple[str, ...]
    asides: tuple[str, ...]
    moods: tuple[str, ...]
    endings: tuple[str, ...]
    morals: tuple[str, ...]
    numbers: tuple[str, ...] = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

    @cached_property
    def names(self) -> tuple[str, ...]:
        return self.girls + self.boys

    @cached_property
    def female(self) -> frozenset[str]:
        return frozenset(self.girls)

    @cached_property
    def heads(self) -> dict[str, tuple[str, ...]]:
        """Setting to the creatures there, singular and plural alike."""
        return {s.name: tuple(form for pair in s.creatures for form in pair) for s in self.settings}

    @cached_property
    def near(self) -> dict[str, tuple[str, ...]]:
        return {s.name: tuple(form for pair in s.marks for form in pair) for s in self.settings}

    @cached_property
    def plurals(self) -> frozenset[str]:
        return frozenset(plural for s in self.settings for _, plural in s.creatures)

    @cached_property
    def setting(self) -> dict[str, Setting]:
        return {s.name: s for s in self.settings}

    @cached_property
    def reasons(self) -> dict[str, tuple[str, ...]]:
        return dict(self.feelings)


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """``"dog, fox/foxes"`` as (singular, plural); a word alone adds an s."""
    split = [pair.split("/") for pair in text.split(", ")]
    return tuple((p[0], p[1] if len(p) > 1 else p[0] + "s") for p in split)


def _setting(name: str, at: str, **lists: str) -> Setting:
    near = tuple((f"near the {one}", f"near the {many}") for one, many in _pairs(lists["marks"]))
    return Setting(name, at, _list(lists["spots"]), _list(lists["seats"]), _pairs(lists["creatures"]), near)


SETTINGS = (
    _setting(
        "garden",
        "in",
        spots="under the bench, behind the shed, in the basket, by the gate, on the wall, under the bush",
        seats="on the grass, near the roses",
        creatures="rabbit, bee, snail",
        marks="flower, tree, wall",
    ),
    _setting(
        "park",
        "in",
        spots="under the slide, on the swing, behind the tree, by the pond, in the sand, under the bench",
        seats="on the grass, by the water",
        creatures="dog, duck, child/children",
        marks="kite, tree, flower",
    ),
    _setting(
        "beach",
        "at",
        spots="under the towel, in the bucket, behind the rock, by the boat, on the sand, in the cave",
        seats="on the rocks, by the water",
        creatures="crab, gull, sailor",
        marks="wave, rock, boat",
    ),
    _setting(
        "farm",
        "on",
        spots="in the barn, behind the cart, on the hay, by the well, under the cart, on the wall",
        seats="on the grass, by the fire",
        creatures="cow, goose/geese, pig",
        marks="field, tree, pond",
    ),
    _setting(
        "kitchen",
        "in",
        spots="on the shelf, under the table, behind the pot, by the sink, in the box, in the basket",
        seats="at the table, by the fire",
        creatures="cat, mouse/mice, cook",
        marks="pot, plate, box/boxes",
    ),
    _setting(
        "market",
        "at",
        spots="under the table, in the box, behind the cart, by the clock, in the basket, on the shelf",
        seats="on the steps, near the clock",
        creatures="baker, pony/ponies, woman/women",
        marks="basket, clown, lamp",
    ),
    _setting(
        "castle",
        "in",
        spots="in the tower, under the bed, behind the door, on the stairs, by the well, in the box",
        seats="on the steps, by the fire",
        creatures="knight, horse, king",
        marks="flag, door, lamp",
    ),
    _setting(
        "station",
        "at",
        spots="under the seat, on the shelf, behind the door, by the clock, in the box, on the stairs",
        seats="on the steps, near the clock",
        creatures="driver, guard, man/men",
        marks="train, sign, clock",
    ),
)

WORDS = Words(
    girls=_list("Mia, Anna, Lucy, Emma, Sara, Nora, Ella, Ruth, Lily, Zoe, Ivy, Rosa, Jane, Kate, Meg, Dora"),
    boys=_list("Tom, Ben, Sam, Leo, Max, Jack, Finn, Hugo, Noah, Omar, Paul, Luke, Ted, Carl, Ivan, Joe"),
    settings=SETTINGS,
    times=_list("One sunny day, One cold day, One quiet morning, One warm morning, After lunch, After school, On Monday, On Sunday"),
    natures=_list("kind, brave, quiet, clever, shy, happy"),
    things=_list("ball, hat, kite, key, book, cup, doll, drum, bell, lamp, ring, coin, spoon, shoe, map, flute, jar, rope"),
    colours=_list("red, blue, green, yellow, orange, pink, black, white"),
    pets=_list("puppy, kitten, parrot, lizard, turtle, lamb, frog, goat"),
    pet_names=_list("Pepper, Shadow, Lucky, Muffin, Rocket, Ginger, Bubbles, Patch, Tiger, Cocoa"),
    sizes=_list("small, young, clever, quiet"),
    feelings=(
        ("happy", ("the sun was out", "there was cake", "it was a holiday")),
        ("sad", ("the day was over", "the rain had come", "a friend had gone")),
        ("scared", ("there was a storm", "it was very dark", "a dog had come")),
        ("hungry", ("lunch was late", "there was no lunch", "the cake was gone")),
        ("tired", ("it was very late", "the night was short", "the work was hard")),
        ("proud", ("the work was done", "the race was won", "the song was good")),
    ),
    favourites=_list("cats, dogs, horses, trains, stars, songs, stories, boats, flowers, kites, drums, castles"),
    items=_list("apples, pears, plums, nuts, eggs, shells, stones, cards, coins, cakes, cookies, pencils"),
    deeds=_list(
        "fed the ducks, climbed a tree, drank some milk, sang a song, drew a cat, washed the cups, picked a flower, read a story, took a nap, "
        "ate some cake, painted a box, built a tower, baked a cake, told a story, wrote a song, played a game"
    ),
    conditions=_list("asleep, very loud, very old, hungry, busy, wet, quiet, lost"),
    habits=_pairs("sings/sing, hides/hide, waits/wait, eats/eat, works/work, plays/play"),
    manners=_list("every day, at night, all day, in the morning"),
    thoughts=_list("talked about, thought of, forgot"),
    matters=_list("school, old house, toys, lunch, dreams, game, birthday, work"),
    weather=("The sun was warm.", "A cold wind blew.", "The rain had come.", "The sky was blue.", "A bell rang.", "It was very quiet."),
    remarks=("What a fine day!", "Let us play a game!", "Did you hear that?", "We must be quiet!", "Look at the sky!", "I know a good story!"),
    asides=("it was very quiet there", "nobody was there", "it was late", "the day was warm", "it was a good place"),
    moods=_list("very tired, quite hungry, very warm"),
    endings=("went home", "said goodbye", "went home for lunch", "fell asleep", "went to bed", "took the train home"),
    morals=("It was a good day.", "What a day it was!", "All was well.", "Nobody forgot that day."),
)
