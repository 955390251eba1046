"""Grammars over bytes, and the automaton that follows all their readings at once while a text grows byte by byte.

A grammar is made of items: one byte out of a set, a list of words, a sequence, a choice, a repetition, a named rule. What is still to come is a stack of
items, as in an LL parser; where a choice is open there is a stack for each reading, and a state is the set of them. Stacks share their tails and equal
ones are one object, so that states can be compared. Counts stand in the items (a repetition of 3 … 5 becomes one of 2 … 4), never in copies of them: a string
of at most 10⁹ characters costs nothing until it is written.

Every stack can be brought to an end: each item knows the fewest bytes that finish it (Knuth 1977, "A generalization of Dijkstra's algorithm"), and choices
that cannot be finished are never entered. Nesting and the number of readings are bounded by leaving out readings, which leaves fewer texts and no dead end.
"""

import abc
import bisect
import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from underhood.base.errors import UserError

MOST_ITEMS = 200_000  # of one grammar
MOST_READINGS = 2048  # of one state
MOST_CELLS = 200_000  # kept; forgetting them costs time and nothing else
LONGEST_LEAST = 2**16  # bytes; an item whose shortest text is longer counts as one without any
DEEPEST = 200  # items on a stack, about 60 levels of JSON; beyond, only the shortest way out is taken


class SchemaError(UserError):
    """A schema that is damaged, allows nothing, is too large, or asks for what is not supported."""


class Item(abc.ABC):
    """A part of a grammar. ``least`` is the fewest bytes of a text of it; infinite where it has none, or none of ``LONGEST_LEAST``."""

    __slots__ = ("least",)

    def __init__(self) -> None:
        self.least = math.inf

    @abc.abstractmethod
    def measure(self) -> float:
        """``least``, from what the items inside say now."""

    @property
    def inside(self) -> "Sequence[Item]":
        """The items that ``least`` hangs on."""
        return ()

    @property
    def needed(self) -> int:
        """How many of those must be known, the least ones first, until ``least`` is."""
        return len(self.inside)


class Bytes(Item):
    """One byte out of ``allowed``."""

    __slots__ = ("allowed",)

    def __init__(self, allowed: Iterable[int]) -> None:
        super().__init__()
        self.allowed = tuple(sorted(set(allowed)))

    def measure(self) -> float:
        return 1 if self.allowed else math.inf


class Words(Item):
    """One of ``words[low:high]``, of which ``at`` bytes are read; the words are sorted, and these begin alike up to there."""

    __slots__ = ("at", "high", "low", "words")

    def __init__(self, words: tuple[bytes, ...], at: int, low: int, high: int) -> None:
        super().__init__()
        self.words, self.at, self.low, self.high = words, at, low, high

    def measure(self) -> float:
        return min(map(len, self.words[self.low : self.high]), default=math.inf) - self.at

    @property
    def ended(self) -> bool:
        """Whether one of the words has been read to its end; it is the first."""
        return len(self.words[self.low]) == self.at

    def split(self) -> dict[int, tuple[int, int]]:
        """For each next byte the range of words that go on with it."""
        ranges: dict[int, tuple[int, int]] = {}
        low = self.low + self.ended
        while low < self.high:
            byte = self.words[low][self.at]
            high = bisect.bisect_right(self.words, byte, low, self.high, key=lambda word: word[self.at])
            ranges[byte], low = (low, high), high
        return ranges


class Seq(Item):
    """All of ``parts``, one after the other."""

    __slots__ = ("parts",)

    def __init__(self, parts: Iterable[Item]) -> None:
        super().__init__()
        self.parts = tuple(parts)

    @property
    def inside(self) -> Sequence[Item]:
        return self.parts

    def measure(self) -> float:
        return sum(part.least for part in self.parts)


class Alt(Item):
    """One of ``options``; none of them is a text of nothing."""

    __slots__ = ("options",)

    def __init__(self, options: Iterable[Item]) -> None:
        super().__init__()
        self.options = tuple(options)

    @property
    def inside(self) -> Sequence[Item]:
        return self.options

    @property
    def needed(self) -> int:
        return 1

    def measure(self) -> float:
        return min((option.least for option in self.options), default=math.inf)


