"""What drives the checks: a life of page tables beside a dict, and a scheduler with a model that is a sum."""

import functools
import random
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from underhood.base.errors import UnderhoodError
from underhood.infer.request import Request, SchedulerConfig
from underhood.lab.check import CheckFailed, Part, equal, holds


def kind_of(error: Exception) -> str:
    """What an error is called where it was raised: one from another process comes as the nearest kind that both know."""
    return str(getattr(error, "found_as", type(error).__name__))


def runs(call: Callable[[], Any], says: str, *, given: Any = None) -> Any:
    """The result of ``call()``; an exception in it is a failed check, and is called what it is called where it was raised."""
    try:
        return call()
    except CheckFailed:
        raise
    except Exception as error:
        raise CheckFailed(says, given=given, expected="a result", found=f"{kind_of(error)}: {error}") from error


def whole(run: Callable[[Part, random.Random], None]) -> Callable[[Part, random.Random], None]:
    """The check, of which an operation that raises where none should is a failure."""

    @functools.wraps(run)
    def check_all(part: Part, rng: random.Random) -> None:
        runs(lambda: run(part, rng), "an operation raises an error where it should not")

    return check_all


def refused(call: Callable[[], Any], name: str, says: str, *, given: Any = None) -> None:
    """Fail unless ``call()`` raises the error called ``name``."""
    try:
        found = call()
    except CheckFailed:
        raise
    except Exception as error:
        if kind_of(error) != name:
            raise CheckFailed(says, given=given, expected=name, found=f"{kind_of(error)}: {error}") from error
    else:
        raise CheckFailed(says, given=given, expected=name, found=f"no error, but {found}")


def pool_of(part: Part, n_blocks: int, size: int) -> Any:
    """A new pool."""
    return runs(lambda: part.BlockPool(n_blocks, size), "a pool can be made", given=f"{n_blocks} blocks of {size} slots")


def written(part: Part, pool: Any, tokens: Sequence[int], salt: str = "") -> Any:
    """A table of ``tokens``, found in the index as far as it goes, all written and published."""
    table = runs(lambda: part.PageTable(pool), "a table can be made")
    known = runs(lambda: pool.index.match(tokens, pool.size, salt), "the index can be asked", given=tokens)
    runs(lambda: table.adopt(known, len(known) * pool.size), "a table adopts what was found", given=known)
    runs(lambda: table.append_slots(len(tokens) - table.length), "slots can be had", given=tokens)
    runs(lambda: table.publish(tokens, salt), "a table can be published", given=tokens)
    return table


# ── page tables ───────────────────────────────────────────────────────────────────────────────────────────────────────


def script(rng: random.Random, operations: int) -> list[tuple[str, float, float, tuple[int, ...]]]:
    """A life in advance: what is done, to whom (a share of those there are), how far (a share), and tokens."""
    names, weights = ("start", "extend", "publish", "fork", "cut", "free"), (4, 8, 3, 3, 3, 2)
    return [(rng.choices(names, weights)[0], rng.random(), rng.random(), tuple(rng.randrange(2) for _ in range(rng.randint(1, 6)))) for _ in range(operations)]


