"""The grammar: deterministic, unambiguous, its entropy exact; its stories short enough and well formed."""

import functools
import hashlib
import itertools
import math
import random
import re

import pytest

from underhood.base.errors import DataError
from underhood.data import tales
from underhood.data.tales import generate, probabilities
from underhood.data.tales_grammar import END, TEMPLATES, Grammar, Template, say
from underhood.data.tales_parse import derivations, parse
from underhood.data.tales_slots import SLOTS, slot_kind
from underhood.data.tales_words import WORDS, Setting, Words

HALL = Setting("hall", "in", ("on the mat", "by the door"), ("by the fire",), (("cat", "cats"),), (("near the cup", "near the cups"),))
TINY_WORDS = Words(
    girls=("Ann",),
    boys=("Bob",),
    settings=(HALL,),
    times=("Once",),
    natures=("kind",),
    things=("ball", "cup"),
    colours=("red", "blue"),
    pets=("dog",),
    pet_names=("Rex",),
    sizes=("small",),
    feelings=(("glad", ("it was noon",)),),
    favourites=("cats",),
    items=("nuts",),
    deeds=("sat", "ran", "ate"),
    conditions=("wet",),
    habits=(("sings", "sing"),),
    manners=("well",),
    thoughts=("thought of",),
    matters=("tea",),
    weather=("It was hot.",),
    remarks=("Oh!",),
    asides=("it was late",),
    moods=("tired",),
    endings=("left",),
    morals=("The end.",),
)
KEPT = ("child", "put", "like", "where", "colour", "what", "still", "still likes", "it was", "liked", "creature", "ending")
TINY = Grammar(TINY_WORDS, tuple(t for t in TEMPLATES if t.name in KEPT), body=2, most=3)  # tens of thousands of texts


@functools.cache
def all_texts(grammar: Grammar) -> list[tuple[str, float]]:
    """Every derivation of a small grammar: its text and its probability."""
    done: list[tuple[str, float]] = []
    todo = [("", 1.0, grammar.begin())]
    while todo:
        text, p, world = todo.pop()
        for template, share in grammar.next_sentence(world).items():
            if not isinstance(template, Template):
                assert template == END
                done.append((text, p * share))
                continue
            for line, q, said in all_lines(template, world):
                after = world.copy()
                say(template, after, said)
                todo.append((f"{text} {line}".lstrip(), p * share * q, after))
    return done


def all_lines(template: Template, world: object) -> list[tuple[str, float, dict[str, str]]]:
    lines: list[tuple[str, float, dict[str, str]]] = [("", 1.0, {})]
    for before, slot in template.parts:
        lines = [(text + before, p, said) for text, p, said in lines]
        if slot:
            lines = [
                (text + filler, p * q, {**said, slot: filler})
                for text, p, said in lines
                for filler, q in probabilities(SLOTS[slot_kind(slot)].options(world, said))  # type: ignore[arg-type]
            ]
    return lines


def test_the_same_seed_writes_the_same_stories() -> None:
    assert generate(20, 7) == generate(20, 7)
    assert generate(5, 7) == generate(20, 7)[:5]
    assert generate(5, 7) != generate(5, 8)


def test_version_1_is_frozen() -> None:
    """Records depend on it: whoever changes a text must change the version."""
    texts = "\n".join(story.text for story in generate(200, 0))
    assert tales.VERSION == 1
    assert hashlib.sha256(texts.encode()).hexdigest() == "cbc368f4de42fdd5a4d5156f23aa60bfb8885b7949f779322e77094074cf6db5"


def test_another_version_is_refused() -> None:
    with pytest.raises(DataError, match="version 2"):
        generate(1, 0, version=2)
    with pytest.raises(DataError, match="-1 stories"):
        generate(-1, 0)


