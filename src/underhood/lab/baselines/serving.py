"""The healthy runs behind the breaks of serving: the life of page tables, a crowd of requests on a clock of steps, and an engine with a small model.

Nothing is timed and nothing is trained. The crowd's model is a sum: the key of a token depends on the token, its position and all keys before it, read
through the page table, so that one wrong block changes the text from there on.
"""

import dataclasses
import itertools
import math
import random
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from underhood.base.rng import stream_seed
from underhood.infer.engine import Engine, EngineConfig
from underhood.infer.generation import Generation
from underhood.infer.pages import BlockPool, OutOfBlocks, PageTable, waste
from underhood.infer.request import Plan, Request, SchedulerConfig
from underhood.infer.sample import SampleConfig, generate
from underhood.infer.scheduler import Scheduler
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.nn.gpt import build_gpt
from underhood.nn.llama import llama
from underhood.text.bpe import BPE

Figures = Mapping[str, float | bool | str]
MERSENNE = 2**61 - 1  # Python's hash of an integer is its remainder by this: n and n + MERSENNE have one hash

# ── a random life of page tables ──────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, kw_only=True)
class LifeConfig:
    """Random operations on a pool that is too small for all of them."""

    n_blocks: int = 16
    size: int = 3
    operations: int = 1500
    tokens: int = 2  # of the alphabet: few, so that texts begin alike and go on alike


class Holder:
    """A text: its tokens, and its table, which is under test."""

    def __init__(self, table: PageTable, tokens: list[int]) -> None:
        self.table, self.tokens = table, tokens


class Life:
    """``memory`` holds, for each slot, what a key depends on: all tokens of its text up to its own."""

    def __init__(self, config: LifeConfig, seed: int) -> None:
        self.config, self.rng = config, random.Random(stream_seed(seed, "life"))
        self.pool, self.memory = BlockPool(config.n_blocks, config.size), dict[int, tuple[int, ...]]()
        self.holders: list[Holder] = []
        self.past: list[list[int]] = [[]]
        self.read, self.wrong, self.seen = 0, 0, Counter[str]()

    def live(self, watch: Watch) -> Figures:
        """Start, extend, publish, fork, cut and free at random; after each operation every text is read."""
        acts = {self.start: 4, self.extend: 8, self.publish: 3, self.fork: 3, self.cut: 3, self.leave: 2}
        for step in range(self.config.operations):
            act = self.rng.choices(list(acts), list(acts.values()))[0] if len(self.holders) < 7 else self.leave
            if self.holders or act == self.start:
                act()
            self.look()
            if step % 100 == 0:
                watch(step, wrong=self.wrong / max(1, self.read))
        while self.holders:
            self.leave()
        return {
            "wrong_reads": self.wrong / self.read,
            "texts_alike": self.wrong == 0,
            "blocks_lost": float(self.config.n_blocks - len(self.pool.free)),
            "none_lost": len(self.pool.free) == self.config.n_blocks,
            "counts_right": self.seen["miscounted"] == 0,
            "index_right": self.seen["index lies"] == 0,
            "found_share": self.seen["found"] / max(1, self.seen["prompt"]),
            "copies": float(self.seen["copies"]),
            "equal_hashes_apart": equal_hashes_apart(),
        }

    def start(self) -> None:
        """A new prompt, often the beginning of an old one, found in the index as far as it goes."""
        old = self.rng.choice(self.past[-6:])
        tokens = old[: self.rng.randint(0, len(old))] + self.some(self.rng.randint(1, 7))
        known = self.pool.index.match(tokens, self.config.size)
        self.past.append(tokens)
        holder = Holder(PageTable(self.pool), tokens[: len(known) * self.config.size])
        self.seen["found"] += len(holder.tokens)
        self.seen["prompt"] += len(tokens)
        holder.table.adopt(known, len(holder.tokens))
        self.holders.append(holder)
        self.write(holder, tokens[len(holder.tokens) :])

    def extend(self) -> None:
        """More tokens for one of them."""
        self.write(self.rng.choice(self.holders), self.some(self.rng.randint(1, 5)))

    def some(self, n: int) -> list[int]:
        """Random tokens."""
        return [self.rng.randrange(self.config.tokens) for _ in range(n)]

    def write(self, holder: Holder, tokens: list[int]) -> None:
        """Put the keys of ``tokens`` where the table says; nothing where blocks run out."""
        try:
            slots, copies = holder.table.append_slots(len(tokens))
        except OutOfBlocks:
            return
        size = self.config.size
        for source, to in copies:
            self.seen["copies"] += 1
            self.memory.update({to * size + i: self.memory.get(source * size + i, ()) for i in range(size)})
        for slot, token in zip(slots, tokens, strict=True):
            holder.tokens.append(token)
            self.memory[slot] = tuple(holder.tokens)

    def publish(self) -> Holder:
        """Enter the full blocks of one of them into the index."""
        holder = self.rng.choice(self.holders)
        holder.table.publish(holder.tokens)
        self.past.append(list(holder.tokens))
        return holder

    def fork(self) -> None:
        """A second text that shares all blocks of a first."""
        holder = self.publish()
        self.holders.append(Holder(holder.table.fork(), list(holder.tokens)))

    def cut(self) -> None:
        """Take the end of one of them back."""
        holder = self.rng.choice(self.holders)
        length = self.rng.randint(0, len(holder.tokens))
        holder.table.truncate(length)
        del holder.tokens[length:]

    def leave(self) -> None:
        """One of them ends."""
        self.holders.pop(self.rng.randrange(len(self.holders))).table.free()

    def look(self) -> None:
        """Read every text through its table, count the users of each block, and ask of each known block whether it holds what the index says."""
        size, pool = self.config.size, self.pool
        for holder in self.holders:
            held = [self.memory.get(block * size + i) for block in holder.table.blocks for i in range(size)]
            self.read += len(holder.tokens)
            self.wrong += sum(held[t] != tuple(holder.tokens[: t + 1]) for t in range(len(holder.tokens)))
        users = Counter(block for holder in self.holders for block in holder.table.blocks)
        self.seen["miscounted"] += pool.users != users or sorted([*pool.free, *users]) != list(range(pool.n_blocks))
        for block, entry in pool.index.by_block.items():
            text = tuple(token for e in chain(entry) for token in e)
            self.seen["index lies"] += self.memory.get(block * size + size - 1) != text


