"""Blocks, page tables and the prefix index: examples to follow by hand, then a long random life held against a model of what every slot must contain."""

import random
from collections import Counter

import pytest

from underhood.base.errors import ConfigError
from underhood.infer import prefix
from underhood.infer.pages import BlockPool, OutOfBlocks, PageError, PageTable, waste
from underhood.infer.prefix import PrefixIndex
from underhood.lab.patch import Edit, applied


def written(pool: BlockPool, tokens: list[int], salt: str = "") -> PageTable:
    """A table of ``tokens``, all computed and published."""
    table = PageTable(pool)
    known = pool.index.match(tokens, pool.size, salt)
    table.adopt(known, len(known) * pool.size)
    table.append_slots(len(tokens) - table.length)
    table.publish(tokens, salt)
    return table


# ── Examples ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_requests_grow_by_turns() -> None:
    pool = BlockPool(8, size=4)
    one, two = PageTable(pool), PageTable(pool)
    assert one.append_slots(5) == ([0, 1, 2, 3, 4], [])  # block 0 and a slot of block 1
    assert two.append_slots(3) == ([8, 9, 10], [])  # block 2
    assert one.append_slots(4) == ([5, 6, 7, 12], [])  # the rest of block 1, then block 3
    assert (one.blocks, two.blocks) == ([0, 1, 3], [2])
    one.free()
    assert two.append_slots(2)[0] == [11, 0]  # what one gave back, its first block last, is handed out again: 0 first


def test_a_fork_shares_until_somebody_writes() -> None:
    pool = BlockPool(8, size=4)
    one = written(pool, [1, 2, 3, 4, 5, 6])
    two = one.fork()
    assert two.blocks == [0, 1]
    assert pool.users == {0: 2, 1: 2}
    assert two.append_slots(1) == ([2 * 4 + 2], [(1, 2)])  # block 1 is copied to block 2, and the new token goes into the copy
    assert one.append_slots(1) == ([1 * 4 + 2], [])  # now block 1 is one's own: no copy
    assert (one.blocks, two.blocks, pool.users) == ([0, 1], [0, 2], {0: 2, 1: 1, 2: 1})


def test_a_fork_at_the_end_of_a_block_copies_nothing() -> None:
    pool = BlockPool(8, size=4)
    one = written(pool, [1, 2, 3, 4])
    assert one.fork().append_slots(1) == ([4], [])


def test_guesses_that_were_wrong_are_rolled_back() -> None:
    pool = BlockPool(8, size=4)
    table = PageTable(pool)
    table.append_slots(3)
    table.append_slots(6)  # one token and five guesses
    table.truncate(4)  # the guesses were wrong
    assert (table.blocks, table.length) == ([0], 4)
    assert len(pool.free) == 7


def test_a_published_block_is_never_written_again() -> None:
    """Cut back into a block that the index knows, a table writes into a copy: somebody may be about to read the original."""
    pool = BlockPool(4, size=4)
    table = written(pool, [1, 2, 3, 4, 5])
    table.truncate(2)
    assert table.append_slots(1)[1] == [(0, 1)]
    assert pool.index.match([1, 2, 3, 4, 5], 4) == [0]


def test_a_common_beginning_is_computed_once() -> None:
    pool = BlockPool(8, size=2)
    first = written(pool, [1, 2, 3, 4, 5])
    second = written(pool, [1, 2, 3, 4, 6, 7])
    assert second.blocks[:2] == first.blocks[:2]
    assert pool.users == {0: 2, 1: 2, 2: 1, 3: 1}


@pytest.mark.parametrize(
    ("tokens", "salt", "blocks"),
    [
        ([1, 2, 3, 4, 5], "", [0, 1]),
        ([1, 2, 3, 4], "", [0]),  # not the whole prompt: its last token has to be computed
        ([1, 2, 3], "", [0]),  # half a block is none
        ([1, 2], "", []),
        ([1, 2, 9, 9, 9], "", [0]),
        ([9, 9, 3, 4, 5], "", []),  # equal tokens after another beginning
        ([3, 4, 5], "", []),  # and at the beginning
        ([1, 2, 3, 4, 5], "another", []),
    ],
)
def test_what_is_found(tokens: list[int], salt: str, blocks: list[int]) -> None:
    pool = BlockPool(8, size=2)
    written(pool, [1, 2, 3, 4])
    assert pool.index.match(tokens, 2, salt) == blocks


