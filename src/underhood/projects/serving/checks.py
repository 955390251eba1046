"""What any correct pages and scheduler satisfy. Everything is driven by scripts of operations; what is expected stands in the script, or in a dict."""

import random
from functools import partial
from typing import Any

from underhood.infer.prefix import Entry
from underhood.lab.check import Check, Part, check, equal, holds
from underhood.projects.serving.scheduler_checks import SCHEDULER_CHECKS
from underhood.projects.serving.scripts import Life, pool_of, refused, runs, script, whole, written

EQUAL_HASH = 2**61 - 1  # Python's hash of n and of n + this are equal

# ── what a block holds ────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "1 · What a block holds",
    hints=(
        "The key of a token depends on everything before it. Is a block with the same tokens in another text the same block?",
        "The hash of a block is made of three things: the hash of the block before, the tokens, and the salt.",
        "`return hash((previous, tokens, salt))`.",
    ),
)
@whole
def check_the_hash_is_a_chain(part: Part, rng: random.Random) -> None:
    """The hash is the same for the same three things, and another where one of them is another."""
    one = runs(lambda: part.chain_hash(0, (1, 2), ""), "a block has a hash", given="the first block, tokens 1 2")
    equal(part.chain_hash(0, (1, 2), ""), one, "the same block has the same hash", given="(0, (1, 2), '') twice")
    for words, args in {
        "after another block": (1, (1, 2), ""),
        "other tokens": (0, (1, 3), ""),
        "tokens in another order": (0, (2, 1), ""),
        "another salt": (0, (1, 2), "b"),
    }.items():
        says = "the hash depends on the block before, the tokens and the salt"
        holds(part.chain_hash(*args) != one, says, given=f"{words}: {args} beside (0, (1, 2), '')", expected="another hash", found="the same")


@check(
    "1 · What a block holds",
    hints=(
        "Walk through the prompt block by block. When do you stop?",
        "Each block is looked for after the one that was found before it; the first that is not known ends the search. The last token is never found.",
        "`for at in range(0, len(tokens) - size, size)`: `entry = self.find(found[-1] if found else None, tuple(tokens[at : at + size]), salt)`; else break.",
    ),
)
@whole
def check_a_prompt_finds_its_beginning(part: Part, rng: random.Random) -> None:
    """A prompt finds the longest run of known blocks from its beginning, after the same tokens and with the same salt, but never its own last token."""
    index = runs(part.PrefixIndex, "an index can be made")
    equal(runs(lambda: index.match([1, 2, 3], 2), "an empty index can be asked"), [], "an empty index finds nothing")
    for block, before, tokens in ((4, None, (1, 2)), (7, 4, (3, 4)), (5, 7, (1, 2)), (6, 5, (7, 8))):
        says = "add gives the block that stands for the tokens"
        equal(runs(partial(index.add, block, before, tokens), "a block can be entered", given=(block, before, tokens)), block, says, given=tokens)
    for prompt, salt, expected in (
        ([1, 2, 3, 4, 1, 2, 7, 8, 9], "", [4, 7, 5, 6]),
        ([1, 2, 3, 4, 9], "", [4, 7]),
        ([1, 2, 3, 4], "", [4]),
        ([1, 2, 3], "", [4]),
        ([1, 2], "", []),
        ([1, 9, 3, 4, 5], "", []),
        ([3, 4, 5], "", []),
        ([1, 2, 1, 2, 7, 8, 9], "", [4]),
        ([1, 2, 9, 9, 1, 2, 9], "", [4]),
        ([1, 2, 9, 9, 3, 4, 5], "", [4]),
        ([1, 2, 3, 4, 5], "another", []),
    ):
        found = runs(partial(index.match, prompt, 2, salt), "a prompt can be looked up", given=prompt)
        says = "a prompt finds the known blocks that it begins with, one after the other, without its last token"
        equal(list(found), expected, says, given=f"known: 1 2 (block 4), then 3 4 (7), 1 2 (5), 7 8 (6); prompt {prompt}, salt {salt!r}")