def chain(entry: object) -> list[tuple[int, ...]]:
    """The tokens of an entry of the index and of those before it, the first block first."""
    found = []
    while entry is not None:
        found.append(entry.tokens)  # type: ignore[attr-defined]
        entry = entry.parent  # type: ignore[attr-defined]
    return found[::-1]


def equal_hashes_apart() -> bool:
    """Whether two blocks whose tokens differ and whose hashes, by Python's own, do not are two blocks."""
    pool = BlockPool(4, 2)
    table = PageTable(pool)
    table.append_slots(3)
    table.publish([5, 7, 1])
    return pool.index.match([5 + MERSENNE, 7, 1], 2) == []


def life(config: LifeConfig, seed: int, watch: Watch) -> Figures:
    """One random life."""
    return Life(config, seed).live(watch)


# ── a crowd of requests ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrowdConfig:
    """Requests on a clock that counts steps: one client sends a flood at the start, three others send a request now and then."""

    n_blocks: int = 40
    size: int = 16
    rows: bool = False  # instead of blocks, the same memory in rows of the whole context, one for each request
    policy: str = "continuous"
    tokens_per_step: int = 64
    max_running: int = 24
    context: int = 256
    flood: int = 40  # requests of one client, all at step 0
    polite: int = 60  # requests of the three others
    every: float = 5.0  # steps between two of them, on average
    stems: int = 3  # system prompts
    stem: int = 32  # tokens of each
    questions: int = 10  # asked after any of them
    question: tuple[int, int] = (17, 40)  # tokens
    answer: tuple[int, int] = (2, 120)  # tokens; most are short: the logarithm is uniform
    guessed: float = 0.3  # of decoding steps come with guesses
    right: float = 0.7  # of guesses
    longest: int = 3000  # steps after which it is given up