def test_what_two_computed_at_the_same_time_is_kept_once() -> None:
    pool = BlockPool(8, size=2)
    one, two = PageTable(pool), PageTable(pool)
    one.append_slots(3)
    two.append_slots(3)
    one.publish([1, 2, 3])
    two.publish([1, 2, 3])
    assert one.blocks[0] == two.blocks[0]
    assert len(pool.users) == 3


def test_a_conversation_finds_what_it_left() -> None:
    pool = BlockPool(8, size=2)
    written(pool, [1, 2, 3, 4, 5]).free()
    assert len(pool.free) == 8
    again = written(pool, [1, 2, 3, 4, 5, 6, 7])
    assert again.blocks[:2] == [0, 1]


def test_content_is_lost_as_late_as_possible() -> None:
    """Blocks without content go first, then the oldest content, and of one prefix its end before its beginning."""
    pool = BlockPool(5, size=1)
    written(pool, [1, 2]).free()
    written(pool, [7, 8]).free()
    assert len(pool.index.by_block) == 4
    lost = []
    for _ in range(5):
        before = dict(pool.index.by_block)
        pool.allocate()
        lost += [entry.tokens[0] for block, entry in before.items() if block not in pool.index]
    assert lost == [2, 1, 8, 7]


def test_use_keeps_content() -> None:
    pool = BlockPool(4, size=1)
    written(pool, [1, 2]).free()
    written(pool, [7, 8]).free()
    assert pool.index.match([1, 2, 3], 1)  # looking alone keeps nothing
    table = PageTable(pool)
    table.adopt(pool.index.match([1, 2, 3], 1), 2)
    table.free()
    pool.allocate(), pool.allocate()
    assert [entry.tokens[0] for entry in pool.index.by_block.values()] == [1, 2]


def test_equal_hashes_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "chain_hash", lambda previous, tokens, salt: 0)
    pool = BlockPool(8, size=2)
    written(pool, [1, 2, 3, 4, 5])
    assert pool.index.match([1, 2, 3, 4, 5], 2) == [0]
    assert pool.index.match([2, 1, 3], 2) == []
    assert pool.index.match([1, 2, 3], 2, "another") == []


def test_the_hash_depends_on_all_it_stands_for() -> None:
    one = prefix.chain_hash(0, (1, 2), "")
    assert one == prefix.chain_hash(0, (1, 2), "")
    assert len({one, prefix.chain_hash(1, (1, 2), ""), prefix.chain_hash(0, (2, 1), ""), prefix.chain_hash(0, (1, 2), "s")}) == 4


def test_waste_is_what_is_allocated_and_not_filled() -> None:
    pool = BlockPool(100, size=16)
    one = written(pool, list(range(20)))
    assert waste([one]) == 12 / 32
    assert waste([one, one.fork()]) == 12 / 32  # shared blocks count once
    assert waste([]) == 0


def test_waste_is_small_for_long_requests() -> None:
    """Less than a block for each: at 400 tokens on average, below 4 % for blocks of 16, where rows of 1,024 positions waste 61 %."""
    pool, rng = BlockPool(4000), random.Random(0)
    lengths = [rng.randint(100, 700) for _ in range(100)]
    tables = [PageTable(pool) for _ in lengths]
    for table, length in zip(tables, lengths, strict=True):
        table.append_slots(length)
    assert 0 < waste(tables) < 0.04
    assert waste(tables) < 100 * 16 / sum(lengths)


# ── Misuse is an error ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_block_is_released_once() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.release(block)
    with pytest.raises(PageError, match="block 0 is released and nobody uses it"):
        pool.release(block)
    with pytest.raises(PageError):
        pool.release(-1)  # not the last one


def test_a_block_without_content_is_not_shared() -> None:
    pool = BlockPool(2)
    for block in (0, -1, 2):
        with pytest.raises(PageError, match="holds nothing"):
            pool.share(block)
    assert len(pool.free) == 2


def test_out_of_blocks_takes_nothing() -> None:
    pool = BlockPool(3, size=2)
    two = written(pool, [1, 2, 3]).fork()
    with pytest.raises(OutOfBlocks) as caught:
        two.append_slots(2)  # a copy and a block, and one block is free
    assert (caught.value.needed, caught.value.free) == (2, 1)
    assert (two.blocks, two.length, len(pool.free)) == ([0, 1], 3, 1)
    pool.allocate()
    with pytest.raises(OutOfBlocks):
        pool.allocate()


