"""The grammar of JSON texts (RFC 8259), as a model should write them: no space but one after a comma or a colon, numbers that a double holds.

Strings hold every Unicode character, written as it is or as an escape, and never half of a surrogate pair, which no program could print.
"""

import json
import math
from collections.abc import Sequence

from underhood.infer.grammar import Grammar, Item, SchemaError

ASCII = frozenset(range(0x20, 0x80)) - set(b'"\\')  # characters that stand for themselves
TAIL = range(0x80, 0xC0)
UTF8 = (  # first bytes, then what must follow: the well-formed sequences of Unicode 15, table 3-7
    (range(0xC2, 0xE0), (TAIL,)),
    (range(0xE0, 0xE1), (range(0xA0, 0xC0), TAIL)),
    ((*range(0xE1, 0xED), 0xEE, 0xEF), (TAIL, TAIL)),
    (range(0xED, 0xEE), (range(0x80, 0xA0), TAIL)),
    (range(0xF0, 0xF1), (range(0x90, 0xC0), TAIL, TAIL)),
    (range(0xF1, 0xF4), (TAIL, TAIL, TAIL)),
    (range(0xF4, 0xF5), (range(0x80, 0x90), TAIL, TAIL)),
)
HEX = b"0123456789abcdefABCDEF"
DIGITS = 15  # of a whole number: every such number is exact in a double
FRACTION = 6  # digits after the point of a number with bounds
LONGEST_NAME = 256  # characters of a property's name where others are allowed beside it