@check(
    "1 · What a block holds",
    hints=(
        "Python's hash of 5 and of 5 + 2**61 - 1 is the same number. What does your index answer to the second?",
        "A hash says where to look. Compare what is there: its parent, its tokens, its salt.",
        "`return entry if entry and (entry.parent, entry.tokens, entry.salt) == (parent, tokens, salt) else None`.",
    ),
)
@whole
def check_the_tokens_decide(part: Part, rng: random.Random) -> None:
    """A block whose hash is equal by accident, or by intent, is not found, and does not take the other's place."""
    index = runs(part.PrefixIndex, "an index can be made")
    index.add(1, None, (5, 6))
    other = [5 + EQUAL_HASH, 6, 7]
    says = "different tokens are another block, whatever their hash"
    equal(list(runs(lambda: index.match(other, 2), "the index can be asked")), [], says, given="known: 5 6; asked: 5 + (2**61 - 1), 6")
    runs(lambda: index.add(2, None, tuple(other[:2])), "a block of an equal hash can be entered", given="known: 5 6; added: 5 + (2**61 - 1), 6")
    equal(list(index.match([5, 6, 7], 2)), [1], "who was first stays", given="known: 5 6; added: 5 + (2**61 - 1), 6; asked: 5 6")
    key = part.chain_hash(0, (5, 6), "")
    index.by_hash = {key: Entry(1, key, None, (5, 6), "b")}  # strings of equal hashes are hard to come by
    given = "known: 5 6 with salt b, under the hash of 5 6 without salt; asked: 5 6 without salt"
    equal(list(index.match([5, 6, 7], 2)), [], "another salt is another block, whatever its hash", given=given)


@check(
    "1 · What a block holds",
    hints=(
        "Two requests compute the same block at the same time. Which of the two does the index name?",
        "The first one stays. What comes after a block that is not known is not entered, for nobody could find it. What is forgotten is gone from both dicts.",
        "add: `parent = self.by_block.get(before)`; if `find` knows it, return its block; else enter an `Entry`, unless its hash is taken.",
    ),
)
@whole
def check_entries_come_and_go(part: Part, rng: random.Random) -> None:
    """Equal content is entered once, nothing is entered after an unknown block, and what is forgotten is not found again."""
    index = runs(part.PrefixIndex, "an index can be made")
    runs(lambda: index.forget(3), "forgetting what was never known is no error")
    index.add(1, None, (5, 6))
    equal(index.add(2, None, (5, 6)), 1, "who comes second is given the block of who came first", given="5 6 in block 1, then in block 2")
    equal(list(index.match([5, 6, 7], 2)), [1], "the first one is found", given="5 6 in block 1, then in block 2")
    equal(index.add(3, None, (5, 6), "b"), 3, "another salt is another block", given="5 6 in block 1; with salt b in block 3")
    equal(index.add(9, 8, (1, 1)), 9, "a block after one that is not known stands for itself", given="block 9 after block 8, of which nothing is known")
    holds(9 not in dict(index.by_block), "a block after one that is not known is not entered", given="block 9 after block 8, of which nothing is known")
    index.add(4, 1, (7, 8))
    equal(index.add(5, 3, (7, 8), "b"), 5, "the same tokens after another block are another block", given="7 8 after block 1, and after block 3")
    index.forget(4)
    equal(list(index.match([5, 6, 7, 8, 9], 2)), [1], "what is forgotten is not found", given="5 6 (block 1), 7 8 (block 4, forgotten)")
    equal(index.add(6, 1, (7, 8)), 6, "what was forgotten can be entered anew", given="7 8 in block 4, forgotten, then in block 6")
    equal(list(index.match([5, 6, 7, 8, 9], 2)), [1, 6], "the new block is found", given="7 8 in block 4, forgotten, then in block 6")
    index.forget(1)
    equal(list(index.match([5, 6, 7, 8, 9], 2)), [], "what stood behind a forgotten block is not found either", given="5 6 forgotten, 7 8 known")
    index.add(7, None, (5, 6))
    equal(
        list(index.match([5, 6, 7, 8, 9], 2)),
        [7],
        "a block belongs behind the one that it was computed after",
        given="5 6 forgotten and entered anew as block 7",
    )