@pytest.mark.parametrize("length", [-1, 4])
def test_a_table_is_cut_to_what_it_has(length: int) -> None:
    table = PageTable(BlockPool(2, size=2))
    table.append_slots(3)
    with pytest.raises(PageError, match="a table of 3 tokens is cut to"):
        table.truncate(length)


def test_tokens_are_not_appended_backwards() -> None:
    with pytest.raises(AssertionError, match="truncate"):
        PageTable(BlockPool(2)).append_slots(-1)


def test_a_table_is_published_whole() -> None:
    table = PageTable(BlockPool(2, size=2))
    table.append_slots(2)
    with pytest.raises(PageError, match="1 tokens are published of 2"):
        table.publish([1])


def test_only_what_is_published_is_shared() -> None:
    table = PageTable(BlockPool(4, size=2))
    table.append_slots(3)
    with pytest.raises(PageError, match="published 0 of 1 full blocks"):
        table.fork()


def test_only_an_empty_table_adopts_and_only_what_it_says() -> None:
    pool = BlockPool(4, size=2)
    one, two = written(pool, [1, 2, 3]), PageTable(pool)
    with pytest.raises(PageError, match="5 tokens in 2 blocks"):
        two.adopt(one.blocks, 5)
    two.adopt(one.blocks, 3)
    with pytest.raises(PageError, match="adopted by a table of 2"):
        two.adopt(one.blocks, 3)


@pytest.mark.parametrize(("n_blocks", "size"), [(0, 16), (4, 0)])
def test_a_pool_has_blocks(n_blocks: int, size: int) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        BlockPool(n_blocks, size)


# ── A long random life ────────────────────────────────────────────────────────────────────────────────────────────────


class Holder:
    """A request of the model: its tokens, and its table, which is what is tested."""

    def __init__(self, table: PageTable, tokens: list[int], salt: str) -> None:
        self.table, self.tokens, self.salt = table, tokens, salt