class Repeat(Item):
    """``part``, from ``low`` to ``high`` times (None: no bound)."""

    __slots__ = ("high", "low", "part")

    def __init__(self, part: Item, low: int, high: int | None) -> None:
        super().__init__()
        self.part, self.low, self.high = part, low, high

    @property
    def inside(self) -> Sequence[Item]:
        return (self.part,) if self.low else ()

    def measure(self) -> float:
        if self.high is not None and self.high < self.low:
            return math.inf
        return self.low * self.part.least if self.low else 0


class Rule(Item):
    """An item by name, whose ``body`` may hold the rule itself."""

    __slots__ = ("body",)

    def __init__(self) -> None:
        super().__init__()
        self.body: Item | None = None

    @property
    def inside(self) -> Sequence[Item]:
        return () if self.body is None else (self.body,)

    def measure(self) -> float:
        return math.inf if self.body is None else self.body.least


class Grammar:
    """Makes items and keeps them in order, those inside before those around them."""

    def __init__(self, writable: Collection[int] = range(256), characters: Collection[str] = ()) -> None:
        """``writable``: the bytes that can be written one by one; ``characters``: those beyond ASCII that can be written as a whole."""
        self.writable, self.characters = frozenset(writable), frozenset(characters)
        self.items: list[Item] = []

    def add(self, item: Item) -> Item:
        """Keep ``item``. Raises ``SchemaError`` when there are too many."""
        if len(self.items) >= MOST_ITEMS:
            raise SchemaError(f"its grammar has more than {MOST_ITEMS:,} parts", where="schema", expected="a smaller one")
        self.items.append(item)
        return item

    def byte(self, allowed: Iterable[int]) -> Item:
        """One byte out of ``allowed``, as far as it can be written."""
        return self.add(Bytes(self.writable & set(allowed)))

    def words(self, words: Iterable[bytes]) -> Item:
        """One of ``words``, as far as they can be written."""
        able = tuple(sorted({word for word in words if self._can_write(word)}))
        return self.add(Words(able, 0, 0, len(able)))

    def text(self, word: str) -> Item:
        """``word`` and nothing else."""
        return self.words([word.encode()])

    def seq(self, *parts: Item) -> Item:
        """All of ``parts`` in order."""
        return self.add(Seq(parts))

    def alt(self, *options: Item) -> Item:
        """One of ``options``; with none of them, nothing at all fits."""
        return self.add(Alt(options))

    def repeat(self, part: Item, low: int = 0, high: int | None = None) -> Item:
        """``part``, ``low`` to ``high`` times."""
        return self.add(Repeat(part, low, high))

    def optional(self, part: Item) -> Item:
        """``part``, or nothing."""
        return self.repeat(part, 0, 1)

    def rule(self) -> Rule:
        """A rule without a body yet."""
        rule = Rule()
        self.add(rule)
        return rule

    def settle(self) -> None:
        """Measure all items, each once, the least ones first (Knuth 1977): rules may stand inside themselves. Until then none has a text."""
        around: defaultdict[Item, list[Item]] = defaultdict(list)
        missing = {item: item.needed for item in self.items}
        for item in self.items:
            item.least = math.inf
            for part in item.inside:
                around[part].append(item)
        numbers = itertools.count()  # of equal ones the first found goes first
        found = [(item.measure(), next(numbers), item) for item in self.items if not missing[item]]
        heapq.heapify(found)
        while found:
            least, _, item = heapq.heappop(found)
            if least > LONGEST_LEAST:
                break
            item.least = least
            for outer in around[item]:
                missing[outer] -= 1
                if missing[outer] == 0:
                    heapq.heappush(found, (outer.measure(), next(numbers), outer))

    def _can_write(self, word: bytes) -> bool:
        if self.writable.issuperset(word):
            return True
        return all((len(c.encode()) == 1 and ord(c) in self.writable) or c in self.characters for c in word.decode())


class Cell:
    """A stack of items: ``item`` on top of ``rest``. ``END`` is the empty one."""

    __slots__ = ("depth", "item", "least", "number", "rest")

    def __init__(self, item: Item | None, rest: "Cell | None", number: int) -> None:
        self.item, self.rest, self.number = item, rest, number
        self.least: float = 0 if item is None or rest is None else item.least + rest.least
        self.depth: int = 0 if rest is None else rest.depth + 1


END = Cell(None, None, -1)
State = tuple[Cell, ...]  # the stacks of all readings, each with bytes on top, in the order of their numbers