@pytest.mark.parametrize("n", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_story_has_exactly_one_derivation(n: int) -> None:
    for story in generate(n, seed=11):
        assert list(derivations(story.text)) == [story]


def test_a_tiny_grammar_writes_no_text_in_two_ways_and_its_probabilities_add_up() -> None:
    texts = all_texts(TINY)
    assert len(texts) > 1000
    assert len({text for text, _ in texts}) == len(texts)
    assert math.isclose(sum(p for _, p in texts), 1.0, rel_tol=1e-9)


def test_the_parser_finds_each_text_of_the_tiny_grammar_with_its_probability() -> None:
    texts = all_texts(TINY)
    for text, p in random.Random(0).sample(texts, 200):
        (story,) = derivations(text, TINY)
        assert math.isclose(2**-story.bits, p, rel_tol=1e-9)


def test_drawn_stories_cost_on_average_the_exact_entropy() -> None:
    """The entropy by enumeration, −Σ p log2 p, against the mean bits of stories drawn at random."""
    entropy = -sum(p * math.log2(p) for _, p in all_texts(TINY))
    bits = [story.bits for story in generate(4000, seed=3, grammar=TINY)]
    mean = sum(bits) / len(bits)
    error = math.sqrt(sum((b - mean) ** 2 for b in bits) / len(bits) ** 2)
    assert abs(mean - entropy) < 4 * error
    assert error < 0.1


def test_the_tiny_grammar_is_drawn_as_often_as_it_says() -> None:
    p = dict(all_texts(TINY))
    likely = max(p, key=p.__getitem__)
    drawn = sum(story.text == likely for story in generate(4000, seed=5, grammar=TINY))
    expected = 4000 * p[likely]
    assert abs(drawn - expected) < 4 * math.sqrt(expected) + 1


def test_the_floor_counts_every_choice_and_the_end_mark() -> None:
    a, b = generate(2, 0)
    bits = -sum(math.log2(choice.p) for story in (a, b) for choice in story.choices)
    assert a.choices[-1].text == END
    assert tales.floor([a, b]) == pytest.approx(bits / (len(a.text) + 1 + len(b.text) + 1))


def test_a_story_by_hand() -> None:
    """Ten choices, whose probabilities can be read off the grammar."""
    story = parse("Ann was a kind girl who loved the hall. It was hot.", Grammar(TINY_WORDS, tuple(t for t in TEMPLATES if t.name in HAND), body=1, most=2))
    assert [(c.what, c.text, round(c.p, 3)) for c in story.choices] == [
        ("sentence", "child", 1.0),
        ("newname", "Ann", 0.5),
        ("nature", "kind", 1.0),
        ("child", "girl", 1.0),
        ("setting", "hall", 1.0),
        ("sentence", "weather", 1.0),
        ("weather", "It was hot.", 1.0),
        ("sentence", "end", 1.0),
    ]
    assert story.bits == 1.0


HAND = ("child", "weather")


@pytest.mark.parametrize("text", ["", "Mia", "Mia went home.", "It was under the bench.", "\x00\xff", "Once upon a time, there was a king."])
def test_what_is_no_tale_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="is no tale"):
        parse(text)


def test_a_changed_fact_is_no_tale() -> None:
    story = next(s for s in generate(100, 0) if any(c.what == "lies" for c in s.choices))
    where = next(c.text for c in story.choices if c.what == "lies")
    other = next(spot for setting in WORDS.settings if where in setting.spots for spot in setting.spots if spot != where)
    with pytest.raises(DataError, match="is no tale"):
        parse(story.text.replace(f"still {where}", f"still {other}"))


def test_stories_are_plain_and_of_the_promised_length() -> None:
    stories = [s.text for s in generate(2000, seed=13)]
    lengths = sorted(map(len, stories))
    assert all(re.fullmatch(r"[ -~]+", text) for text in stories)
    assert 200 < lengths[100] < lengths[1900] < 470
    assert lengths[-1] < 600


def test_a_vocabulary_of_512_tells_every_story_in_256_tokens() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=511, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([s.text for s in generate(1500, 0)], trainer)
    assert max(len(bpe.encode(s.text).ids) for s in generate(3000, seed=17)) + 2 <= 256


def test_names_and_words_collide_with_nothing() -> None:
    """No filler of a slot is another's beginning up to a space: what a reader sees is one choice."""
    for options in (WORDS.names, WORDS.things, WORDS.colours, WORDS.numbers, WORDS.pet_names, WORDS.items):
        assert len(set(options)) == len(options)
        assert not [(a, b) for a, b in itertools.permutations(options, 2) if b.startswith(a + " ")]


def test_the_lexicon_is_as_rich_as_promised() -> None:
    spots = {spot.split()[-1] for s in WORDS.settings for spot in (*s.spots, *s.seats)}
    creatures = {form for s in WORDS.settings for pair in (*s.creatures, *s.marks) for form in pair}
    nouns = spots | creatures | set(WORDS.things) | set(WORDS.pets) | set(WORDS.items) | set(WORDS.favourites)
    assert len(WORDS.names) >= 24
    assert len(nouns) >= 100