class Life:
    """Random operations on a small pool. ``memory`` holds, for each slot, what a key depends on: the salt and all tokens up to its own."""

    SIZE = 3

    def __init__(self, seed: int, *, n_blocks: int = 14, exact: bool = True) -> None:
        self.rng, self.pool, self.exact = random.Random(seed), BlockPool(n_blocks, self.SIZE), exact
        self.memory: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.holders: list[Holder] = []
        self.past: list[tuple[list[int], str]] = [([], ""), ([], "salt")]
        self.seen: Counter[str] = Counter()

    def live(self, operations: int) -> None:
        for _ in range(operations):
            name = "free" if len(self.holders) > 6 else self.rng.choices(("start", "append", "publish", "fork", "truncate", "free"), (4, 8, 3, 3, 3, 2))[0]
            if name == "start" or self.holders:
                getattr(self, name)()
                self.seen[name] += 1
            self.check()
        while self.holders:
            self.free()
            self.check()
        assert len(self.pool.free) == self.pool.n_blocks, "blocks are lost"

    def start(self) -> None:
        """A new prompt, often the beginning of an old one, perhaps with another salt."""
        old, salt = self.rng.choice(self.past[-6:])
        salt = salt if self.rng.random() < 0.9 else self.rng.choice(("", "salt"))
        tokens = old[: self.rng.randint(0, len(old))] + [self.rng.randrange(2) for _ in range(self.rng.randint(1, 7))]
        known = self.pool.index.match(tokens, self.SIZE, salt)
        if self.exact:
            assert len(known) == self.longest_known(tokens, salt), "not the longest run of known blocks"
        self.seen["found"] += len(known)
        self.past.append((tokens, salt))
        holder = Holder(PageTable(self.pool), tokens[: len(known) * self.SIZE], salt)
        holder.table.adopt(known, len(holder.tokens))
        self.holders.append(holder)
        self.write(holder, tokens[len(holder.tokens) :])

    def longest_known(self, tokens: list[int], salt: str) -> int:
        known = {self.memory[block * self.SIZE + self.SIZE - 1] for block in self.pool.index.by_block}
        run = 0
        while (run + 1) * self.SIZE < len(tokens) and (salt, tuple(tokens[: (run + 1) * self.SIZE])) in known:
            run += 1
        return run

    def append(self) -> None:
        self.write(self.rng.choice(self.holders), [self.rng.randrange(2) for _ in range(self.rng.randint(1, 5))])

    def write(self, holder: Holder, tokens: list[int]) -> None:
        before = self.state(holder)
        try:
            slots, copies = holder.table.append_slots(len(tokens))
        except OutOfBlocks:
            assert self.state(holder) == before, "something was taken although not all could be"
            self.seen["out of blocks"] += 1
            return
        for source, to in copies:
            self.seen["copies"] += 1
            for i in range(self.SIZE):
                self.memory[to * self.SIZE + i] = self.memory.get(source * self.SIZE + i, ("", ()))
        for slot, token in zip(slots, tokens, strict=True):
            holder.tokens.append(token)
            self.memory[slot] = (holder.salt, tuple(holder.tokens))

    def state(self, holder: Holder) -> object:
        return list(holder.table.blocks), holder.table.length, dict(self.pool.users), list(self.pool.free), set(self.pool.index.by_block)

    def publish(self) -> Holder:
        holder = self.rng.choice(self.holders)
        holder.table.publish(holder.tokens, holder.salt)
        self.past.append((list(holder.tokens), holder.salt))
        if self.exact:
            assert self.longest_known([*holder.tokens, 0], holder.salt) == len(holder.tokens) // self.SIZE, "a full block was published and is not known"
        return holder

    def fork(self) -> None:
        holder = self.publish()
        self.holders.append(Holder(holder.table.fork(), list(holder.tokens), holder.salt))

    def truncate(self) -> None:
        holder = self.rng.choice(self.holders)
        length = self.rng.randint(0, len(holder.tokens))
        holder.table.truncate(length)
        del holder.tokens[length:]

    def free(self) -> None:
        holder = self.holders.pop(self.rng.randrange(len(self.holders)))
        holder.table.free()

    def check(self) -> None:
        pool, size = self.pool, self.SIZE
        for holder in self.holders:
            for t in range(len(holder.tokens)):
                slot = holder.table.blocks[t // size] * size + t % size
                assert self.memory[slot] == (holder.salt, tuple(holder.tokens[: t + 1])), "a request reads another's token"
        assert pool.users == Counter(block for holder in self.holders for block in holder.table.blocks), "users are miscounted"
        assert sorted([*pool.free, *pool.users]) == list(range(pool.n_blocks)), "a block is lost, or free and in use"
        assert {e.hash: e for e in pool.index.by_block.values()} == pool.index.by_hash, "the index contradicts itself"
        for block, entry in pool.index.by_block.items():
            before = self.memory[entry.parent.block * size + size - 1][1] if entry.parent else ()
            assert self.memory[block * size + size - 1] == (entry.salt, before + entry.tokens), "the index says what is not there"
            assert entry.parent is None or pool.index.by_block.get(entry.parent.block) is entry.parent, "a block is known and the one before it is not"


def test_a_long_random_life() -> None:
    seen: Counter[str] = Counter()
    for seed in range(6):
        life = Life(seed)
        life.live(2_000)
        seen += life.seen
    assert min(seen[what] for what in ("found", "copies", "out of blocks")) > 300  # a life worth living


def few_hashes(previous: int, tokens: tuple[int, ...], salt: str) -> int:
    return (previous + sum(tokens)) % 5


def test_a_random_life_with_equal_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "chain_hash", few_hashes)
    life = Life(0, exact=False)
    life.live(2_000)
    assert life.seen["found"] > 50


