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
        spots="under the bench, behind the shed, in the basket, beside the gate, on the wall, under the rose bush, in the flowerpot, behind the hedge",
        seats="under the old pear tree, on the lawn, near the roses",
        creatures="rabbit, bee, snail, robin",
        marks="flower, fence, apple tree, path",
    ),
    _setting(
        "park",
        "in",
        spots="under the slide, on the swing, behind the big oak, beside the fountain, in the sandpit, behind the statue, on the grass, in the bushes",
        seats="on a bench, under a tree, by the lake",
        creatures="dog, squirrel, pigeon, child/children",
        marks="kite, bench/benches, lamp post, pond",
    ),
    _setting(
        "beach",
        "at",
        spots="under the towel, in the bucket, behind the rock, beside the boat, on the pier, in the cave, under the umbrella, in the wet sand",
        seats="on the warm sand, on a big rock, near the water",
        creatures="crab, gull, seal, sailor",
        marks="wave, tent, shell, sandcastle",
    ),
    _setting(
        "farm",
        "on",
        spots="in the barn, behind the tractor, on the cart, under the hay, beside the well, in the stable, in the henhouse, behind the mill",
        seats="on a hay bale, by the fence, near the barn door",
        creatures="cow, goose/geese, pig, farmer",
        marks="haystack, field, duck pond, plough",
    ),
    _setting(
        "forest",
        "in",
        spots="in the hollow tree, under the bridge, behind the fallen log, beside the stream, on the stump, in the cabin, in the tall grass, under the ferns",
        seats="on a mossy log, under a tall tree, by the campfire",
        creatures="fox/foxes, owl, deer mouse/deer mice, hunter",
        marks="pine tree, trail, mushroom, stone",
    ),
    _setting(
        "kitchen",
        "in",
        spots="in the cupboard, on the shelf, under the table, behind the stove, beside the sink, in the drawer, on the windowsill, in the teapot",
        seats="at the table, near the window, by the warm oven",
        creatures="cat, mouse/mice, cook, visitor",
        marks="pot, plate, stool, oven",
    ),
    _setting(
        "library",
        "in",
        spots="on the desk, under the chair, behind the curtain, on the top shelf, beside the globe, in the book bag, on the stairs, under the rug",
        seats="in the soft chair, by the window, on the carpet",
        creatures="student, teacher, spider, reader",
        marks="bookcase, window, map, door",
    ),
    _setting(
        "market",
        "at",
        spots="under the stall, in the crate, on the counter, behind the barrels, beside the flower cart, in the sack, behind the tent, on the scales",
        seats="on an empty box, by the tea stall, near the fountain",
        creatures="baker, singer, pony/ponies, woman/women",
        marks="melon, basket, clown, lantern",
    ),
    _setting(
        "castle",
        "in",
        spots="in the tower, under the throne, behind the tapestry, on the drawbridge, beside the armour, in the wooden chest, in the well, under the stairs",
        seats="on the stone steps, by the fireplace, near the window",
        creatures="knight, guard, horse, prince/princes",
        marks="torch/torches, flag, cannon, arch/arches",
    ),
    _setting(
        "station",
        "at",
        spots="under the seat, on the platform, behind the ticket booth, in the suitcase, "
        "beside the clock, in the waiting room, on the trolley, in the letterbox",
        seats="on a bench, by the window, near the exit",
        creatures="porter, driver, passenger, man/men",
        marks="train, sign, ladder, signal",
    ),
)

