"""Which blocks already hold which tokens: requests that begin alike compute what they share once.

A full block is known by the hash of its tokens and of the block before it, so that equal tokens after another beginning are another block. A hash
only says where to look: the tokens themselves decide. An entry outlives its users and ends when the pool hands its block out again.
"""

import dataclasses
from collections.abc import Sequence


def chain_hash(previous: int, tokens: tuple[int, ...], salt: str) -> int:
    """The hash of a full block: of the hash of the block before it (0 for the first), its tokens, and the ``salt`` that keeps strangers apart."""
    return hash((previous, tokens, salt))


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """A full block whose keys and values are known: those of ``tokens`` after ``parent`` (None: at the beginning). Equal only to itself."""

    block: int
    hash: int
    parent: "Entry | None"
    tokens: tuple[int, ...]
    salt: str


class PrefixIndex:
    """Full blocks by what they hold: their entries, in ``by_hash`` and in ``by_block``. It counts no users: that is the pool's work."""

    def __init__(self) -> None:
        self.by_hash: dict[int, Entry] = {}
        self.by_block: dict[int, Entry] = {}

    def __contains__(self, block: int) -> bool:
        return block in self.by_block

    def find(self, parent: Entry | None, tokens: tuple[int, ...], salt: str = "") -> Entry | None:
        """The block of ``tokens`` after ``parent``, or None; a hash that happens to be equal finds nothing."""
        entry = self.by_hash.get(chain_hash(parent.hash if parent else 0, tokens, salt))
        return entry if entry and (entry.parent, entry.tokens, entry.salt) == (parent, tokens, salt) else None

    def match(self, tokens: Sequence[int], size: int, salt: str = "") -> list[int]:
        """The longest run of known blocks of ``size`` that ``tokens`` begin with, but never all tokens: the last one must be computed to have logits."""
        found: list[Entry] = []
        for at in range(0, len(tokens) - size, size):
            if not (entry := self.find(found[-1] if found else None, tuple(tokens[at : at + size]), salt)):
                break
            found.append(entry)
        return [entry.block for entry in found]

    def add(self, block: int, before: int | None, tokens: tuple[int, ...], salt: str = "") -> int:
        """Enter ``block``, which holds ``tokens`` after those of block ``before`` (None: at the beginning).

        The result is the block that stands for these tokens: an earlier one if there is one, else ``block``. It is not entered where ``before`` is
        not, or where another block has its hash.
        """
        parent = None if before is None else self.by_block.get(before)
        if before is not None and parent is None:
            return block
        known = self.find(parent, tokens, salt)
        if known is not None:
            return known.block
        key = chain_hash(parent.hash if parent else 0, tokens, salt)
        if key not in self.by_hash:
            self.by_hash[key] = self.by_block[block] = Entry(block, key, parent, tokens, salt)
        return block

    def forget(self, block: int) -> None:
        """``block`` is about to hold something else."""
        if entry := self.by_block.pop(block, None):
            del self.by_hash[entry.hash]
