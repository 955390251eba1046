"""The automaton, and the grammar of JSON: what it accepts is what Python's parser accepts, byte by byte."""

import functools
import itertools
import json
import math
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.infer import grammar
from underhood.infer.grammar import Automaton, Grammar, Item, SchemaError, State, Words, finished, remaining
from underhood.infer.grammar_json import Json


def settled(g: Grammar, root: Item) -> Automaton:
    g.settle()
    return Automaton(root)


def follow(automaton: Automaton, text: bytes) -> State | None:
    """The state after ``text``; None where it leads nowhere."""
    state = automaton.start
    for byte in text:
        following = automaton.after(state)
        if byte not in following:
            return None
        state = following[byte]
    return state


def accepts(automaton: Automaton, text: str | bytes) -> bool:
    state = follow(automaton, text.encode() if isinstance(text, str) else text)
    return state is not None and finished(state)


def language(automaton: Automaton, most: int = 10_000) -> list[str]:
    """All texts of a finite grammar."""
    found, queue = [], [(b"", automaton.start)]
    while queue:
        text, state = queue.pop()
        found += [text.decode()] * finished(state)
        queue += [(text + bytes([byte]), following) for byte, following in automaton.after(state).items()]
        assert len(found) + len(queue) < most
    return sorted(found)


def json_automaton(make: "Any") -> Automaton:
    g = Grammar()
    return settled(g, make(Json(g)))


@pytest.fixture(scope="module")
def any_value() -> Automaton:
    return json_automaton(lambda j: j.any_value)


@pytest.fixture(scope="module")
def any_string() -> Automaton:
    return json_automaton(lambda j: j.any_string)


# ── the items ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_items_by_hand() -> None:
    g = Grammar()
    words, letter = g.words([b"to", b"toe", b"tea"]), g.byte(b"xy")
    root = g.seq(g.repeat(letter, 1, 2), g.alt(words, g.optional(g.text("!"))))
    heads = ["x", "y", *map("".join, itertools.product("xy", repeat=2))]
    assert language(settled(g, root)) == sorted(a + b for a in heads for b in ("to", "toe", "tea", "", "!"))


def test_remaining_is_the_shortest_way_to_an_end() -> None:
    g = Grammar()
    automaton = settled(g, g.seq(g.repeat(g.text("ab"), 3, 5), g.words([b"long", b"no"])))
    assert [
        remaining(state) for state in (automaton.start, follow(automaton, b"aba"), follow(automaton, b"ababab"), follow(automaton, b"abababn")) if state
    ] == [8, 5, 2, 1]


def test_rules_may_hold_themselves() -> None:
    """S → ( S ) S | nothing: balanced brackets."""
    g = Grammar()
    rule = g.rule()
    rule.body = g.optional(g.seq(g.text("("), rule, g.text(")"), rule))
    automaton = settled(g, rule)
    for text in map("".join, itertools.product("()", repeat=6)):
        depths = list(itertools.accumulate(1 if c == "(" else -1 for c in text))
        assert accepts(automaton, text) == (min(depths) >= 0 and depths[-1] == 0)


def test_a_rule_that_is_itself_has_no_text() -> None:
    g = Grammar()
    rule = g.rule()
    rule.body = rule
    both = g.alt(rule, g.text("x"))
    g.settle()
    assert rule.least == math.inf
    assert language(Automaton(both)) == ["x"]


def chain(g: Grammar, links: int) -> Item:
    """Rules of which each stands for the next, the last for one letter; each is made before what it stands for."""
    rules = [g.rule() for _ in range(links)]
    for rule, following in zip(rules, [*rules[1:], g.text("x")], strict=True):
        rule.body = g.seq(following, g.text("y"))
    return rules[0]