WORDS = Words(
    girls=_list("Mia, Anna, Lucy, Emma, Sara, Nora, Ella, Ruth, Lily, Zoe, Ivy, Clara, Ada, Maya, Nina, Rosa, Tess, Jane, Kate, Meg, Olga, Hana, Fay, Dora"),
    boys=_list("Tom, Ben, Sam, Leo, Max, Jack, Oscar, Finn, Hugo, Noah, Omar, Paul, Adam, Luke, Ravi, Ted, Carl, Eric, Ivan, Joe, Kofi, Pete, Theo, Yusuf"),
    settings=SETTINGS,
    times=_list(
        "One sunny morning, One warm day, One cold morning, One windy day, One quiet afternoon, On Monday, On Saturday, Early one morning, "
        "Late one afternoon, After lunch, After school, One day in spring, One day in autumn, On a rainy day"
    ),
    natures=_list("kind, brave, quiet, clever, shy, cheerful, careful, funny"),
    things=_list(
        "ball, hat, kite, key, book, cup, doll, drum, bell, lamp, scarf, puzzle, ribbon, coin, whistle, spoon, mirror, notebook, paintbrush, shoe, "
        "glove, blanket, lantern, marble, feather, button, flute, jar, compass, rope"
    ),
    colours=_list("red, blue, green, yellow, purple, orange, pink, black, white, brown"),
    pets=_list("puppy, kitten, parrot, hamster, lizard, turtle, lamb, frog, goat, hedgehog"),
    pet_names=_list("Biscuit, Pepper, Shadow, Lucky, Muffin, Rocket, Ginger, Pickle, Bubbles, Domino, Noodle, Patch, Tiger, Waffle, Ziggy, Cocoa"),
    sizes=_list("small, young, clever, noisy, sleepy, gentle"),
    feelings=(
        ("happy", ("the sun was out", "there was cake for tea", "it was a holiday")),
        ("sad", ("the holiday was over", "the rain had spoiled the picnic", "a good friend had moved away")),
        ("scared", ("there was thunder", "it was very dark", "something had made a strange noise")),
        ("hungry", ("lunch was late", "there had been no breakfast", "the bread smelled so good")),
        ("tired", ("it had been a long walk", "the night had been short", "the hill was very steep")),
        ("angry", ("someone had broken the fence", "nobody wanted to share", "the others had not waited")),
        ("proud", ("the tower was finished", "the race was won", "the song had gone well")),
        ("bored", ("there was nothing to do", "the game was too easy", "the rain did not stop")),
    ),
    favourites=_list(
        "cats, dogs, horses, trains, stars, songs, stories, boats, puzzles, dinosaurs, flowers, kites, drums, robots, castles, snowmen, pancakes, "
        "cookies, mountains, rainbows"
    ),
    items=_list("apples, pears, plums, nuts, eggs, shells, stones, stamps, cards, coins, buns, carrots, cherries, acorns, pencils, feathers, beads, sweets"),
    deeds=(
        "fed the ducks",
        "climbed a tree",
        "drank some milk",
        "sang a song",
        "drew a picture",
        "washed the dishes",
        "picked some flowers",
        "read a story",
        "took a nap",
        "ate some soup",
        "chased a butterfly",
        "painted a fence",
        "built a tower",
        "planted a seed",
        "baked a cake",
        "rode a bike",
        "swept the floor",
        "fixed a chair",
        "told a joke",
        "wrote a letter",
        "made a crown",
        "played a game",
        "watched the clouds",
        "danced in a circle",
    ),
    conditions=_list("asleep, very loud, quite old, hungry, busy, wet, friendly, in a hurry, very calm, lost"),
    habits=_pairs("sings/sing, hides/hide, waits/wait, eats/eat, works/work, plays/play, rests/rest, moves/move"),
    manners=_list("every day, at night, all day long, in the morning, very quietly, when it rains"),
    thoughts=_list("talked about, thought of, forgot about, told a story about"),
    matters=_list("homework, holidays, old house, new school, toys, grandmother, dreams, favourite game, birthday, plans"),
    weather=(
        "The sun was warm.",
        "A cold wind blew.",
        "It began to rain.",
        "The sky was blue.",
        "Far away, a bell rang.",
        "The air smelled of rain.",
        "A cloud hid the sun.",
        "There was a rainbow.",
        "Everything was quiet.",
        "The leaves were falling.",
    ),
    remarks=(
        "What a fine day!",
        "Let us play a game!",
        "I have an idea!",
        "Did you hear that?",
        "Can we stay here?",
        "We must be careful!",
        "Shall we rest now?",
        "I know a secret!",
        "Look at the sky!",
        "Do you want a drink?",
    ),
    asides=(
        "it was nearly noon",
        "nobody was looking",
        "there was no hurry",
        "it was a good place to rest",
        "the day was still long",
        "it was quiet there",
        "this was the best seat",
        "it was getting late",
    ),
    moods=_list("a little tired, quite hungry, very warm, out of breath"),
    endings=(
        "went home",
        "said goodbye",
        "went home for supper",
        "fell asleep",
        "walked home in the dark",
        "went to bed early",
        "took the bus home",
        "ran all the way home",
    ),
    morals=(
        "It had been a good day.",
        "What a day it had been!",
        "Tomorrow would be another day.",
        "Nobody ever forgot that day.",
        "All was well.",
        "It was a day to remember.",
    ),
)