@dataclasses.dataclass(frozen=True)
class Coming:
    """A request before it comes."""

    step: int
    prompt: tuple[int, ...]
    n_max: int
    client: str


VOCABULARY = 50


def key_of(past: int, at: int, token: int) -> int:
    """What stands for a key: it depends on the token, its position, and the sum of all keys before it."""
    return zlib.crc32(f"{past}/{at}/{token}".encode())


def alone(prompt: Sequence[int], n_max: int) -> list[int]:
    """The tokens that a request gets with nobody else there and no pages at all."""
    past, key, tokens = 0, 0, list(prompt)
    for at in range(len(prompt) + n_max):
        if at >= len(prompt):
            tokens.append(key % VOCABULARY)
        key = key_of(past, at, tokens[at])
        past += key
    return tokens[len(prompt) :]


def coming(config: CrowdConfig, seed: int) -> list[Coming]:
    """Who comes when, in the order of time."""
    rng = random.Random(stream_seed(seed, "crowd"))

    def text(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCABULARY) for _ in range(n))

    stems, questions = [text(config.stem) for _ in range(config.stems)], [text(rng.randint(*config.question)) for _ in range(config.questions)]
    at, found = 0.0, []
    for i in range(config.flood + config.polite):
        flooding = i < config.flood
        at = 0.0 if flooding else at + rng.expovariate(1 / config.every)
        prompt = text(rng.randint(3, 12)) if rng.random() < 0.2 else rng.choice(stems) + rng.choice(questions)
        low, high = map(math.log, config.answer)
        found.append(Coming(int(at), prompt, round(math.exp(rng.uniform(low, high))), "flood" if flooding else rng.choice("abc")))
    return found