class Life:
    """Tables under a script, beside a dict: for each slot, the tokens that its key depends on."""

    def __init__(self, part: Part, n_blocks: int, size: int) -> None:
        self.part, self.size, self.pool = part, size, pool_of(part, n_blocks, size)
        self.memory: dict[int, tuple[int, ...]] = {}
        self.texts: list[tuple[Any, list[int]]] = []
        self.past: list[list[int]] = [[]]

    def do(self, name: str, who: float, far: float, tokens: tuple[int, ...]) -> None:
        """One operation of the script."""
        if name == "start" or not self.texts:
            old = self.past[-1 - int(who * min(6, len(self.past)))]
            return self.start(old[: int(far * (len(old) + 1))] + list(tokens))
        i = int(who * len(self.texts))
        table, text = self.texts[i]
        if name == "free" or len(self.texts) > 6:
            table.free()
            del self.texts[i]
        elif name == "extend":
            self.write(table, text, tokens)
        elif name == "cut":
            length = int(far * (len(text) + 1))
            table.truncate(length)
            del text[length:]
        else:
            table.publish(text)
            self.past.append(list(text))
            if name == "fork":
                self.texts.append((table.fork(), list(text)))

    def start(self, tokens: list[int]) -> None:
        """A new text, found as far as it goes."""
        known = self.pool.index.match(tokens, self.size)
        table, text = self.part.PageTable(self.pool), tokens[: len(known) * self.size]
        table.adopt(known, len(text))
        self.texts.append((table, text))
        self.past.append(tokens)
        self.write(table, text, tokens[len(text) :])

    def write(self, table: Any, text: list[int], tokens: Sequence[int]) -> None:
        """The keys of ``tokens``, where the table says; nothing where blocks run out."""
        try:
            slots, copies = table.append_slots(len(tokens))
        except UnderhoodError as error:
            if kind_of(error) != "OutOfBlocks":
                raise
            return
        for source, to in copies:
            self.memory.update({to * self.size + i: self.memory.get(source * self.size + i, ()) for i in range(self.size)})
        for slot, token in zip(slots, tokens, strict=True):
            text.append(token)
            self.memory[slot] = tuple(text)

    def look(self, given: str) -> None:
        """Every text is there, the index knows what is published, every block has its users, and none is lost."""
        tables, known = [list(table.blocks) for table, _ in self.texts], set(self.pool.index.by_block)
        for blocks, (table, text) in zip(tables, self.texts, strict=True):
            told = blocks[: table.published]
            unknown = [block for block in told if block not in known]
            holds(not unknown, "of the first `published` blocks the index knows what they hold", given=given, expected=told, found=f"not known: {unknown}")
            for t in range(len(text)):
                read = self.memory.get(blocks[t // self.size] * self.size + t % self.size)
                holds(read == tuple(text[: t + 1]), "a text reads its own tokens", given=f"{given}, token {t}", expected=text[: t + 1], found=read)
        users, free = dict(self.pool.users), list(self.pool.free)
        equal(users, dict(Counter(block for blocks in tables for block in blocks)), "each block has as many users as tables hold it", given=given)
        equal(sorted([*free, *users]), list(range(self.pool.n_blocks)), "a block is free or in use, and none is lost", given=given)


# ── a scheduler ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Driver:
    """A scheduler and a model that is a sum: a token's key depends on the token, its position and all keys before it, read through the table."""

    def __init__(self, part: Part, *, n_blocks: int = 100, size: int = 4, **fields: Any) -> None:
        settings: dict[str, Any] = {"context": 100, "tokens_per_step": 16, "max_running": 4, "watermark": 0.0} | fields
        self.size, self.n_blocks, self.keys = size, n_blocks, dict[int, int]()
        self.pool = pool_of(part, n_blocks, size)
        self.scheduler = runs(lambda: part.Scheduler(SchedulerConfig(**settings), self.pool), "a scheduler can be made", given=settings)
        self.batch = runs(lambda: self.scheduler.batch, "the scheduler has a Batch in `batch`")
        self.batch.kind = Request  # requests are made where the scheduler is: they are the objects that it knows
        self.names: dict[Any, str] = {}

    def add(self, name: str, prompt: Sequence[int], n_max: int, *, client: str = "", salt: str = "") -> Any:
        """Let a new request wait."""
        request = self.batch.kind(list(prompt), n_max, client=client or name, salt=salt)
        runs(lambda: self.scheduler.add(request), "a request can be added", given=f"{name}: {len(prompt)} tokens, {n_max} to come")
        self.names[request] = name
        return request

    @property
    def busy(self) -> bool:
        """Whether anybody waits or runs."""
        return len(self.batch.running) + len(self.batch.queue) > 0

    def step(self) -> str:
        """One step, computed; in words, as ``a[0:3] b[0:5]``."""
        plan = runs(self.scheduler.step, "a step can be planned")
        new, words = {}, []
        for request, span in dict(plan.spans).items():
            start, end = span.start, span.end
            words.append(f"{self.names[request]}[{start}:{end}]")
            last = self.compute(request, span, start)
            if span.samples:
                new[request] = last
        runs(lambda: self.scheduler.advance(plan, new), "the new tokens can be taken in", given=" ".join(words))
        return " ".join(words)

    def compute(self, request: Any, span: Any, start: int) -> list[int]:
        """Write the keys of a span and give back the tokens that it adds: as many guesses as are right, and one more."""
        for source, to in span.copies:
            self.keys.update({to * self.size + i: self.keys.get(source * self.size + i, 0) for i in range(self.size)})
        held = [block * self.size + i for block in request.table.blocks for i in range(self.size)]
        past, after, tokens, known = sum(self.keys.get(slot, 0) for slot in held[:start]), list[int](), span.tokens, len(request.tokens)
        for at, (token, slot) in enumerate(zip(tokens, span.slots, strict=True), start):
            self.keys[slot] = key_of(past, at, token)
            past += self.keys.get(held[at], 0)
            after.append(self.keys.get(held[at], 0) % 5)
        draft, after = tokens[known - start :], after[known - 1 - start :]
        right = next((i for i, guess in enumerate(draft) if guess != after[i]), len(draft))
        return after[: right + 1]

    def all_steps(self, most: int = 400) -> list[str]:
        """Steps until nobody waits or runs."""
        found = list[str]()
        while self.busy and len(found) < most:
            found.append(self.step())
        return found


def key_of(past: int, at: int, token: int) -> int:
    """What stands for a key."""
    return zlib.crc32(f"{past}/{at}/{token}".encode())


def alone(prompt: Sequence[int], n_max: int) -> list[int]:
    """The tokens that a request gets with nobody else there and no pages at all."""
    past, key, tokens = 0, 0, list(prompt)
    for at in range(len(prompt) + n_max):
        if at >= len(prompt):
            tokens.append(key % 5)
        key = key_of(past, at, tokens[at])
        past += key
    return tokens[len(prompt) :]
