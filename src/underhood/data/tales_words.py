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
    weather: tuple[str, ...]
    remarks: tuple[str, ...]
    asides: tuple[str, ...]
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


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """``"dog dogs, fox foxes"`` as pairs; a single word forms its plural with s."""
    split = [pair.split("/") for pair in text.split(", ")]
    return tuple((p[0], p[1] if len(p) > 1 else p[0] + "s") for p in split)


def _setting(name: str, at: str, spots: str, creatures: str, marks: str) -> Setting:
    near = tuple((f"near the {one}", f"near the {many}") for one, many in _pairs(marks))
    return Setting(name, at, tuple(spots.split(", ")), _pairs(creatures), near)


SETTINGS = (
    _setting(
        "garden",
        "in",
        "under the bench, behind the shed, in the basket, beside the gate, on the wall, under the rose bush, in the flowerpot, behind the hedge",
        "rabbit, bee, snail, robin",
        "flower, fence, apple tree, path",
    ),
    _setting(
        "park",
        "in",
        "under the slide, on the swing, behind the big oak, beside the fountain, in the sandpit, behind the statue, on the grass, in the bushes",
        "dog, squirrel, pigeon, child/children",
        "kite, bench/benches, lamp post, pond",
    ),
    _setting(
        "beach",
        "at",
        "under the towel, in the bucket, behind the rock, beside the boat, on the pier, in the cave, under the umbrella, in the wet sand",
        "crab, gull, seal, sailor",
        "wave, tent, shell, sandcastle",
    ),
    _setting(
        "farm",
        "on",
        "in the barn, behind the tractor, on the cart, under the hay, beside the well, in the stable, in the henhouse, behind the mill",
        "cow, goose/geese, pig, farmer",
        "haystack, field, duck pond, plough",
    ),
    _setting(
        "forest",
        "in",
        "in the hollow tree, under the bridge, behind the fallen log, beside the stream, on the stump, in the cabin, in the tall grass, under the ferns",
        "fox/foxes, owl, deer mouse/deer mice, hunter",
        "pine tree, trail, mushroom, stone",
    ),
    _setting(
        "kitchen",
        "in",
        "in the cupboard, on the shelf, under the table, behind the stove, beside the sink, in the drawer, on the windowsill, in the teapot",
        "cat, mouse/mice, cook, visitor",
        "pot, plate, stool, oven",
    ),
    _setting(
        "library",
        "in",
        "on the desk, under the chair, behind the curtain, on the top shelf, beside the globe, in the book bag, on the stairs, under the rug",
        "student, teacher, spider, reader",
        "bookcase, window, map, door",
    ),
    _setting(
        "market",
        "at",
        "under the stall, in the crate, on the counter, behind the barrels, beside the flower cart, in the sack, behind the tent, on the scales",
        "baker, singer, pony/ponies, woman/women",
        "melon, basket, clown, lantern",
    ),
    _setting(
        "castle",
        "in",
        "in the tower, under the throne, behind the tapestry, on the drawbridge, beside the armour, in the wooden chest, in the well, under the stairs",
        "knight, guard, horse, prince/princes",
        "torch/torches, flag, cannon, arch/arches",
    ),
    _setting(
        "station",
        "at",
        "under the seat, on the platform, behind the ticket booth, in the suitcase, beside the clock, in the waiting room, on the trolley, in the letterbox",
        "porter, driver, passenger, man/men",
        "train, sign, ladder, signal",
    ),
)

WORDS = Words(
    girls=tuple(["Mia", "Anna", "Lucy", "Emma", "Sara", "Nora", "Ella", "Ruth", "Lily", "Zoe", "Ivy", "Clara", "Ada", "Maya", "Nina", "Rosa", "Tess", "Jane", "Kate", "Meg", "Olga", "Hana", "Fay", "Dora"]),
    boys=tuple(["Tom", "Ben", "Sam", "Leo", "Max", "Jack", "Oscar", "Finn", "Hugo", "Noah", "Omar", "Paul", "Adam", "Luke", "Ravi", "Ted", "Carl", "Eric", "Ivan", "Joe", "Kofi", "Pete", "Theo", "Yusuf"]),
    settings=SETTINGS,
    times=tuple(
        ["One sunny morning", "One warm day", "One cold morning", "One windy day", "One quiet afternoon", "On Monday", "On Saturday", "Early one morning", "Late one afternoon", "After lunch", "After school", "One day in spring", "One day in autumn", "On a rainy day"]
    ),
    natures=tuple(["kind", "brave", "quiet", "clever", "shy", "cheerful", "careful", "funny"]),
    things=tuple(
        ["ball", "hat", "kite", "key", "book", "cup", "doll", "drum", "bell", "lamp", "scarf", "puzzle", "ribbon", "coin", "whistle", "spoon", "mirror", "notebook", "paintbrush", "shoe", "glove", "blanket", "lantern", "marble", "feather", "button", "flute", "jar", "compass", "rope"]
    ),
    colours=tuple(["red", "blue", "green", "yellow", "purple", "orange", "pink", "black", "white", "brown"]),
    pets=tuple(["puppy", "kitten", "parrot", "hamster", "lizard", "turtle", "lamb", "frog", "goat", "hedgehog"]),
    pet_names=tuple(["Biscuit", "Pepper", "Shadow", "Lucky", "Muffin", "Rocket", "Ginger", "Pickle", "Bubbles", "Domino", "Noodle", "Patch", "Tiger", "Waffle", "Ziggy", "Cocoa"]),
    sizes=tuple(["small", "young", "clever", "noisy", "sleepy", "gentle"]),
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
    favourites=tuple(
        ["cats", "dogs", "horses", "trains", "stars", "songs", "stories", "boats", "puzzles", "dinosaurs", "flowers", "kites", "drums", "robots", "castles", "snowmen", "pancakes", "cookies", "mountains", "rainbows"]
    ),
    items=tuple(["apples", "pears", "plums", "nuts", "eggs", "shells", "stones", "stamps", "cards", "coins", "buns", "carrots", "cherries", "acorns", "pencils", "feathers", "beads", "sweets"]),
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
    conditions=tuple(["asleep", "very loud", "quite old", "hungry", "busy", "wet", "friendly", "in a hurry", "very calm", "lost"]),
    habits=_pairs("sings/sing, hides/hide, waits/wait, eats/eat, works/work, plays/play, rests/rest, moves/move"),
    manners=tuple(["every day", "at night", "all day long", "in the morning", "very quietly", "when it rains"]),
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
        "this took a long time",
        "it was hard work",
        "there was no hurry",
        "the ground was still wet",
        "it was a good place to sit",
        "the grass was soft there",
    ),
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