@pytest.mark.parametrize("links", [40, 400])
def test_settling_measures_each_item_once(links: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of references used to gain one link a pass over all items."""
    g, counted = Grammar(), [0]
    root = chain(g, links)
    for kind in (grammar.Words, grammar.Seq, grammar.Rule):

        def measure(item: Item, plain: Any = kind.measure) -> float:
            counted[0] += 1
            return float(plain(item))

        monkeypatch.setattr(kind, "measure", measure)
    g.settle()
    assert root.least == links + 1
    assert counted[0] <= len(g.items)


PARTS = st.lists(st.tuples(st.sampled_from(["seq", "alt", "repeat", "word"]), st.lists(st.integers(0, 11), max_size=3), st.integers(0, 3)), max_size=12)


@given(PARTS)
def test_settling_finds_the_least_solution(parts: list[tuple[str, list[int], int]]) -> None:
    """As measuring all of them over and over until nothing changes does, in any grammar whose rules stand inside each other."""
    g = Grammar()
    rules = [g.rule() for _ in range(12)]
    for rule, (kind, inner, number) in zip(rules, parts, strict=False):
        held = [rules[k] for k in inner]
        if kind == "seq":
            rule.body = g.seq(*held)
        elif kind == "alt":
            rule.body = g.alt(*held)
        else:
            rule.body = g.repeat(held[0], number, 2) if held and kind == "repeat" else g.text("a" * number)
    g.settle()
    found = [item.least for item in g.items]
    for item in g.items:
        item.least = math.inf
    for _ in g.items:
        for item in g.items:
            item.least = item.measure()
    assert found == [item.least for item in g.items]


def test_states_of_one_meaning_are_equal() -> None:
    """Otherwise nothing could be kept: after ``[1,`` and after ``[12,`` the same may follow."""
    g = Grammar()
    automaton = settled(g, Json(g).any_array)
    assert follow(automaton, b"[1,") == follow(automaton, b'["a", [],') != follow(automaton, b"[[1,")


def test_counts_cost_nothing() -> None:
    g = Grammar()
    automaton = settled(g, g.repeat(g.byte(b"x"), 0, 10**9))
    state = follow(automaton, b"x" * 100)
    assert state is not None
    assert finished(state)
    assert len(g.items) == 2


def test_too_many_items_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "MOST_ITEMS", 3)
    g = Grammar()
    with pytest.raises(SchemaError, match="more than 3 parts"):
        g.seq(g.text("a"), g.text("b"), g.text("c"))


def test_nesting_is_bounded_and_can_be_ended(any_value: Automaton) -> None:
    state, depth = any_value.start, 0
    while ord("[") in (following := any_value.after(state)):
        state, depth = following[ord("[")], depth + 1
        assert depth < 100
    assert depth > 30
    text = b"[" * depth
    while remaining(state):
        byte, state = min(any_value.after(state).items(), key=lambda pair: (remaining(pair[1]), pair[0]))
        text += bytes([byte])
    json.loads(text)


def test_ambiguity_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two readings of every bracket would be 2¹⁰⁰ after a hundred."""
    monkeypatch.setattr(grammar, "MOST_READINGS", 64)
    g = Grammar()
    rule = g.rule()
    brackets = [g.seq(g.text("["), rule, g.text("]")) for _ in range(2)]
    rule.body = g.alt(*brackets, g.text("x"))
    automaton = settled(g, rule)
    state = follow(automaton, b"[" * 60)
    assert state is not None
    assert len(state) <= 64
    state = follow(automaton, b"[" * 60 + b"x" + b"]" * 60)
    assert state is not None
    assert finished(state)


def test_forgetting_changes_nothing(any_value: Automaton) -> None:
    text = b'{"a": [1, {"b": "\xc3'
    before = follow(any_value, text)
    any_value.forget()
    assert before is not None
    assert set(any_value.after(before)) == set(range(0x80, 0xC0))
    assert set(any_value.after(before)) == set(any_value.after(follow(any_value, text) or ()))


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

LEAVES = st.none() | st.booleans() | st.integers(-(10**15) + 1, 10**15 - 1) | st.floats(-1e99, 1e99).filter(lambda x: abs(x) > 1e-99) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.booleans(), st.booleans())
def test_what_python_writes_is_accepted(any_value: Automaton, value: Any, ascii_only: bool, tight: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":") if tight else None, allow_nan=False)
    if not any(len(part) > 17 for part in text.replace("-", "").replace(".", "").split() if part.isdigit()) and _short_numbers(value):
        assert accepts(any_value, text)


def _short_numbers(value: Any) -> bool:
    """Python writes 17 digits of some doubles; the grammar has 15 on each side of the point."""
    if isinstance(value, dict | list):
        return all(map(_short_numbers, value.values() if isinstance(value, dict) else value))
    if not isinstance(value, float):
        return True
    whole, _, rest = repr(value).lower().partition("e")[0].lstrip("-").partition(".")
    return len(whole) <= 15 and len(rest) <= 15


INVALID = [
    *("", "tru", "01", "-01", "1.", ".5", "+1", "1e", "1e+", "0x1", "NaN", "Infinity", "-", "--1", "'a'", '"', '"a', '"\n"', '"\t"', '"\\x41"', '"\\u12"'),
    *("[1,]", "[,1]", "[1 2]", "[", "]", "[1}", '{"a":}', '{"a"}', "{a:1}", '{"a":1,}', "{1:2}", '{"a":1 "b":2}', "1 2", "[1]]", "nulll", "//", "[1,,2]"),
    *('"\\ud800"', '"\\ud800\\u0041"', '"\\udc00"', '"\\ud83d"', '"\\ud83dx"'),
]


@pytest.mark.parametrize("text", INVALID)
def test_what_is_no_json_is_not(any_value: Automaton, text: str) -> None:
    assert not accepts(any_value, text)


@pytest.mark.parametrize(
    "text", ['"\\ud83d\\ude00"', '"\\uD83D\\uDE00"', '"\\u00e9\\n\\/"', '"é😀\x7f"', "-0", "-0.5e-07", "1E9", "[ ]".replace(" ", ""), '{"":""}']
)
def test_rarer_json(any_value: Automaton, text: str) -> None:
    json.loads(text)
    assert accepts(any_value, text)


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_strings_are_well_formed_utf8(any_string: Automaton) -> None:
    """After every first byte exactly the second bytes of Python's own decoder, after both the right third ones, and so on."""
    begun = any_string.after(any_string.start)[ord('"')]
    following = functools.cache(any_string.after)
    ends = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    assert set(following(begun)) & set(range(0x80, 256)) == set(range(0xC2, 0xF5))
    for first in range(0xC2, 0xF5):
        after_one = following(following(begun)[first])
        assert set(after_one) == {second for second in range(256) if any(is_utf8(bytes([first, second]) + rest) for rest in (b"", b"\x80", b"\x80\x80"))}
        for second in after_one.keys() & set(ends):
            after_two = following(after_one[second])
            for third in ends:
                text = bytes([first, second, third])
                assert first < 0xE0 or (third in after_two) == (is_utf8(text) or is_utf8(text + b"\x80"))
    assert is_utf8(b"\xf0\x90\x80\x80") and accepts(any_string, b'"\xf0\x90\x80\x80"')  # noqa: PT018
    assert not accepts(any_string, b'"\xf0\x90\x80"')


def test_characters_are_counted_as_python_counts() -> None:
    three = json_automaton(lambda j: j.string(3, 3))
    for text in ("abc", "aé😀", '"\\\n', "\u0000\ud83d\ude00x".encode("utf-16", "surrogatepass").decode("utf-16"), "\U0010ffff\ud7ff\ue000"):
        assert len(text) == 3
        for ascii_only in (True, False):
            assert accepts(three, json.dumps(text, ensure_ascii=ascii_only))
    for text in ("", "ab", "abcd", "é😀"):
        assert not accepts(three, json.dumps(text))


def test_whole_numbers_between_bounds_are_all_there_and_no_others() -> None:
    bounds = [-1000, -101, -100, -99, -10, -9, -1, 0, 1, 9, 10, 11, 99, 100, 105, 999, 1001]
    for low, high in itertools.product(bounds, repeat=2):
        g = Grammar()
        root = Json(g).integer(low, high)
        g.settle()
        if low > high:
            assert root.least == math.inf
        else:
            assert language(Automaton(root)) == sorted(str(n) for n in range(low, high + 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(-(10**14), 10**14), st.integers(0, 10**14), st.data())
def test_whole_numbers_between_large_bounds(low: int, width: int, data: st.DataObject) -> None:
    automaton = json_automaton(lambda j: j.integer(low, low + width))
    near = st.sampled_from([low, low + width]).flatmap(lambda bound: st.integers(bound - 3, bound + 3))
    n = data.draw(near | st.integers(low - width, low + 2 * width))
    assert accepts(automaton, str(n)) == (low <= n <= low + width)


def write_at_random(automaton: Automaton, rng: random.Random, most: int = 60) -> str:
    """A text of random bytes, towards an end after ``most``."""
    state, text = automaton.start, b""
    while not (finished(state) and (rng.random() < 0.3 or not automaton.after(state))):
        following = sorted(automaton.after(state).items())
        byte, state = rng.choice(following) if len(text) < most else min(following, key=lambda pair: remaining(pair[1]))
        text += bytes([byte])
    return text.decode()


@pytest.mark.parametrize("bounds", [(0, math.inf), (-math.inf, 0), (-1, 1), (0.5, 7.25), (-3.5, -0.5), (-math.inf, 12.5), (999999999.5, math.inf)])
@pytest.mark.parametrize("strict", [False, True])
def test_numbers_stay_within_their_bounds(bounds: tuple[float, float], strict: bool) -> None:
    automaton, rng = json_automaton(lambda j: j.number(*bounds, strict, strict)), random.Random(1)
    found = [float(write_at_random(automaton, rng)) for _ in range(300)]
    low, high = bounds
    assert all(low < x < high if strict else low <= x <= high for x in found)
    assert len(set(found)) > 3
    assert low > 10**8 or any(x != int(x) for x in found), "not only whole ones"


def test_other_names_are_not_those_taken() -> None:
    names = ["a", "ab", "abc", "é", "éa", "è", "", 'quote"', "line\n", "\n", "x" * 100]
    automaton = json_automaton(lambda j: j.other_name(names))
    for name in names:
        assert not accepts(automaton, json.dumps(name, ensure_ascii=False))
        assert not accepts(automaton, json.dumps(name))
    for text in ('"\n"', '"line\nx"', '"quote""', '"quote"x"', '"a"'):
        assert not accepts(automaton, text)
    for name in ("b", "abcd", "ac", "x", "x" * 99, "x" * 101, "éab", "ü😀", "quote", "A"):
        assert accepts(automaton, json.dumps(name, ensure_ascii=False)) == (name[0] != "ü"), "beginnings that share a byte with a name's are left out"
    rng = random.Random(0)
    assert not {json.loads(write_at_random(automaton, rng)) for _ in range(60)} & set(names)


def test_long_names_are_refused() -> None:
    with pytest.raises(SchemaError, match="300 characters"):
        Json(Grammar()).other_name(["x" * 300])


def test_many_alternatives_are_all_kept() -> None:
    automaton = json_automaton(lambda j: j.grammar.alt(*(j.object([(f"p{k}", j.digit, False), ("q", j.quote, False)], None) for k in range(600))))
    for k in (0, 300, 599):
        assert accepts(automaton, f'{{"p{k}":1}}')


def test_a_byte_costs_nothing_for_the_words_that_it_leaves_out() -> None:
    """What is kept is found without a look at the whole list."""

    class Listed(tuple[bytes, ...]):
        def __hash__(self) -> int:
            raise AssertionError("the list is hashed")

    words = Listed([b"ab", b"ac", b"b"])
    g = Grammar()
    automaton = settled(g, g.add(Words(words, 0, 0, len(words))))
    assert language(automaton) == ["ab", "ac", "b"]
    assert automaton.after(automaton.start) == automaton.after(automaton.start)


def test_words_are_split_without_a_look_at_each() -> None:
    looks = 0

    class Listed(tuple[bytes, ...]):
        def __getitem__(self, at: Any) -> Any:
            nonlocal looks
            looks += 1
            return super().__getitem__(at)

    words = [b"", *(f"{head}{k:04}".encode() for head in "abc" for k in range(1000))]
    assert Words(Listed(words), 0, 0, len(words)).split() == {97: (1, 1001), 98: (1001, 2001), 99: (2001, 3001)}
    assert looks < 100
    narrow = Words(tuple(words), 1, 1, 1001)
    assert (narrow.split(), narrow.measure()) == ({48: (1, 1001)}, 4)


def test_a_thousand_optional_properties() -> None:
    start = time.monotonic()
    automaton = json_automaton(lambda j: j.object([(f"p{k}", j.digit, False) for k in range(1000)], None))
    assert accepts(automaton, '{"p0": 1, "p500":2,"p999":3}')
    assert not accepts(automaton, '{"p500": 1, "p0": 1}')
    assert time.monotonic() - start < 5