# ── who uses a block ──────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "2 · Who uses a block",
    hints=(
        "Three requests read one block and one of them ends. May it be handed out again?",
        "Count users: `allocate` gives a block one, `share` adds one, `release` takes one; at none it is free.",
        "`self.users[block] = self.users.get(block, 0) + 1`; release: raise if it is not in users, subtract, and at 0 move it to `free`.",
    ),
)
@whole
def check_users_are_counted(part: Part, rng: random.Random) -> None:
    """A block is free when its last user has released it, and no sooner; one release too many and sharing of what holds nothing are errors."""
    for n, size in ((0, 16), (4, 0)):
        refused(partial(part.BlockPool, n, size), "ConfigError", "a pool has at least one block of at least one slot", given=f"{n} blocks of {size}")
    pool = pool_of(part, 3, 4)
    equal([runs(pool.allocate, "a block can be had") for _ in range(2)], [0, 1], "fresh blocks are handed out in order", given="3 blocks")
    equal((dict(pool.users), list(pool.free)), ({0: 1, 1: 1}, [2]), "a block that is handed out has one user and is not free", given="3 blocks, 2 handed out")
    runs(lambda: (pool.share(0), pool.share(0)), "a block in use can be shared")
    equal(dict(pool.users), {0: 3, 1: 1}, "each share is one user more", given="block 0 shared twice")
    for left in (2, 1):
        runs(lambda: pool.release(0), "a block can be released")
        equal((dict(pool.users), list(pool.free)), ({0: left, 1: 1}, [2]), "a block stays as long as somebody uses it", given=f"block 0, {left} users left")
    pool.release(0)
    equal((dict(pool.users), sorted(pool.free)), ({1: 1}, [0, 2]), "a block is free when its last user has released it", given="block 0, no user left")
    refused(lambda: pool.release(0), "PageError", "a release too many is an error", given="block 0, which nobody uses")
    refused(lambda: pool.release(-1), "PageError", "there is no block -1", given="release(-1)")
    for block in (0, 3, -1):
        refused(partial(pool.share, block), "PageError", "a free block that holds nothing cannot be shared", given=f"block {block}")
    equal((dict(pool.users), sorted(pool.free)), ({1: 1}, [0, 2]), "what is refused changes nothing", given="after five refusals")
    pool.allocate(), pool.allocate()
    refused(pool.allocate, "OutOfBlocks", "there is an error for no more blocks", given="all 3 in use")
    found = [pool.blocks_of(n) for n in (0, 1, 4, 5, 8)]
    equal(found, [0, 1, 1, 2, 2], "a block that is begun counts", given="0, 1, 4, 5 and 8 tokens in blocks of 4")


@check(
    "2 · Who uses a block",
    hints=(
        "A conversation ends, and goes on a minute later. What would you like to find?",
        "A free block keeps what it holds until it is handed out. So those that hold nothing known go first, and then those that have been free longest.",
        "release: `self.free.move_to_end(block, last=block in self.index)`; allocate: `popitem(last=False)`, then `self.index.forget(block)`.",
    ),
)
@whole
def check_content_outlives_its_users(part: Part, rng: random.Random) -> None:
    """A free block that the index knows can be shared again, is handed out last, and is forgotten when it is."""
    pool = pool_of(part, 4, 1)
    for token in (1, 2, 3):
        pool.index.add(pool.allocate(), None, (token,))
    for block in (1, 0, 2):
        pool.release(block)
    equal(list(pool.free), [3, 1, 0, 2], "blocks without known content go first, then those that have been free longest", given="0 1 2 known, freed as 1 0 2")
    runs(lambda: pool.share(0), "a free block that the index knows can be shared")
    equal((dict(pool.users), list(pool.free)), ({0: 1}, [3, 1, 2]), "who is shared from the free ones is not free", given="block 0 shared")
    equal([pool.writable(0), pool.allocate(), pool.writable(3)], [False, 3, True], "who is known to the index may not be written to", given="block 0; block 3")
    pool.share(3)
    equal(pool.writable(3), False, "who has two users may not be written to", given="block 3")
    equal(pool.allocate(), 1, "the block that has been free longest is next", given="1 and 2 are free, 1 for longer")
    equal(list(pool.index.match([2, 9], 1)), [], "the index forgets a block that is handed out", given="block 1 held token 2")
    equal([list(pool.index.match([token, 9], 1)) for token in (1, 3)], [[0], [2]], "the others are known as before", given="blocks 0 and 2")
    pool.release(3), pool.release(3), pool.release(1)
    equal(list(pool.free), [1, 3, 2], "blocks without known content come to the front", given="2 known and free; then 3 and 1 freed")


