"""Constrained decoding: which tokens may come next so that the text stays within a JSON schema.

A token is allowed where all its bytes lead on from the state. To ask that of a whole vocabulary, its tokens stand in a tree by their bytes, which is walked
level by level, all nodes of a level at once (Willard & Louf 2023, arXiv 2307.09702, have the idea of masks by automaton; they index states beforehand, here
states are made when a text reaches them, so that nesting and counts cost nothing before).
"""

import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int32
from numpy import ndarray
from torch import Tensor

from underhood.base.errors import ConfigError, TokenizerError, UserError
from underhood.infer.grammar import Automaton, State, finished, remaining
from underhood.infer.grammar_schema import schema_grammar
from underhood.text.tokenizer import Tokenizer

ANY_JSON: dict[str, Any] = {"type": "object"}  # "JSON mode": any object
MOST_STATES = 16_384  # with a row of 256 numbers each; then all are forgotten and made again when needed
MOST_MASKS = 64  # kept
MOST_WORK = 10_000  # readings of the states at one walk; a schema so ambiguous loses the tokens that are longer than the walk came
NEVER = np.int32(2**30)  # bytes to the end of a text that has none
Ints = Int32[ndarray, "N"]


class ConstraintError(UserError):
    """A token that the constraint does not allow."""


class TokenTree:
    """The tokens of a vocabulary by their bytes. ``tokens`` are the bytes by id; None for ids that stand for no text."""

    def __init__(self, tokens: Sequence[bytes | None]) -> None:
        singles = {token[0] for token in tokens if token is not None and len(token) == 1}
        self.characters: frozenset[str] = frozenset()
        if len(singles) < 256:  # only whole characters, or a text might stop within one that no token ends
            tokens = [token if token is not None and _is_utf8(token) else None for token in tokens]
            singles = {byte for byte in singles if byte < 0x80}
            self.characters = frozenset(c for token in tokens if token and len(c := token.decode()) == 1 and not c.isascii())
        self.writable = frozenset(singles)
        self.size = len(tokens)
        self.tokens = [token or b"" for token in tokens]
        self._build(self.tokens)

    def _build(self, tokens: Sequence[bytes]) -> None:
        lengths = np.array([len(token) for token in tokens], dtype=np.int64)
        starts, flat = np.cumsum(lengths) - lengths, np.frombuffer(b"".join(tokens), dtype=np.uint8)
        self.node = np.zeros(len(tokens), dtype=np.int64)  # of each token; 0, the root, for those without bytes
        self.levels: list[tuple[Ints, Ints]] = []  # parents and bytes of a level's nodes, which are numbered on
        self.nodes = 1
        for depth in range(int(lengths.max(initial=0))):
            longer = np.flatnonzero(lengths > depth)
            keys = self.node[longer] * 256 + flat[starts[longer] + depth]
            unique, inverse = np.unique(keys, return_inverse=True)
            self.node[longer] = self.nodes + inverse
            self.levels.append(((unique // 256).astype(np.int32), (unique % 256).astype(np.int32)))
            self.nodes += len(unique)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "TokenTree":
        """The tree of ``tokenizer``'s tokens, without its special ones; made once for each tokenizer."""
        if tokenizer not in _TREES:
            _TREES[tokenizer] = cls(token_texts(tokenizer))
        return _TREES[tokenizer]


_TREES: "weakref.WeakKeyDictionary[Tokenizer, TokenTree]" = weakref.WeakKeyDictionary()


def token_texts(tokenizer: Tokenizer) -> list[bytes | None]:
    """The bytes of every token by id; None for special and other added tokens, which are marks and no text, and for ids without a token."""
    decode_bytes: Callable[[list[int]], bytes] | None = getattr(tokenizer, "decode_bytes", None)
    marks = {*getattr(tokenizer, "special", {}).values(), *getattr(tokenizer, "added", {}).values()}

    def text(number: int) -> bytes | None:
        try:
            return None if number in marks else decode_bytes([number]) if decode_bytes else tokenizer.decode([number]).encode()
        except TokenizerError:
            return None

    return [text(number) for number in range(tokenizer.vocab_size)]


class Constraint:
    """Texts that are valid by a schema, token by token.

    ``schema`` as parsed from JSON (``ANY_JSON`` for any object); ``end_ids`` are the tokens that end the text, allowed where it may end; ``vocab_size`` is
    the model's where its logits are longer than the tokenizer's vocabulary. Raises ``SchemaError`` (``UnsupportedKeyword``) and ``ConfigError``.
    Every state has an allowed token. Not for several threads at once.
    """

    def __init__(self, schema: Any, tokenizer: Tokenizer, end_ids: Collection[int], vocab_size: int | None = None) -> None:
        self.tree = TokenTree.of(tokenizer)
        self.vocab_size = self.tree.size if vocab_size is None else vocab_size
        self.end_ids = sorted(set(end_ids))
        if self.vocab_size < self.tree.size:
            raise ConfigError(f"found {self.vocab_size}", where="vocab_size", expected=f"at least the tokenizer's {self.tree.size}")
        if not self.end_ids or not all(0 <= number < self.vocab_size for number in self.end_ids):
            raise ConfigError(f"found {self.end_ids}", where="end_ids", expected=f"at least one id below {self.vocab_size}: or the text could never end")
        self.automaton = Automaton(schema_grammar(schema, self.tree.writable, self.tree.characters))
        self.start: State = self.automaton.start
        self._forget()

    def allowed(self, state: State, budget: int | None = None) -> Bool[Tensor, "V"]:
        """Which tokens may come next; never none.

        With ``budget`` tokens to go, the end's included, only those after which the text can still be finished in time; where that is too few already,
        those from which the end is nearest.
        """
        needs = self._needs(state)
        mask = needs < NEVER
        if budget is not None:
            mask = needs <= max(int(needs.min()), budget - 2)
        return torch.from_numpy(mask)

    def advance(self, state: State, token: int) -> State:
        """The state after ``token``; an end token leaves it as it is. Raises ``ConstraintError`` for a token that is not allowed."""
        if token in self.end_ids and finished(state):
            return state
        text = self.tree.tokens[token] if 0 <= token < self.tree.size else b""
        number = self._number(state) if text else 0
        for byte in text:
            if not self._filled[number]:
                self._fill(number)
            number = int(self._table[number, byte])
        if not number:
            raise ConstraintError(f"the token {token} does not lead on", where="constraint", expected="one that is allowed here")
        return self._states[number]

    def finished(self, state: State) -> bool:
        """Whether the text is complete, so that an end token is allowed."""
        return finished(state)

    def remaining(self, state: State) -> int:
        """The fewest bytes that complete the text: no more tokens than that are needed, and one for the end."""
        return remaining(state)

    # ── the table: states by number, 0 for none ───────────────────────────────────────────────────────────────────────

    def _forget(self) -> None:
        self.automaton.forget()
        self._numbers: dict[State, int] = {}
        self._states: list[State] = [()]
        self._table = np.zeros((64, 256), dtype=np.int32)
        self._least = np.full(64, NEVER, dtype=np.int32)
        self._filled = np.zeros(64, dtype=bool)
        self._filled[0] = True
        self._kept: dict[int, Ints] = {}

    def _number(self, state: State) -> int:
        number = self._numbers.get(state)
        if number is None:
            number = self._numbers[state] = len(self._states)
            self._states.append(state)
            if number == len(self._least):
                self._table = np.concatenate([self._table, np.zeros_like(self._table)])
                self._least = np.concatenate([self._least, np.full_like(self._least, NEVER)])
                self._filled = np.concatenate([self._filled, np.zeros_like(self._filled)])
            self._least[number] = remaining(state)
        return number

    def _fill(self, number: int) -> None:
        """Set down where each byte leads from a state."""
        following = self.automaton.after(self._states[number])
        numbers = {id(state): self._number(state) for state in {id(state): state for state in following.values()}.values()}  # many bytes share a state
        for byte, state in following.items():
            self._table[number, byte] = numbers[id(state)]
        self._filled[number] = True

    def _walk(self, state: State) -> Ints:
        """The number of the state at each node of the tree."""
        reached = np.zeros(self.tree.nodes, dtype=np.int32)
        reached[0], first, work = self._number(state), 1, 0
        for parents, bytes_ in self.tree.levels:
            above = reached[parents]
            numbers = self._distinct(above)
            work += sum(len(self._states[number]) for number in numbers)
            if not numbers or (work > MOST_WORK and first > 1):
                break
            for number in numbers:
                if not self._filled[number]:
                    self._fill(number)
            reached[first : first + len(parents)] = self._table[above, bytes_]
            first += len(parents)
        return reached

    def _distinct(self, numbers: Ints) -> list[int]:
        """The different ``numbers`` of states, without 0."""
        there = np.zeros(len(self._states), dtype=bool)
        there[numbers] = True
        there[0] = False
        return [int(number) for number in np.flatnonzero(there)]

    def _needs(self, state: State) -> Int32[ndarray, "V"]:
        """For each token the fewest bytes that complete the text after it; ``NEVER`` where it is not allowed, -1 for an end."""
        if len(self._states) > MOST_STATES or self.automaton.crowded:
            self._forget()
        number = self._number(state)
        if number not in self._kept:
            if len(self._kept) >= MOST_MASKS:
                del self._kept[next(iter(self._kept))]
            reached = self._walk(state)
            reached[0] = 0  # tokens without bytes
            needs = np.full(self.vocab_size, NEVER, dtype=np.int32)
            needs[: self.tree.size] = self._least[reached[self.tree.node]]
            if finished(state):
                needs[self.end_ids] = -1
            self._kept[number] = needs
        return self._kept[number]


def _is_utf8(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True