class Automaton:
    """Follows a settled grammar from ``start``. States are plain values: keep them, compare them, go back to them."""

    def __init__(self, root: Item) -> None:
        self.root = root
        self.forget()
        self.start = self._expand([self._cell(root, END)])

    def forget(self) -> None:
        """Drop what was kept for speed. States made before stay good; they will not equal new ones."""
        self._cells: dict[tuple[Item, Cell], Cell] = {}
        self._made: dict[tuple[object, ...], Item] = {}
        self.count = getattr(self, "count", 0)

    @property
    def crowded(self) -> bool:
        """Whether it is time to ``forget``."""
        return len(self._cells) > MOST_CELLS

    def after(self, state: State) -> dict[int, State]:
        """The next state for each byte that may follow."""
        stacks: defaultdict[int, list[Cell]] = defaultdict(list)
        for cell in state:
            item, rest = cell.item, cell.rest
            if isinstance(item, Bytes) and rest is not None:
                for byte in item.allowed:
                    stacks[byte].append(rest)
            elif isinstance(item, Words) and rest is not None:
                for byte, (low, high) in item.split().items():
                    stacks[byte].append(self._cell(self._words(item, low, high), rest))
        expanded: dict[tuple[Cell, ...], State] = {}
        following: dict[int, State] = {}
        for byte, cells in stacks.items():
            key = tuple(cells)
            if key not in expanded:
                expanded[key] = self._expand(cells)
            following[byte] = expanded[key]
        return following

    def _expand(self, cells: Iterable[Cell]) -> State:
        """Replace whatever is on top by what it begins with, until every stack has bytes on top or is empty."""
        queue, seen, found = list(cells)[::-1], set[Cell](), list[Cell]()
        while queue and len(found) < MOST_READINGS and not (found and len(seen) > 16 * MOST_READINGS):
            cell = queue.pop()
            if cell in seen:
                continue
            seen.add(cell)
            if cell is END or isinstance(cell.item, Bytes) or (isinstance(cell.item, Words) and not cell.item.ended):
                found.append(cell)
            elif isinstance(cell.item, Words):
                queue.append(_rest(cell))
                if cell.item.high - cell.item.low > 1:
                    found.append(cell)
            else:
                queue += self._openings(cell)
        return tuple(sorted(found, key=lambda cell: cell.number))

    def _openings(self, cell: Cell) -> list[Cell]:
        """The stacks that one with a sequence, a choice, a repetition or a rule on top stands for."""
        item, rest = cell.item, _rest(cell)
        deep = cell.depth > DEEPEST
        if isinstance(item, Seq):
            for part in reversed(item.parts):
                rest = self._cell(part, rest)
            return [rest]
        if isinstance(item, Alt):
            limit = item.least if deep else math.inf
            return [self._cell(option, rest) for option in item.options if option.least <= limit and option.least < math.inf]
        if isinstance(item, Repeat):
            more = item.part.least < math.inf and item.high != 0 and not (deep and item.low == 0)
            again = [self._cell(item.part, self._cell(self._fewer(item), rest))] if more else []
            return [*again, rest] if item.low == 0 else again
        return [self._cell(item.body, rest)] if isinstance(item, Rule) and item.body is not None else []

    def _cell(self, item: Item, rest: Cell) -> Cell:
        key = (item, rest)
        if key not in self._cells:
            self._cells[key] = Cell(item, rest, self.count)
            self.count += 1
        return self._cells[key]

    def _fewer(self, item: Repeat) -> Item:
        """``item`` when one repetition is done."""
        if item.low == 0 and item.high is None:
            return item
        low, high = max(0, item.low - 1), None if item.high is None else item.high - 1
        return self._keep((item.part, low, high), lambda: Repeat(item.part, low, high))

    def _words(self, item: Words, low: int, high: int) -> Item:
        # By the list's identity: to hash or compare its words would cost their number at every byte. What is kept holds the list, so its id stays its own.
        return self._keep((id(item.words), item.at + 1, low, high), lambda: Words(item.words, item.at + 1, low, high))

    def _keep(self, key: tuple[object, ...], make: Callable[[], Item]) -> Item:
        if key not in self._made:
            self._made[key] = make()
            self._made[key].least = self._made[key].measure()
        return self._made[key]


def _rest(cell: Cell) -> Cell:
    assert cell.rest is not None
    return cell.rest


def finished(state: State) -> bool:
    """Whether the text may end here."""
    return END in state


def remaining(state: State) -> int:
    """The fewest bytes that finish the text."""
    return int(min(cell.least for cell in state))