# ── where a token goes ────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "3 · Where a token goes",
    hints=(
        "Blocks of four slots; a table holds blocks 0, 1 and 3. In which slot lies token 9?",
        "Token t is in the table's entry t // size, at place t % size. Take as many new blocks as the new length needs.",
        "`slots = [self.blocks[t // size] * size + t % size for t in range(self.length, end)]`, after the new blocks are in the list.",
    ),
)
@whole
def check_slots_follow_the_table(part: Part, rng: random.Random) -> None:
    """Two texts that grow by turns get their own slots; a token lies in its block, at its place; what is given back is used again."""
    pool = pool_of(part, 5, 4)
    one, two = (runs(lambda: part.PageTable(pool), "a table can be made") for _ in range(2))
    turns: tuple[tuple[Any, int, list[int]], ...] = (
        (one, 5, [0, 1, 2, 3, 4]),
        (two, 3, [8, 9, 10]),
        (one, 4, [5, 6, 7, 12]),
        (two, 0, []),
        (two, 1, [11]),
        (two, 1, [16]),
    )
    for i, (table, n, expected) in enumerate(turns, 1):
        found = runs(partial(table.append_slots, n), "slots can be had", given=f"operation {i}: {n} more tokens")
        equal(
            (list(found[0]), list(found[1])), (expected, []), "a token's slot is its block's first slot and its place there", given=f"operation {i}: {n} more"
        )
    equal(
        (list(one.blocks), one.length, list(two.blocks), two.length),
        ([0, 1, 3], 9, [2, 4], 5),
        "tables list blocks in the order of tokens",
        given="9 and 5 tokens",
    )
    equal((dict(pool.users), len(pool.free)), ({0: 1, 1: 1, 3: 1, 2: 1, 4: 1}, 0), "each block has one user", given="9 and 5 tokens in blocks of 4")
    runs(one.free, "a table can be freed")
    equal((list(one.blocks), one.length, list(pool.free)), ([], 0, [0, 1, 3]), "free gives all blocks back, the last one first", given="blocks 0 1 3")


@check(
    "3 · Where a token goes",
    hints=(
        "Five guesses were computed and two were right. What has to go?",
        "The length, and every block that holds no token of what is left; of what was published, only the full blocks that are left.",
        "`keep = self.pool.blocks_of(length)`; release `reversed(self.blocks[keep:])`; `del self.blocks[keep:]`; then set length and published.",
    ),
)
@whole
def check_what_is_cut_is_given_back(part: Part, rng: random.Random) -> None:
    """After a cut the next token stands where the cut was, and blocks behind it are free."""
    pool = pool_of(part, 5, 4)
    table = part.PageTable(pool)
    table.append_slots(3), table.append_slots(9)
    runs(lambda: table.truncate(6), "a table can be cut", given="12 tokens, 6 are kept")
    equal((list(table.blocks), table.length, len(pool.free)), ([0, 1], 6, 3), "blocks without tokens are given back", given="12 tokens in blocks of 4, 6 kept")
    equal(list(table.append_slots(3)[0]), [6, 7, 8], "the next token stands where the cut was", given="12 tokens, 6 kept, 3 more")
    table.truncate(9), table.truncate(8)
    equal((list(table.blocks), table.length), ([0, 1], 8), "a cut at the end of a block keeps it, and no more", given="9 tokens, 8 kept")
    for length in (-1, 9):
        refused(partial(table.truncate, length), "PageError", "a table is cut to what it has", given=f"8 tokens, {length} kept")
    table.truncate(0)
    equal((list(table.blocks), sorted(pool.free)), ([], [0, 1, 2, 3, 4]), "nothing kept is nothing held", given="0 kept")