PAGES, INDEX = "underhood.infer.pages:", "underhood.infer.prefix:"
FAULTS = {
    "a block is handed out and the index still knows it": Edit(f"{PAGES}BlockPool.allocate", "self.index.forget(block)", "pass"),
    "users are not counted": Edit(f"{PAGES}BlockPool.share", "self.users.get(block, 0) + 1", "1"),
    "a shared block stays free": Edit(f"{PAGES}BlockPool.share", "self.free.pop(block, None)", "pass"),
    "a block is free while somebody uses it": Edit(f"{PAGES}BlockPool.release", "self.users[block] == 0:", "self.users[block] >= 0:"),
    "a block is never free again": Edit(
        f"{PAGES}BlockPool.release", "self.free[block] = None\n        self.free.move_to_end(block, last=block in self.index)", "pass"
    ),
    "shared blocks are written": Edit(f"{PAGES}BlockPool.writable", "self.users[block] == 1", "True"),
    "known blocks are written": Edit(f"{PAGES}BlockPool.writable", "block not in self.index", "True"),
    "the copy is left out": Edit(f"{PAGES}PageTable.append_slots", "copies.append((old, self.blocks[-1]))", "pass"),
    "the original is not released": Edit(f"{PAGES}PageTable.append_slots", "self.pool.release(old)", "pass"),
    "slots are one block late": Edit(f"{PAGES}PageTable.append_slots", "self.blocks[t // size]", "self.blocks[t // size - 1]"),
    "slots are off by one": Edit(f"{PAGES}PageTable.append_slots", "range(self.length, end)", "range(self.length - 1, end - 1)"),
    "some blocks are taken though not all can be": Edit(f"{PAGES}PageTable.append_slots", "fresh + torn > len(self.pool.free)", "len(self.pool.free) == 0"),
    "the copy is not counted": Edit(f"{PAGES}PageTable.append_slots", "if fresh + torn > len", "if fresh > len"),
    "the twin is no user": Edit(f"{PAGES}PageTable.adopt", "self.pool.share(block)", "pass"),
    "the twin has the same list": Edit(f"{PAGES}PageTable.adopt", "list(blocks)", "blocks"),
    "one block too few is released": Edit(f"{PAGES}PageTable.truncate", "reversed(self.blocks[keep:])", "reversed(self.blocks[keep + 1 :])"),
    "one block too many is released": Edit(f"{PAGES}PageTable.truncate", "reversed(self.blocks[keep:])", "reversed(self.blocks[max(0, keep - 1) :])"),
    "the first block is released first": Edit(f"{PAGES}PageTable.truncate", "reversed(self.blocks[keep:])", "self.blocks[keep:]"),
    "what was cut stays published": Edit(f"{PAGES}PageTable.truncate", "min(self.published, length // self.pool.size)", "self.published"),
    "a block that is not full is published": Edit(
        f"{PAGES}PageTable.publish", "range(self.published, self.length // size)", "range(self.published, self.pool.blocks_of(self.length))"
    ),
    "the earlier block is taken and not counted": Edit(f"{PAGES}PageTable.publish", "self.pool.share(kept)", "pass"),
    "the whole prompt is found": Edit(f"{INDEX}PrefixIndex.match", "len(tokens) - size, size", "len(tokens) - size + 1, size"),
    "the search goes on after a gap": Edit(f"{INDEX}PrefixIndex.match", "break", "continue"),
    "the search stops early": Edit(f"{INDEX}PrefixIndex.match", "len(tokens) - size, size", "len(tokens) - 2 * size, size"),
    "the hash leaves out the block before": Edit(f"{INDEX}chain_hash", "(previous, tokens, salt)", "(tokens, salt)"),
    "the hash leaves out the salt": Edit(f"{INDEX}chain_hash", "(previous, tokens, salt)", "(previous, tokens)"),
    "an entry is forgotten by half": Edit(f"{INDEX}PrefixIndex.forget", "del self.by_hash[entry.hash]", "pass"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found(fault: str) -> None:
    with applied([FAULTS[fault]]) as reached, pytest.raises((AssertionError, KeyError, IndexError, PageError, OutOfBlocks)):
        for seed in range(3):
            Life(seed).live(2_000)
    reached.require()


WHERE_HASHES_ARE_EQUAL = {
    "the block before is not compared": Edit(f"{INDEX}PrefixIndex.find", "entry.parent", "parent"),
    "the tokens are not compared": Edit(f"{INDEX}PrefixIndex.find", "entry.tokens", "tokens"),
    "the salt is not compared": Edit(f"{INDEX}PrefixIndex.find", "entry.salt", "salt"),
    "a block is entered whose beginning is not known": Edit(f"{INDEX}PrefixIndex.add", "before is not None and parent is None", "False"),
    "another's entry is overwritten": Edit(f"{INDEX}PrefixIndex.add", "if key not in self.by_hash:", "if True:"),
}


@pytest.mark.parametrize("fault", WHERE_HASHES_ARE_EQUAL)
def test_every_fault_is_found_where_hashes_are_equal(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "chain_hash", few_hashes)
    with applied([WHERE_HASHES_ARE_EQUAL[fault]]), pytest.raises((AssertionError, KeyError, PageError)):
        for seed in range(3):
            Life(seed, exact=False).live(2_000)


def test_an_index_knows_nothing_at_first() -> None:
    index = PrefixIndex()
    index.forget(3)
    assert 3 not in index
    assert index.match([1, 2, 3], 1) == []
