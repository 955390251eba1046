"""Paged memory for keys and values: who holds which block, and where a request's next tokens go (PagedAttention: Kwon et al. 2023, arXiv 2309.06180).

One large buffer is cut into blocks of ``size`` slots, a slot for each token. ``BlockPool`` says who uses which block, a ``PageTable`` is one request's
list of blocks, and ``prefix`` knows what full blocks hold. Only numbers stand here; the buffer itself is ``paged``'s.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from underhood.base.errors import ConfigError, UnderhoodError
from underhood.infer.prefix import PrefixIndex


class PageError(UnderhoodError):
    """A block was released, shared or written by someone who does not hold it: a fault of ours."""


class OutOfBlocks(UnderhoodError):
    """More blocks are needed than are free; nothing was taken."""

    def __init__(self, needed: int, free: int) -> None:
        self.needed, self.free = needed, free
        super().__init__(f"{needed} blocks are needed and {free} are free")


class BlockPool:
    """``n_blocks`` blocks of ``size`` slots; a block is free or has users, and is free again when the last of them has released it.

    A free block that the prefix index knows keeps its content until it is handed out again, which comes as late as possible: blocks without known
    content go first, then those that have been free longest.

    Beside ``n_blocks`` and ``size``: ``users``, how many each block in use has; ``free``, the other blocks as the keys of an ``OrderedDict``, the next to
    be handed out first; ``index``, the pool's ``PrefixIndex``.
    """

    def __init__(self, n_blocks: int, size: int = 16) -> None:
        if n_blocks < 1 or size < 1:
            raise ConfigError(f"{n_blocks} blocks of {size} slots", expected="at least one of each")
        self.n_blocks, self.size, self.index = n_blocks, size, PrefixIndex()
        self.users: dict[int, int] = {}  # only of blocks in use
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(n_blocks))  # the next to be handed out first

    def allocate(self) -> int:
        """A block with one user. Raises ``OutOfBlocks``."""
        if not self.free:
            raise OutOfBlocks(1, 0)
        block, _ = self.free.popitem(last=False)
        self.index.forget(block)
        self.users[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more user of a block that is in use, or free and still known to the index. Raises ``PageError`` for any other."""
        if block not in self.users and block not in self.index:
            raise PageError(f"block {block} is shared and holds nothing")
        self.free.pop(block, None)
        self.users[block] = self.users.get(block, 0) + 1

    def release(self, block: int) -> None:
        """One user less. Raises ``PageError`` if there is none."""
        if block not in self.users:
            raise PageError(f"block {block} is released and nobody uses it")
        self.users[block] -= 1
        if self.users[block] == 0:
            del self.users[block]
            self.free[block] = None
            self.free.move_to_end(block, last=block in self.index)

    def blocks_of(self, n_tokens: int) -> int:
        """How many blocks ``n_tokens`` tokens fill or begin."""
        return -(-n_tokens // self.size)

    def writable(self, block: int) -> bool:
        """Whether its one user may write to it: nobody else reads it, now or by way of the index."""
        return self.users[block] == 1 and block not in self.index


class PageTable:
    """One request's blocks in the order of its tokens: token t lies in slot ``blocks[t // size] * size + t % size``.

    ``length`` tokens have a slot; of the first ``published`` blocks the index knows what they hold. ``pool`` is where its blocks come from.
    """

    def __init__(self, pool: BlockPool) -> None:
        self.pool, self.blocks, self.length, self.published = pool, list[int](), 0, 0

    def append_slots(self, n: int) -> tuple[list[int], list[tuple[int, int]]]:
        """The slots of ``n`` more tokens, and the blocks (from, to) to copy, in order, before anything is written.

        A last block that has room and another reader is replaced by a copy first. Raises ``OutOfBlocks``, and then nothing has changed.
        """
        assert n >= 0, "tokens are taken back by truncate"
        size, end = self.pool.size, self.length + n
        fresh = self.pool.blocks_of(end) - len(self.blocks)
        torn = n > 0 and self.length % size > 0 and not self.pool.writable(self.blocks[-1])
        if fresh + torn > len(self.pool.free):
            raise OutOfBlocks(fresh + torn, len(self.pool.free))
        copies = []
        if torn:
            old, self.blocks[-1] = self.blocks[-1], self.pool.allocate()
            self.pool.release(old)
            copies.append((old, self.blocks[-1]))
        self.blocks += [self.pool.allocate() for _ in range(fresh)]
        slots = [self.blocks[t // size] * size + t % size for t in range(self.length, end)]
        self.length = end
        return slots, copies

    def adopt(self, blocks: Sequence[int], length: int) -> None:
        """Begin with the ``length`` tokens of another's blocks, of which the full ones are published, as one more user of each."""
        if self.blocks or len(blocks) != self.pool.blocks_of(length):
            raise PageError(f"{length} tokens in {len(blocks)} blocks are adopted by a table of {len(self.blocks)}")
        for block in blocks:
            self.pool.share(block)
        self.blocks, self.length, self.published = list(blocks), length, length // self.pool.size

    def fork(self) -> "PageTable":
        """A second table of the same tokens that shares every block; whoever writes first copies the last one.

        Raises ``PageError`` if a full block is not published: ``publish`` could put another in its place in one of the tables and not in the other.
        """
        if self.published < self.length // self.pool.size:
            raise PageError(f"a table is shared that has published {self.published} of {self.length // self.pool.size} full blocks")
        twin = PageTable(self.pool)
        twin.adopt(self.blocks, self.length)
        return twin

    def publish(self, tokens: Sequence[int], salt: str = "") -> None:
        """Tell the index what the full blocks hold, once the keys and values are written. ``tokens``: those of the table, or more.

        A block that another request filled with the same before us takes the place of ours.
        """
        size = self.pool.size
        if len(tokens) < self.length:
            raise PageError(f"{len(tokens)} tokens are published of {self.length}")
        for i in range(self.published, self.length // size):
            mine, before = self.blocks[i], self.blocks[i - 1] if i else None
            kept = self.pool.index.add(mine, before, tuple(tokens[i * size : (i + 1) * size]), salt)
            if kept != mine:
                self.pool.share(kept)
                self.pool.release(mine)
                self.blocks[i] = kept
        self.published = self.length // size

    def truncate(self, length: int) -> None:
        """Keep the first ``length`` tokens. The last block goes first: in the pool, what leads to others outlives them."""
        if not 0 <= length <= self.length:
            raise PageError(f"a table of {self.length} tokens is cut to {length}")
        keep = self.pool.blocks_of(length)
        for block in reversed(self.blocks[keep:]):
            self.pool.release(block)
        del self.blocks[keep:]
        self.length, self.published = length, min(self.published, length // self.pool.size)

    def free(self) -> None:
        """Give all blocks back."""
        self.truncate(0)


def waste(tables: Iterable[PageTable]) -> float:
    """The share of the slots allocated to ``tables`` that hold no token: some of each table's last block. A shared block counts once."""
    filled: dict[int, int] = {}
    size = 1
    for table in tables:
        size = table.pool.size
        for i, block in enumerate(table.blocks):
            filled[block] = max(filled.get(block, 0), min(size, table.length - i * size))
    return 1 - sum(filled.values()) / (len(filled) * size) if filled else 0.0