@check(
    "3 · Where a token goes",
    hints=(
        "Two blocks are needed and one is free. How many are taken?",
        "None: whoever cannot have all takes nothing. Count before you take.",
        "`if fresh + torn > len(self.pool.free): raise OutOfBlocks(fresh + torn, len(self.pool.free))`, before the first `allocate`.",
    ),
)
@whole
def check_all_or_nothing(part: Part, rng: random.Random) -> None:
    """Where blocks do not suffice nothing is taken, and what fits can still be had."""
    pool = pool_of(part, 3, 4)
    table = part.PageTable(pool)
    table.append_slots(5)
    refused(lambda: table.append_slots(8), "OutOfBlocks", "too many tokens are an error", given="5 tokens in 2 of 3 blocks, 8 more")
    found = (list(table.blocks), table.length, dict(pool.users), list(pool.free))
    equal(found, ([0, 1], 5, {0: 1, 1: 1}, [2]), "where not all can be had, nothing is taken", given="5 tokens in 2 of 3 blocks, 8 more refused")
    equal(list(runs(lambda: table.append_slots(7), "what fits can be had")[0]), [5, 6, 7, 8, 9, 10, 11], "and what fits can be had", given="7 more")


# ── one page, two readers ─────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "4 · One page, two readers",
    hints=(
        "Two requests have computed the same block at the same time. One of the two blocks is superfluous: which, and when?",
        "publish enters the full blocks in order. Where the index names another block, share that one, release yours, and put it into the table.",
        "`kept = self.pool.index.add(mine, before, tuple(tokens[i * size : (i + 1) * size]), salt)`; if kept != mine: share, release, replace.",
    ),
)
@whole
def check_equal_pages_are_kept_once(part: Part, rng: random.Random) -> None:
    """What is published is found and adopted, equal blocks are kept once, and a text finds what it left."""
    pool = pool_of(part, 8, 2)
    one, two = part.PageTable(pool), part.PageTable(pool)
    one.append_slots(5), two.append_slots(5)
    refused(lambda: one.publish([1, 2, 3, 4]), "PageError", "a table is published with all its tokens", given="5 tokens in the table, 4 given")
    runs(lambda: one.publish([1, 2, 3, 4, 5]), "a table can be published")
    equal(sorted(pool.index.by_block), [0, 1], "full blocks are published, and no others", given="5 tokens in blocks of 2")
    equal(one.published, 2, "published counts the full blocks that the index has been told of", given="5 tokens in blocks of 2")
    two.publish([1, 2, 3, 9, 9])
    equal(list(two.blocks), [0, 4, 5], "an equal block that was there before takes the place of ours", given="1 2 3 4 5, then 1 2 3 9 9")
    equal((dict(pool.users), len(pool.free)), ({0: 2, 1: 1, 2: 1, 4: 1, 5: 1}, 3), "the superfluous block is free", given="1 2 3 4 5, then 1 2 3 9 9")
    three = written(part, pool, [1, 2, 3, 9, 7, 7])
    equal(list(three.blocks)[:2], [0, 4], "a common beginning is adopted", given="1 2 3 9 7 7 after 1 2 3 9 9")
    equal((pool.users[0], pool.users[4]), (3, 2), "who adopts is a user more", given="blocks 0 and 4")
    for table in (one, two, three):
        table.free()
    equal((dict(pool.users), len(pool.free)), ({}, 8), "when all have left every block is free", given="three tables freed")
    equal(list(written(part, pool, [1, 2, 3, 4, 5, 6]).blocks)[:2], [0, 1], "a text that comes back finds what it left", given="1 2 3 4 5, freed; 1 2 3 4 5 6")
    table = part.PageTable(pool)
    refused(lambda: table.adopt([0, 1], 5), "PageError", "what is adopted has as many blocks as its tokens need", given="2 blocks of 2, 5 tokens")
    table.adopt([0, 1], 4)
    refused(lambda: table.adopt([0, 1], 4), "PageError", "only an empty table adopts", given="a table of 4 tokens")
    table.truncate(3), table.append_slots(1)
    runs(lambda: table.publish([1, 2, 3, 8]), "a table can be published again after a cut")
    given = "1 2 3 4 published, cut to 1 2 3, then 8, published; asked: 1 2 3 8 9"
    equal(list(pool.index.match([1, 2, 3, 8, 9], 2)), list(table.blocks), "what is written after a cut is published as well", given=given)