class Crowd:
    """The engine's loop around a model that is a sum; ``keys`` is the memory of its slots."""

    def __init__(self, config: CrowdConfig, seed: int) -> None:
        limits = {name: getattr(config, name) for name in ("policy", "tokens_per_step", "max_running", "context")}
        self.config, self.rng = config, random.Random(stream_seed(seed, "guesses"))
        self.size = config.context if config.rows else config.size
        self.n_blocks = config.n_blocks * config.size // self.size
        self.scheduler = Scheduler(SchedulerConfig(**limits, max_waiting=10_000, watermark=0.0 if config.rows else 0.02), BlockPool(self.n_blocks, self.size))
        self.left, self.came = coming(config, seed), dict[Request, Coming]()
        self.keys, self.shown = dict[int, int](), dict[Request, list[int]]()  # of each token, the step that gave it
        self.steps, self.largest, self.wastes, self.crowded = 0, 0, list[float](), list[int]()

    def live(self, watch: Watch) -> Figures:
        """Serve everybody, or give up."""
        batch = self.scheduler.batch
        while (self.left or batch.running or batch.queue) and self.steps < self.config.longest:
            self.come()
            self.guess()
            plan = self.scheduler.step()
            self.largest = max(self.largest, plan.n_tokens)
            if tables := [r.table for r in batch.running if r.table]:
                self.wastes.append(waste(tables))
                self.crowded.append(len(tables))
            new = self.compute(plan)
            self.scheduler.advance(plan, new)
            self.steps += 1
            for request, tokens in new.items():
                self.shown[request] += [self.steps] * len(tokens)
            if self.steps % 50 == 0:
                watch(self.steps, running=len(batch.running), waiting=len(batch.queue), free=len(self.scheduler.pool.free))
        return self.figures()

    def come(self) -> None:
        """Those whose time it is."""
        while self.left and self.left[0].step <= self.steps:
            next_one = self.left.pop(0)
            request = Request(next_one.prompt, next_one.n_max, client=next_one.client)
            self.came[request], self.shown[request] = next_one, []
            self.scheduler.add(request)

    def guess(self) -> None:
        """Some of those that decode do it with three guesses."""
        for request in self.scheduler.batch.running:
            if request.pending == 1 and self.rng.random() < self.config.guessed:
                true = alone(self.came[request].prompt, request.n_max)[len(request.generated) :][:3]
                request.draft = [t if self.rng.random() < self.config.right else self.rng.randrange(VOCABULARY) for t in true]

    def compute(self, plan: Plan) -> dict[Request, list[int]]:
        """The model: copy blocks, write keys into slots, read each request's keys through its table, and give the tokens that follow."""
        size, new = self.size, dict[Request, list[int]]()
        for source, to in (pair for span in plan.spans.values() for pair in span.copies):
            self.keys.update({to * size + i: self.keys.get(source * size + i, 0) for i in range(size)})
        for request, span in plan.spans.items():
            assert request.table is not None
            held = [block * size + i for block in request.table.blocks for i in range(size)]
            past, after = sum(self.keys.get(slot, 0) for slot in held[: span.start]), list[int]()
            for at, (token, slot) in enumerate(zip(span.tokens, span.slots, strict=True), span.start):
                self.keys[slot] = key_of(past, at, token)
                read = self.keys.get(held[at], 0)  # the same, unless the slot is not where the table says
                past, after = past + read, [*after, read % VOCABULARY]
            if span.samples:
                known = len(request.tokens) - span.start
                after, draft = after[known - 1 :], span.tokens[known:]
                right = next((i for i, guess in enumerate(draft) if guess != after[i]), len(draft))
                new[request] = after[: right + 1][: request.room]
        return new

    def figures(self) -> Figures:
        """What came of it."""
        counts, done = self.scheduler.batch.counts, [r for r in self.came if len(r.generated) == r.n_max]
        waits = {r: steps[0] - self.came[r].step for r, steps in self.shown.items() if steps}
        gaps = [b - a for steps in self.shown.values() for a, b in itertools.pairwise(steps)]
        expected = {r: alone(c.prompt, c.n_max) for r, c in self.came.items()}
        pairs = [(a, b) for r in self.came for a, b in zip(r.generated, expected[r], strict=False)]
        short = [r for r, c in self.came.items() if len(c.prompt) + c.n_max <= self.config.size]
        generated = max(1, counts.generated)
        return {
            "tokens_per_step": counts.generated / self.steps,
            "steps": float(self.steps),
            "computed_per_token": counts.computed / generated,
            "first_p50": quantile([float(w) for w in waits.values()], 0.5),
            "first_p99": quantile([float(w) for w in waits.values()], 0.99),
            "polite_p99": quantile([float(w) for r, w in waits.items() if self.came[r].client != "flood"], 0.99),
            "polite_p50": quantile([float(w) for r, w in waits.items() if self.came[r].client != "flood"], 0.5),
            "flood_p99": quantile([float(w) for r, w in waits.items() if self.came[r].client == "flood"], 0.99),
            "gap_p50": quantile([float(g) for g in gaps], 0.5),
            "gap_p99": quantile([float(g) for g in gaps], 0.99),
            "largest_step": float(self.largest),
            "preempted": counts.preempted / len(self.came),
            "cached_share": counts.cached / max(1, counts.asked),
            "waste": sum(self.wastes) / max(1, len(self.wastes)),
            "below_4_percent": sum(self.wastes) < 0.04 * len(self.wastes),
            "texts_at_once": sum(self.crowded) / max(1, len(self.crowded)),
            "wrong_tokens": sum(a != b for a, b in pairs) / max(1, len(pairs)),
            "tokens_alike": all(a == b for a, b in pairs),
            "short_alike": all(r.generated == expected[r][: len(r.generated)] for r in short),
            "all_served": len(done) == self.config.flood + self.config.polite,
            "none_lost": len(self.scheduler.pool.free) + len(self.scheduler.pool.users) == self.n_blocks,
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def crowd(config: CrowdConfig, seed: int, watch: Watch) -> Figures:
    """One crowd."""
    return Crowd(config, seed).live(watch)


# ── an engine with a model ────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineRunConfig:
    """Twenty requests, too many for the pages at once."""

    requests: int = 20
    n_blocks: int = 28
    block_size: int = 4
    tokens_per_step: int = 32
    max_running: int = 8


def engine_run(config: EngineRunConfig, seed: int, watch: Watch) -> Figures:
    """A small Llama of random weights answers them all at once, and each alone."""
    tokenizer = BPE([], special=["<|endoftext|>"])
    model = build_gpt(llama(vocab_size=tokenizer.vocab_size, context=96, n_layer=2, n_head=4, width=32, init="fan_in"), seed).eval()
    asked = generations(config.requests, seed)
    limits = {name: getattr(config, name) for name in ("n_blocks", "block_size", "tokens_per_step", "max_running")}
    engine, steps, peak = Engine(model, tokenizer, EngineConfig(**limits)), 0, 0
    choices = [engine.submit(a)[0] for a in asked]
    while engine.busy and steps < 2000:
        engine.step()
        steps, peak = steps + 1, max(peak, len(engine.pool.users))
        watch(steps, blocks_used=len(engine.pool.users))
    found = [[info.id for piece in c.pieces for info in piece.tokens] for c in choices]
    own = [list(generate(model, a.prompt, a.sample, torch.Generator().manual_seed(stream_seed(a.seed, "sample")))) for a in asked]
    counts = engine.scheduler.batch.counts
    pairs = [(a, b) for one, other in zip(found, own, strict=True) for a, b in zip(one, other, strict=False)]
    return {
        "tokens_alike": found == own,
        "wrong_tokens": sum(a != b for a, b in pairs) / max(1, len(pairs)),
        "all_served": not engine.busy,
        "none_lost": len(engine.pool.free) == engine.pool.n_blocks,
        "steps": float(steps),
        "blocks_peak": float(peak),
        "cached_tokens": float(counts.cached),
        "computed_tokens": float(counts.computed),
        "preempted": float(counts.preempted),
        "sample": str(found[0]),
    }


def generations(count: int, seed: int) -> list[Generation]:
    """Random questions after one of two beginnings, some greedy and some sampled, each with random numbers of its own."""
    rng = random.Random(stream_seed(seed, "requests"))
    stems = [[rng.randrange(256) for _ in range(16)] for _ in range(2)]
    questions = [[rng.randrange(256) for _ in range(n)] for n in (7, 8, 9, 12)]
    found = []
    for i in range(count):
        sample = SampleConfig(temperature=rng.choice([0.0, 0.8]), max_tokens=rng.randint(4, 24))
        prompt = rng.choice(stems) + rng.choice(questions)
        found.append(Generation(prompt=tuple(prompt), sample=sample, seed=i, client=rng.choice("abc")))
    return found


# ── what the figures mean ─────────────────────────────────────────────────────────────────────────────────────────────


def prop(says: str) -> Metric:
    """A property that holds or does not."""
    return Metric(says=says, better="neither")


def steps(says: str) -> Metric:
    """A wait, counted in steps."""
    return Metric(says=says, floor=1.0, smallest=1.0, worst=3000.0)


WRONG = Metric(says="share of the generated tokens that are not those that the request gets alone", floor=0.0, ceiling=0.98, smallest=0.001, worst=1.0)
ALIKE = prop("each request's tokens are those that it gets alone")
SERVED = prop("everybody is served")
NONE_LOST = prop("no block is lost")

CROWD_METRICS = {
    "tokens_per_step": Metric(says="tokens generated in a step, mean", ceiling=1.0, smallest=0.1, worst=0.0, better="higher"),
    "steps": Metric(says="steps until everybody is served (at most 3,000)", smallest=2.0, worst=3000.0),
    "computed_per_token": Metric(says="tokens computed for each token generated", smallest=0.02, worst=100.0),
    "first_p50": steps("wait for the first token, median (steps)"),
    "first_p99": steps("wait for the first token, 99th percentile (steps)"),
    "polite_p50": steps("the same of the three clients that send little, median (steps)"),
    "polite_p99": steps("the same of the three clients that send little, 99th percentile (steps)"),
    "flood_p99": steps("the same of the client that sends 40 at once, 99th percentile (steps)"),
    "gap_p50": Metric(says="steps from one token of an answer to the next, median", smallest=0.5, worst=3000.0),
    "gap_p99": Metric(says="steps from one token of an answer to the next, 99th percentile", smallest=0.5, worst=3000.0),
    "largest_step": Metric(says="tokens computed in the largest step", smallest=1.0, worst=4000.0),
    "preempted": Metric(says="pre-emptions for each request", floor=0.0, smallest=0.02, worst=100.0),
    "cached_share": Metric(says="share of the tokens of joining requests that were found in pages", smallest=0.01, worst=0.0, better="higher"),
    "waste": Metric(says="share of the slots in allocated blocks that hold no token, mean over steps", floor=0.0, smallest=0.005, worst=1.0),
    "texts_at_once": Metric(says="requests that run, mean over steps", smallest=0.1, worst=0.0, better="higher"),
    "below_4_percent": prop("less than 4 % of the slots in allocated blocks hold no token, mean over steps"),
    "wrong_tokens": WRONG,
    "tokens_alike": ALIKE,
    "short_alike": prop("requests that fit into one block get the tokens that they get alone"),
    "all_served": SERVED,
    "none_lost": NONE_LOST,
}

BASELINES = (
    Baseline(
        name="serving.pages",
        says="1,500 random operations on page tables: 16 blocks of three slots, texts that begin alike, fork, are cut back and end.",
        run=life,
        config=LifeConfig(),
        metrics={
            "wrong_reads": Metric(says="share of the tokens read through a table that are not those of its text", floor=0.0, smallest=0.001, worst=1.0),
            "blocks_lost": Metric(says="blocks that are not free when every text has ended", floor=0.0, ceiling=16.0, smallest=0.5, worst=16.0),
            "found_share": Metric(says="share of the prompts' tokens that were found in the index", smallest=0.01, worst=0.0, better="higher"),
            "copies": Metric(says="blocks copied before they were written to", smallest=1.0, better="neither"),
            "texts_alike": prop("whoever reads a text through its table reads that text"),
            "none_lost": prop("every block is free when every text has ended"),
            "counts_right": prop("each block has as many users as there are tables that hold it, and is free if there are none"),
            "index_right": prop("each block that the index knows holds what the index says"),
            "equal_hashes_apart": prop("different tokens of one hash are two blocks"),
        },
        seconds=1.0,
    ),
    Baseline(
        name="serving.crowd",
        says="100 requests on 40 blocks of 16 slots: one client sends 40 at once, three others send 60 over time; a third of the steps come with guesses."
        " The model is a sum of keys, the clock counts steps of at most 64 tokens.",
        run=crowd,
        config=CrowdConfig(),
        metrics=CROWD_METRICS,
        seconds=2.0,
    ),
    Baseline(
        name="serving.long",
        says="40 requests of about 150 and 350 tokens, the lengths of conversations, on 200 blocks of 16 slots; rows would have 1,024.",
        run=crowd,
        config=CrowdConfig(n_blocks=200, context=1024, flood=10, polite=30, every=40.0, questions=40, question=(20, 220), answer=(100, 760)),
        metrics=CROWD_METRICS,
        seconds=2.0,
    ),
    Baseline(
        name="serving.engine",
        says="Two Llama blocks of random weights behind the engine: 20 requests of up to 49 tokens on 28 blocks of four slots.",
        run=engine_run,
        config=EngineRunConfig(),
        metrics={
            "tokens_alike": ALIKE,
            "wrong_tokens": WRONG,
            "all_served": SERVED,
            "none_lost": prop("every block is free at the end"),
            "steps": Metric(says="steps until everybody is served", smallest=0.5, worst=2000.0),
            "blocks_peak": Metric(says="most blocks in use at once", smallest=0.5, worst=28.0, better="neither"),
            "cached_tokens": Metric(says="tokens found in pages", smallest=0.5, worst=0.0, better="higher"),
            "computed_tokens": Metric(says="tokens computed", smallest=0.5, worst=1e5),
            "preempted": Metric(says="pre-emptions", floor=0.0, smallest=0.5, worst=1e3),
        },
        seconds=2.0,
    ),
)