class Json:
    """Items of one grammar for the values of JSON."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = g = grammar
        self.never = g.alt()
        self.nothing = g.seq()
        self.digit, self.first_digit, self.quote = g.byte(b"0123456789"), g.byte(b"123456789"), g.text('"')
        self.space = g.optional(g.text(" "))
        self.comma, self.colon = g.seq(g.text(","), self.space), g.seq(g.text(":"), self.space)
        self.plain = self._plain(frozenset())
        self.character = g.alt(self.plain, self._escape())
        self.any_string = self.string(0, None)
        self.any_number = self._number()
        self._any = g.rule()
        self.any_array = self.array(self._any, 0, None)
        self.any_object = self.object([], self._any)
        self._any.body = g.alt(self.any_object, self.any_array, self.any_string, self.any_number, g.words([b"true", b"false", b"null"]))

    @property
    def any_value(self) -> Item:
        """Any JSON value."""
        return self._any

    def literals(self, texts: Sequence[str]) -> Item:
        """One of the JSON ``texts``."""
        return self.grammar.words(text.encode() for text in texts)

    # ── strings ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def string(self, low: int, high: int | None) -> Item:
        """A string of ``low`` to ``high`` characters."""
        return self.grammar.seq(self.quote, self.grammar.repeat(self.character, low, high), self.quote)

    def _plain(self, without: frozenset[int]) -> Item:
        """A character that stands for itself and whose first byte is none of ``without``."""
        g = self.grammar
        long = [g.seq(g.byte(set(first) - without), *map(g.byte, following)) for first, following in UTF8]
        whole = [c.encode() for c in g.characters if c.encode()[0] not in without]
        return g.alt(g.byte(ASCII - without), *long, g.words(whole))

    def _escape(self) -> Item:
        g = self.grammar
        digit = g.byte(HEX)
        low = g.seq(g.text("\\u"), g.byte(b"dD"), g.byte(b"cdefCDEF"), digit, digit)
        character = g.alt(g.seq(g.byte(set(HEX) - set(b"dD")), digit, digit, digit), g.seq(g.byte(b"dD"), g.byte(b"01234567"), digit, digit))
        pair = g.seq(g.byte(b"dD"), g.byte(b"89abAB"), digit, digit, low)
        return g.seq(g.text("\\"), g.alt(g.byte(b'"\\/bfnrt'), g.seq(g.text("u"), g.alt(character, pair))))

    def other_name(self, names: Sequence[str]) -> Item:
        """A string that is none of ``names``, without escapes, for ``"\\u0061"`` is ``"a"`` too."""
        if not names:
            return self.any_string
        for name in names:
            if len(name) > LONGEST_NAME:
                raise SchemaError(f"a name of {len(name):,} characters", where="properties", expected=f"at most {LONGEST_NAME} beside other properties")
        names = [name for name in names if json.dumps(name, ensure_ascii=False) == f'"{name}"']  # those that can be written without escapes
        rest = self.grammar.seq(self.grammar.repeat(self.plain), self.quote)
        return self.grammar.seq(self.quote, self._unlike(sorted(set(names)), rest))

    def _unlike(self, names: Sequence[str], rest: Item) -> Item:
        """What is left of a name that so far agrees with ``names``, of which the ends are given; after the first difference ``rest`` follows."""
        g = self.grammar
        heads = sorted({name[0] for name in names if name})
        ends = [] if "" in names else [self.quote]
        same = [g.seq(g.text(head), self._unlike([name[1:] for name in names if name.startswith(head)], rest)) for head in heads]
        return g.alt(*ends, *same, g.seq(self._plain(frozenset(head.encode()[0] for head in heads)), rest))

    # ── numbers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _number(self) -> Item:
        g = self.grammar
        whole = g.alt(g.text("0"), g.seq(self.first_digit, g.repeat(self.digit, 0, DIGITS - 1)))
        fraction = g.seq(g.text("."), g.repeat(self.digit, 1, DIGITS))
        exponent = g.seq(g.byte(b"eE"), g.optional(g.byte(b"+-")), g.repeat(self.digit, 1, 2))
        return g.seq(g.optional(g.text("-")), whole, g.optional(fraction), g.optional(exponent))

    def integer(self, low: float = -math.inf, high: float = math.inf) -> Item:
        """A whole number of at most ``DIGITS`` digits with ``low`` ≤ n ≤ ``high``."""
        most = 10**DIGITS - 1
        least, largest = math.ceil(max(low, -most)), math.floor(min(high, most))
        below = self.grammar.seq(self.grammar.text("-"), self._natural(max(1, -largest), -least))
        return self.grammar.alt(self._natural(max(0, least), largest), below)

    def number(self, low: float, high: float, above: bool = False, below: bool = False) -> Item:
        """A number with ``low`` ≤ x ≤ ``high`` (``above``, ``below``: strictly): the whole ones, and those with ``FRACTION`` decimals at most that lie
        between two whole ones of which both fit. Without bounds: any number."""
        if low == -math.inf and high == math.inf:
            return self.any_number
        g, most = self.grammar, 10**9
        fraction = g.seq(g.text("."), g.repeat(self.digit, 0, FRACTION - 1), self.first_digit)
        up = self._natural(max(0, math.ceil(max(low, -1))), math.floor(min(high, most)) - 1)
        down = self._natural(max(0, math.ceil(max(-high, -1))), math.floor(min(-low, most)) - 1)
        whole = self.integer(*whole_bounds(low, high, above, below))
        return g.alt(whole, g.seq(up, fraction), g.seq(g.text("-"), down, fraction))

    def _natural(self, low: int, high: int) -> Item:
        """A number without sign or zeros in front, ``low`` ≤ n ≤ ``high``."""
        lengths = range(len(str(low)), len(str(high)) + 1) if low <= high else ()
        ranges = [(max(low, 10 ** (n - 1) if n > 1 else 0), min(high, 10**n - 1)) for n in lengths]
        return self.grammar.alt(*(self._digits(str(a), str(b)) for a, b in ranges))

    def _digits(self, low: str, high: str) -> Item:
        """Digits, as many as both bounds have, between them."""
        g, n = self.grammar, len(low)
        if low == "0" * n and high == "9" * n:
            return g.repeat(self.digit, n, n)
        if low[0] == high[0]:
            return g.seq(g.text(low[0]), self._digits(low[1:], high[1:]))
        between = g.seq(g.byte(range(ord(low[0]) + 1, ord(high[0]))), g.repeat(self.digit, n - 1, n - 1))
        first = g.seq(g.text(low[0]), self._digits(low[1:], "9" * (n - 1)))
        return g.alt(first, between, g.seq(g.text(high[0]), self._digits("0" * (n - 1), high[1:])))

    # ── arrays and objects ────────────────────────────────────────────────────────────────────────────────────────────

    def array(self, item: Item, low: int, high: int | None, prefix: Sequence[Item] = ()) -> Item:
        """``low`` to ``high`` values: those of ``prefix`` in order, then ``item`` for each that follows."""
        g = self.grammar
        first = list(prefix[:high]) or ([] if high == 0 else [item])
        if not first or (high is not None and high < low):
            return self.never if low else g.text("[]")
        rest = g.repeat(g.seq(self.comma, item), max(0, low - len(first)), None if high is None else high - len(first))
        for k in range(len(first) - 1, 0, -1):
            following = g.seq(self.comma, first[k], rest)
            rest = following if k < low else g.optional(following)
        filled = g.seq(first[0], rest)
        return g.seq(g.text("["), filled if low else g.optional(filled), g.text("]"))

    def object(self, fields: Sequence[tuple[str, Item, bool]], other: Item | None) -> Item:
        """``fields`` (name, value, whether it must be there) in their order; then, unless ``other`` is None, more with other names and such values."""
        g = self.grammar
        bare = begun = self.nothing
        if other is not None:
            pair = g.seq(self.other_name([name for name, _, _ in fields]), self.colon, other)
            begun = g.repeat(g.seq(self.comma, pair))
            bare = g.optional(g.seq(pair, begun))
        for name, value, required in reversed(fields):
            pair = g.seq(g.text(json.dumps(name, ensure_ascii=False)), self.colon, value)
            first, next_one = g.seq(pair, begun), g.seq(self.comma, pair, begun)
            bare, begun = (first, next_one) if required else (g.alt(first, bare), g.alt(next_one, begun))
        return g.seq(g.text("{"), bare, g.text("}"))


def whole_bounds(low: float, high: float, above: bool, below: bool) -> tuple[float, float]:
    """The bounds of the whole numbers with ``low`` ≤ n ≤ ``high``; ``above`` and ``below`` make them strict."""
    least = low if math.isinf(low) else math.floor(low) + 1 if above else math.ceil(low)
    most = high if math.isinf(high) else math.ceil(high) - 1 if below else math.floor(high)
    return least, most