@check(
    "4 · One page, two readers",
    hints=(
        "Two tables share a last block that is half full. One writes its next token. What does the other read?",
        "Before you write into a last block with room, ask the pool whether it is writable. If not: take a new one, say what is to be copied, release the old.",
        "`torn = n > 0 and self.length % size > 0 and not self.pool.writable(self.blocks[-1])`; then `copies.append((old, self.blocks[-1]))`.",
    ),
)
@whole
def check_who_writes_copies(part: Part, rng: random.Random) -> None:
    """The first of two readers to write copies the last block, the other does not; a block that the index knows is copied too."""
    pool = pool_of(part, 4, 4)
    one = written(part, pool, [1, 2, 3, 4, 5, 6])
    two = runs(one.fork, "a table can be forked", given="6 tokens in blocks of 4")
    equal((list(two.blocks), two.length, dict(pool.users)), ([0, 1], 6, {0: 2, 1: 2}), "a fork shares every block", given="6 tokens in blocks of 4")
    found = runs(lambda: two.append_slots(1), "a fork can go on")
    equal(
        (list(found[0]), list(found[1])), ([2 * 4 + 2], [(1, 2)]), "who writes to a shared block gets a copy of it", given="two readers of block 1, one writes"
    )
    equal((list(one.blocks), list(two.blocks), dict(pool.users)), ([0, 1], [0, 2], {0: 2, 1: 1, 2: 1}), "and leaves the block to the other", given="as before")
    found = one.append_slots(1)
    equal((list(found[0]), list(found[1])), ([1 * 4 + 2], []), "who is alone copies nothing", given="the other reader of block 1 writes")
    three = one.fork()
    three.append_slots(0)
    equal(list(three.blocks), [0, 1], "who writes nothing copies nothing", given="append_slots(0)")
    refused(
        lambda: three.append_slots(2), "OutOfBlocks", "the copy counts as a block that is needed", given="one block is free, and a copy and a block are needed"
    )
    equal((list(three.blocks), len(pool.free)), ([0, 1], 1), "where not all can be had, nothing is taken", given="a copy and a block needed, one is free")
    three.free(), two.free()
    one.truncate(2)
    found = one.append_slots(1)
    equal(
        list(found[1]),
        [(0, next(iter(one.blocks)))],
        "a block that the index knows is not written to",
        given="published, cut back to 2 of its 4 tokens, 1 more",
    )
    equal(list(pool.index.match([1, 2, 3, 4, 5], 4)), [0], "so that it can still be found", given="the same")
    fresh = part.PageTable(pool)
    fresh.append_slots(4)
    refused(fresh.fork, "PageError", "only what is published is shared whole", given="a full block that is not published")


@check(
    "4 · One page, two readers",
    hints=(
        "The message names the operation after which it goes wrong. Which of your methods did it call last?",
        "Write the blocks of all tables and the counts of the pool on paper, operation by operation; blocks are few.",
        "Most often: a count that is not raised in `adopt`, a table that shares its list with a twin, a block that is written to though the index knows it.",
    ),
)
@whole
def check_a_random_life(part: Part, rng: random.Random) -> None:
    """After each of hundreds of random operations every text reads its own tokens, every block has its users, and none is lost."""
    life = Life(part, 14, 3)
    for i, operation in enumerate(script(rng, 400), 1):
        given = f"operation {i} of 400 ({operation[0]})"
        runs(partial(life.do, *operation), "an operation runs", given=given)
        life.look(given)
    for table, _ in life.texts:
        table.free()
    equal(len(list(life.pool.free)), 14, "when all have left every block is free", given="14 blocks, after 400 operations")


CHECKS: tuple[Check, ...] = (
    check_the_hash_is_a_chain,
    check_a_prompt_finds_its_beginning,
    check_the_tokens_decide,
    check_entries_come_and_go,
    check_users_are_counted,
    check_content_outlives_its_users,
    check_slots_follow_the_table,
    check_what_is_cut_is_given_back,
    check_all_or_nothing,
    check_equal_pages_are_kept_once,
    check_who_writes_copies,
    check_a_random_life,
    *SCHEDULER_CHECKS,
)
