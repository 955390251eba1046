"""One word of text to ids: its characters, those that the vocabulary lacks as bytes or as the unknown token, and then the merges."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
from jaxtyping import UInt64

from underhood.base.errors import TokenizerError
from underhood.text.merging import Merges

REMEMBERED = 1 << 16  # words; then the memory starts afresh
LONGEST_REMEMBERED = 64  # characters: strangers choose the words, and all of them together must not fill the memory
WORTH_CUTTING = 64  # characters: below, looking for joints costs more than it saves


class Memory(dict[str, list[int]]):
    """What ``compute`` gave for each word, computed when it is first asked for."""

    def __init__(self, compute: Callable[[str], list[int]]) -> None:
        super().__init__()
        self.compute = compute

    def __missing__(self, word: str) -> list[int]:
        found = self.compute(word)
        if len(word) <= LONGEST_REMEMBERED:
            if len(self) >= REMEMBERED:
                self.clear()
            self[word] = found
        return found


class WordEncoder:
    """``vocab``: tokens with their ids. A character that it lacks is spelled in ``bytes_of``, an id for each byte; else it is the id ``unknown``, if any.

    With ``fuse`` unknown characters in a row are one token; with ``whole`` a word that is a token is not merged from its characters.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Merges,
        *,
        bytes_of: Sequence[int] | None = None,
        unknown: int | None = None,
        fuse: bool = False,
        whole: bool = False,
    ) -> None:
        self.vocab, self.merges, self.whole, self.fuse = vocab, merges, whole, fuse
        self.unknown, self.bytes = unknown, bytes_of
        self.characters, self.pieces = Memory(self._spell), Memory(self._encode_piece)
        self.can_cut = self._can_cut()

    def encode(self, word: str) -> list[int]:
        """The ids of ``word``, which is cut first where no merge can join two characters. Raises ``TokenizerError`` for one that has no token."""
        if self.whole and word in self.vocab:
            return [self.vocab[word]]
        if len(word) < WORTH_CUTTING or not self.can_cut:
            return self._encode_piece(word)
        return list(chain.from_iterable(map(self.pieces.__getitem__, self._cut(word))))

    def _encode_piece(self, piece: str) -> list[int]:
        return self.merges.apply(self._symbols(piece))

    def _symbols(self, piece: str) -> list[int]:
        """The id of each character, or the ids that stand for it."""
        ids = list(map(self.vocab.get, piece))
        if None not in ids:
            return ids  # type: ignore[return-value]
        if self.fuse and self.bytes is None and self.unknown is not None:
            after = [0, *ids]
            return [self.unknown if number is None else number for number, before in zip(ids, after, strict=False) if (number, before) != (None, None)]
        return list(chain.from_iterable(map(self.characters.__getitem__, piece)))

    def _spell(self, char: str) -> list[int]:
        number = self.vocab.get(char, self.unknown if self.bytes is None else None)
        if number is not None:
            return [number]
        if self.bytes is None:
            raise TokenizerError(f"{char!r} (U+{ord(char):04X}) has no token in this vocabulary")
        return [self.bytes[byte] for byte in char.encode()]

    def _can_cut(self) -> bool:
        """Whether only characters side by side in some token merge, and none that are unknown do anything together."""
        others = {self.unknown, *(self.bytes or ())}
        return not (self.fuse and self.bytes is None) and not any(left in others or right in others for left, right in self.merges.pairs)

    @functools.cached_property
    def _joints(self) -> UInt64[np.ndarray, "n"]:
        """Every two characters that stand side by side in a token that merges make."""
        made = set(self.merges.made)
        return np.unique(_neighbours("\0".join(token for token, number in self.vocab.items() if number in made)))

    def _cut(self, word: str) -> Iterator[str]:
        """``word`` in the pieces between which no merge reaches: no token holds the last character of one beside the first of the next.

        Characters that each stand alone make one piece together.
        """
        pairs, joints = _neighbours(word), self._joints
        joined = np.zeros(len(pairs) + 2, bool)  # with the two ends of the word
        joined[1:-1] = joints[np.minimum(np.searchsorted(joints, pairs), len(joints) - 1)] == pairs if len(joints) else False
        apart = ~joined[1:-1] & (joined[:-2] | joined[2:])
        ends = [0, *(np.flatnonzero(apart) + 1).tolist(), len(word)]
        return map(word.__getitem__, map(slice, ends, ends[1:]))


def _neighbours(text: str) -> UInt64[np.ndarray, "n"]:
    """Each character of ``text`` but the last with the one that follows, in one number."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    return np.asarray(codes[:-1] << np.uint64(32) | codes[1:])
