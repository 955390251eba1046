"""Who runs when: examples to follow by hand, then a thousand random requests through a fake engine, each with exactly the tokens that it gets alone."""

import random
import zlib
from collections import Counter
from collections.abc import Sequence

import pytest

from underhood.base.errors import ConfigError, UnderhoodError
from underhood.infer.pages import BlockPool
from underhood.infer.request import Plan, QueueFull, Request, RequestRefused, SchedulerConfig
from underhood.infer.scheduler import Scheduler
from underhood.lab.patch import Edit, applied


def key_of(past: int, at: int, token: int, salt: str) -> int:
    """What stands for a key: it depends on the token, its position and everything before it (``past``, the sum of the keys there)."""
    return zlib.crc32(f"{past}/{at}/{token}/{salt}".encode())


def alone(request: Request) -> list[int]:
    """The tokens that a request gets with nobody else there and no pages at all."""
    tokens, keys = request.tokens[: request.n_prompt], list[int]()
    while True:
        for at in range(len(keys), len(tokens)):
            keys.append(key_of(sum(keys), at, tokens[at], request.salt))
        if len(tokens) == request.n_prompt + request.n_max:
            return tokens[request.n_prompt :]
        tokens.append(keys[-1] % 5)


class Engine:
    """A model whose next token depends on every key before it, read through the page table."""

    def __init__(self, scheduler: Scheduler, *, rng: random.Random | None = None) -> None:
        self.scheduler, self.rng, self.keys = scheduler, rng, dict[int, int]()
        self.size = scheduler.pool.size

    def step(self) -> Plan:
        plan = self.scheduler.step()
        self.scheduler.advance(plan, self.compute(plan))
        return plan

    def compute(self, plan: Plan) -> dict[Request, list[int]]:
        spans = plan.spans.values()
        slots = [slot for span in spans for slot in span.slots]
        assert len(slots) == len(set(slots)) == plan.n_tokens <= self.scheduler.config.tokens_per_step
        for source, to in (pair for span in spans for pair in span.copies):
            for i in range(self.size):
                self.keys[to * self.size + i] = self.keys.get(source * self.size + i, 0)
        new = {}
        for span in spans:
            assert span.request in self.scheduler.batch.running
            guesses = self.write(span.request, span.start, span.tokens, span.slots)
            if span.samples:
                new[span.request] = self.accepted(guesses, span.tokens[len(span.request.tokens) - span.start :])
        return new

    def write(self, request: Request, start: int, tokens: Sequence[int], slots: Sequence[int]) -> list[int]:
        """Write the keys and give back the next token after each known token and guess."""
        assert request.table
        held = [request.table.blocks[t // self.size] * self.size + t % self.size for t in range(start + len(tokens))]
        assert held[start:] == slots
        after = []
        for at, token in enumerate(tokens, start):
            self.keys[held[at]] = key_of(sum(self.keys[slot] for slot in held[:at]), at, token, request.salt)
            after.append(self.keys[held[at]] % 5)
        return after[len(request.tokens) - 1 - start :]

    def accepted(self, after: list[int], draft: list[int]) -> list[int]:
        """Greedy speculation: as many guesses as are right, and one more token."""
        right = next((i for i, guess in enumerate(draft) if guess != after[i]), len(draft))
        return after[: right + 1]


def made(*, n_blocks: int = 100, size: int = 4, **fields: object) -> Scheduler:
    settings = {"context": 100, "tokens_per_step": 16, "max_running": 4, "watermark": 0.0} | fields
    return Scheduler(SchedulerConfig(**settings), BlockPool(n_blocks, size))  # type: ignore[arg-type]


def shown(plan: Plan, names: dict[Request, str]) -> str:
    return " ".join(f"{names[r]}[{span.start}:{span.end}]" for r, span in plan.spans.items())


def added(scheduler: Scheduler, prompts: dict[str, tuple[int, int]], **fields: object) -> dict[Request, str]:
    """Requests by name, of (length of the prompt, n_max); prompts differ from their first token on."""
    names = {}
    for name, (length, n_max) in prompts.items():
        request = Request([sum(map(ord, name))] * length, n_max, client=str(fields.get("client", name)))
        scheduler.add(request)
        names[request] = name
    return names


# ── Examples ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_requests_join_and_leave_between_steps() -> None:
    """A budget of 8 tokens and two places: ``a`` decodes while ``b``'s long prompt comes in chunks, and ``c`` joins when ``a`` leaves."""
    scheduler = made(tokens_per_step=8, max_running=2)
    engine, names = Engine(scheduler), added(scheduler, {"a": (3, 3), "b": (14, 2), "c": (2, 1)})
    steps = []
    while scheduler.batch.running or scheduler.batch.queue:
        steps.append(shown(engine.step(), names))
    assert steps == [
        "a[0:3] b[0:5]",  # a's prompt gives its first token; what is left of the budget goes to b
        "a[3:4] b[5:12]",  # decodes first
        "a[4:5] b[12:14]",  # a is complete, and b has its first token
        "b[14:15] c[0:2]",
    ]
    assert {names[r]: r.generated for r in names} == {names[r]: alone(r) for r in names}


def test_a_static_batch_waits_for_its_longest() -> None:
    """Head-of-line blocking: the same three requests, and ``c`` waits for ``b`` although ``a`` has left."""
    finished = {}
    for policy in ("continuous", "static"):
        scheduler = made(max_running=2, policy=policy)
        engine, names = Engine(scheduler), added(scheduler, {"a": (3, 2), "b": (3, 30), "c": (3, 2)})
        c = next(r for r, name in names.items() if name == "c")
        finished[policy] = next(step for step in range(1, 100) if engine.step() and len(c.generated) == 2)
    assert finished == {"continuous": 4, "static": 32}


def test_a_decode_goes_before_a_prompt() -> None:
    scheduler = made(tokens_per_step=4)
    engine, names = Engine(scheduler), added(scheduler, {"long": (20, 1)})
    engine.step()
    names |= added(scheduler, {"short": (1, 5)}, client="short")
    for expected in ("long[4:8]", "long[8:12]", "long[12:16]", "long[16:20]", "short[0:1]"):
        assert shown(engine.step(), names) == expected  # a prompt that came first is computed first
    names |= added(scheduler, {"second": (9, 1)}, client="second")
    assert shown(engine.step(), names) == "short[1:2] second[0:3]"


def second_step() -> str:
    """``b`` came before ``c`` and joined after it, as ``a`` is of the same client."""
    scheduler = made(tokens_per_step=4)
    names = added(scheduler, {"a": (1, 5), "b": (20, 5)}, client="one") | added(scheduler, {"c": (1, 5)}, client="another")
    engine = Engine(scheduler)
    assert shown(engine.step(), names) == "a[0:1] c[0:1] b[0:2]"
    return shown(engine.step(), names)


def test_no_decode_waits_for_an_older_prompt() -> None:
    assert second_step() == "a[1:2] c[1:2] b[2:4]"
    with applied([Edit("underhood.infer.scheduler:Scheduler.step", "key=lambda r: r.pending > 1", "key=lambda r: 0")]):
        assert second_step() == "a[1:2] b[2:5]"


def test_the_last_to_come_makes_way_and_loses_nothing() -> None:
    """Four blocks of 4: two requests of 4 + 8 tokens need 3 each in the end. ``b`` gives its blocks back, and is computed anew."""
    scheduler = made(n_blocks=4)
    engine, names = Engine(scheduler), added(scheduler, {"a": (4, 8), "b": (4, 8)})
    plans = [engine.step() for _ in range(20)]
    a, b = names
    assert [plan.preempted for plan in plans if plan.preempted] == [[b]]
    assert (a.generated, b.generated) == (alone(a), alone(b))
    assert (a.preemptions, b.preemptions, scheduler.batch.counts.preempted) == (0, 1, 1)
    assert len(scheduler.pool.free) == 4


def test_the_preempted_one_is_the_next_of_its_client() -> None:
    scheduler = made(n_blocks=4, max_running=2)
    engine, names = Engine(scheduler), added(scheduler, {"a": (4, 8), "b": (4, 8), "c": (4, 8)}, client="same")
    joined, before = "", set[Request]()
    while scheduler.batch.running or scheduler.batch.queue:
        now = set(engine.step().spans)
        joined += "".join(sorted(names[r] for r in now - before))
        before = now
    assert joined == "abbcc"  # b comes back before c joins, and then c has to make way for b


def test_a_prompt_is_admitted_with_all_its_blocks() -> None:
    """Ten blocks: ``a``'s prompt comes in chunks and takes 7 in the end, so that ``b`` with 4 waits, although 9 are free after the first step."""
    scheduler = made(n_blocks=10, tokens_per_step=4)
    added(scheduler, {"a": (28, 1), "b": (16, 1)})
    engine = Engine(scheduler)
    engine.step()
    assert len(scheduler.pool.free) == 9
    while scheduler.batch.running:
        assert len(scheduler.batch.running) == 1
        engine.step()
    assert scheduler.batch.counts.preempted == 0


def test_the_watermark_is_left_free() -> None:
    for watermark, running in ((0.0, 2), (0.1, 2), (0.3, 1)):
        scheduler = made(n_blocks=10, watermark=watermark, tokens_per_step=64)
        added(scheduler, {"a": (16, 1), "b": (15, 1)})
        scheduler.step()
        assert len(scheduler.batch.running) == running, watermark


def test_known_blocks_in_use_need_no_room() -> None:
    """Ten blocks, 9 of them one conversation: a second request that begins with the same 32 tokens needs one more block, and fits."""
    scheduler = made(n_blocks=10, tokens_per_step=64)
    one, two = Request([7] * 33, 3), Request([7] * 32 + [8], 3)
    scheduler.add(one)
    engine = Engine(scheduler)
    engine.step()
    scheduler.add(two)
    plan = engine.step()
    assert plan.spans[two].start == two.cached == 32
    assert (scheduler.batch.counts.asked, scheduler.batch.counts.cached) == (66, 32)
    while scheduler.batch.running:
        engine.step()
    assert (one.generated, two.generated) == (alone(one), alone(two))


def test_a_conversation_goes_on_where_it_ended() -> None:
    scheduler = made()
    first = Request([1, 2, 3], 10)
    scheduler.add(first)
    engine = Engine(scheduler)
    while scheduler.batch.running or scheduler.batch.queue:
        engine.step()
    second = Request([*first.tokens, 9, 9], 2)
    scheduler.add(second)
    engine.step()
    assert second.cached == 12  # three whole blocks: the answer is found, too


@pytest.mark.parametrize(("right", "steps"), [(True, 4), (False, 9)])
def test_right_guesses_save_steps_and_wrong_ones_leave_no_trace(right: bool, steps: int) -> None:
    scheduler, request = made(), Request([1, 2, 3], 9)
    expected = alone(request)
    scheduler.add(request)
    engine, taken = Engine(scheduler), 0
    while request.room:
        done = len(request.generated)
        request.draft = [token if right else token + 1 for token in expected[done : done + 2]] if done else []
        engine.step()
        taken += 1
    assert request.generated == expected
    assert taken == steps  # the prompt's token, then three a step or one
    assert len(scheduler.pool.free) == scheduler.pool.n_blocks


def test_scoring_a_prompt_generates_nothing() -> None:
    scheduler = made()
    request = Request([1, 2, 3], 0)
    scheduler.add(request)
    plan = scheduler.step()
    assert plan.spans[request].samples
    assert scheduler.advance(plan, {request: [5]}) == [request]
    assert (request.generated, len(scheduler.pool.free)) == ([], 100)


def test_who_leaves_while_its_step_is_computed() -> None:
    scheduler = made()
    stays, leaves = Request([1], 5), Request([2], 5)
    scheduler.add(stays)
    scheduler.add(leaves)
    plan = scheduler.step()
    scheduler.cancel(leaves)
    scheduler.cancel(leaves)  # twice is once
    assert scheduler.advance(plan, {stays: [3], leaves: [4]}) == []
    assert (stays.generated, leaves.generated) == ([3], [])
    scheduler.cancel(stays)
    assert len(scheduler.pool.free) == 100
    assert not scheduler.step().spans


# ── What is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("prompt", "n_max", "message"),
    [
        (0, 3, "at least one"),
        (3, -1, "0 or more"),
        (60, 41, r"at most 100 together \(the model's context\)"),
        (80, 5, r"at most 80 together \(all blocks of the cache\)"),
    ],
)
def test_what_can_never_run(prompt: int, n_max: int, message: str) -> None:
    scheduler = made(n_blocks=20)
    with pytest.raises(RequestRefused, match=message):
        scheduler.add(Request([1] * prompt, n_max))
    assert not scheduler.batch.queue


def test_the_largest_that_can_run_does() -> None:
    scheduler = made(n_blocks=20, watermark=0.5)
    request = Request([1] * 60, 20)
    scheduler.add(request)
    engine = Engine(scheduler)
    while scheduler.batch.running or scheduler.batch.queue:
        engine.step()
    assert request.generated == alone(request)


def test_the_queue_has_an_end() -> None:
    scheduler = made(max_waiting=2)
    for _ in range(2):
        scheduler.add(Request([1], 1))
    with pytest.raises(QueueFull, match="2 requests wait already"):
        scheduler.add(Request([1], 1))
    Engine(scheduler).step()
    scheduler.add(Request([1], 1))


@pytest.mark.parametrize("priority", [0, -1, float("nan"), float("inf")])
def test_a_priority_is_a_share(priority: float) -> None:
    with pytest.raises(RequestRefused, match="priority"):
        Request([1], 1, priority=priority)


@pytest.mark.parametrize(
    ("field", "value"),
    [("context", 0), ("max_running", 0), ("tokens_per_step", 3), ("max_waiting", -1), ("watermark", 1.0), ("policy", "dynamic")],
)
def test_settings_that_make_no_sense(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        made(**{field: value})  # type: ignore[arg-type]


def test_faults_of_the_engine_are_ours() -> None:
    scheduler = made(tokens_per_step=4)
    request = Request([1] * 6, 2)
    scheduler.add(request)
    with pytest.raises(UnderhoodError, match="added twice"):
        scheduler.add(request)
    plan = scheduler.step()
    with pytest.raises(UnderhoodError, match="1 new tokens for a span to 4 of 6"):
        scheduler.advance(plan, {request: [1]})
    scheduler.advance(plan, {})
    with pytest.raises(UnderhoodError, match="0 new tokens for a span to 6 of 6"):
        scheduler.advance(scheduler.step(), {})


# ── Fairness ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def steps_of_a_guest() -> int:
    """A flood of one client, always 50 waiting, and one request of another: after how many steps is it complete?"""
    scheduler = made()
    engine, guest = Engine(scheduler), Request([1, 2, 3], 10, client="guest")
    for step in range(1_000):
        while len(scheduler.batch.queue) < 50:
            scheduler.add(Request([step], 10, client="flood"))
        if step == 20:
            scheduler.add(guest)
        engine.step()
        if not guest.room:
            return step - 20
    raise AssertionError("the guest starves")


def test_a_flood_delays_others_by_one_request() -> None:
    assert steps_of_a_guest() <= 20  # one that runs must end, then its own ten steps
    with applied([Edit("underhood.infer.fairness:FairQueue.peek", "(self.served[r.client], r.arrival)", "r.arrival")]):
        assert steps_of_a_guest() > 100


def steps_of_a_large_one() -> int:
    """Small requests keep coming, and one needs nine of ten blocks: after how many steps does it run?"""
    scheduler = made(n_blocks=10, max_running=10)
    engine, large = Engine(scheduler), Request([1] * 30, 4, client="large")
    for step in range(300):
        while len(scheduler.batch.queue) < 10:
            scheduler.add(Request([step], 6, client="small"))
        if step == 5:
            scheduler.add(large)
        engine.step()
        if not large.room:
            return step - 5
    return 300


def test_nobody_overtakes_a_large_request() -> None:
    assert steps_of_a_large_one() <= 20
    with applied([Edit("underhood.infer.fairness:FairQueue.peek", "(self.served[r.client], r.arrival)", "(r.n_prompt, r.arrival)")]):
        assert steps_of_a_large_one() == 300


# ── A thousand random requests ────────────────────────────────────────────────────────────────────────────────────────


class Crowd:
    """Random requests that come, share beginnings, guess, are pre-empted and cancelled; every step is looked at."""

    def __init__(self, seed: int, n_requests: int) -> None:
        rng = self.rng = random.Random(seed)
        self.scheduler = made(
            n_blocks=rng.randint(12, 30),
            size=rng.choice((1, 3, 4)),
            context=36,
            tokens_per_step=rng.choice((8, 16, 40)),
            max_running=rng.randint(2, 8),
            max_waiting=6,
            watermark=rng.choice((0.0, 0.1)),
            policy="static" if seed % 5 == 4 else "continuous",
        )
        self.engine, self.left = Engine(self.scheduler), n_requests
        self.came: dict[Request, int] = {}
        self.gone: set[Request] = set()
        self.joined: dict[str, list[int]] = {}
        self.seen: Counter[str] = Counter()
        self.joins = 0
        join = self.scheduler.batch.join

        def counted(request: Request, known: Sequence[int]) -> None:
            self.joins += 1
            assert self.joins < 100, "a step has no end"
            join(request, known)

        self.scheduler.batch.join = counted  # type: ignore[method-assign]

    def live(self) -> None:
        batch, steps = self.scheduler.batch, 0
        while self.left or batch.running or batch.queue:
            self.come(steps)
            self.cancel(batch.running, 0.03)
            self.guess(batch.running)
            self.joins = 0
            busy, oldest = bool(batch.running or batch.queue), batch.running[:1]
            plan = self.scheduler.step()
            self.look(plan)
            assert bool(plan.spans) == busy, "somebody waits and nobody is computed"
            assert set(oldest) <= set(plan.spans), "the oldest does not get on"
            new = self.engine.compute(plan)
            self.cancel(batch.running, 0.03)
            for request in self.scheduler.advance(plan, new):
                assert request.generated == alone(request), "not the tokens that it gets alone"
                self.gone.add(request)
                self.seen["complete"] += 1
            steps += 1
            assert steps < 40 * len(self.came) + 100, "it does not end"
        assert set(self.came) == self.gone
        assert len(self.scheduler.pool.free) == self.scheduler.pool.n_blocks, "blocks are lost"
        assert not self.scheduler.pool.users
        assert not batch.queue.served
        self.seen["preempted"] += batch.counts.preempted
        self.seen["cached"] += batch.counts.cached

    def come(self, step: int) -> None:
        while self.left and self.rng.random() < 0.4:
            old = self.rng.choice(list(self.came)[-5:]).tokens if self.came and self.rng.random() < 0.6 else []
            prompt = old[: self.rng.randint(0, min(12, len(old)))] + [self.rng.randrange(5) for _ in range(self.rng.randint(1, 8))]
            request = Request(prompt, self.rng.randint(0, 11), client=self.rng.choice("abc"), salt=self.rng.choice(("", "", "salt")))
            try:
                self.scheduler.add(request)
            except RequestRefused:
                self.seen["refused"] += 1
            except QueueFull:
                self.seen["queue full"] += 1
                return
            else:
                self.came[request] = step
                self.left -= 1

    def cancel(self, running: list[Request], chance: float) -> None:
        if self.rng.random() < chance:
            waiting = [r for line in self.scheduler.batch.queue.lines.values() for r in line]
            for request in self.rng.sample([*running, *waiting], min(2, len(running) + len(waiting))):
                self.scheduler.cancel(request)
                self.gone.add(request)
                self.seen["cancelled"] += 1

    def guess(self, running: list[Request]) -> None:
        """Some decode with guesses, one or two of which are usually right."""
        for request in running:
            if request.pending == 1 and self.rng.random() < 0.3:
                done = len(request.generated)
                request.draft = [t if self.rng.random() < 0.7 else self.rng.randrange(5) for t in alone(request)[done : done + 3]]
                self.seen["guessed"] += 1

    def look(self, plan: Plan) -> None:
        batch = self.scheduler.batch
        assert not self.gone & set(plan.spans), "who has left is computed"
        assert len(batch.running) <= self.scheduler.config.max_running
        assert not set(plan.preempted) & set(plan.spans)
        assert [r.arrival for r in batch.running] == sorted(r.arrival for r in batch.running if r.arrival is not None)
        for request, span in plan.spans.items():
            if request.preemptions == 0 and span.start == request.cached and request.arrival not in (order := self.joined.setdefault(request.client, [])):
                order.append(request.arrival or 0)
                assert order == sorted(order), "a client's later request joined first"


def test_a_thousand_requests_get_their_own_tokens() -> None:
    seen: Counter[str] = Counter()
    for seed in range(10):
        crowd = Crowd(seed, 100)
        crowd.live()
        seen += crowd.seen
    assert seen["complete"] + seen["cancelled"] >= 1_000
    assert seen["complete"] > 700
    assert min(seen[what] for what in ("preempted", "cancelled", "guessed", "cached", "refused", "queue full")) > 40, seen


SCHEDULER, BATCH, REQUEST = "underhood.infer.scheduler:Scheduler.", "underhood.infer.batch:Batch.", "underhood.infer.request:"
FAULTS = {
    "the budget is exceeded": Edit(f"{SCHEDULER}_schedule", "min(request.target - request.computed, plan.left)", "request.target - request.computed"),
    "too many run": Edit(f"{SCHEDULER}step", "len(batch.running) < self.config.max_running", "True"),
    "a pre-empted one joins in the same step": Edit(f"{SCHEDULER}step", "not plan.preempted", "True"),
    "the oldest makes way": Edit(f"{BATCH}preempt", "self.running[-1]", "self.running[0]"),
    "the pre-empted one is computed all the same": Edit(f"{REQUEST}Plan.drop", "self.spans.pop(request, None)", "self.spans.get(request)"),
    "blocks are kept by who leaves": Edit(f"{BATCH}_stop", "request.table.free()", "pass"),
    "who comes back believes that it is computed": Edit(
        f"{BATCH}join", "request.computed = request.cached", "request.computed = max(request.cached, len(request.tokens) - 1)"
    ),
    "known blocks are computed again": Edit(f"{BATCH}join", "request.computed = request.cached", "request.computed = 0"),
    "salts are not told apart": Edit(f"{SCHEDULER}step", "self.pool.size, request.salt", "self.pool.size"),
    "wrong guesses stay": Edit(f"{BATCH}_take", "table.truncate(request.computed)", "pass"),
    "wrong guesses count": Edit(f"{BATCH}_take", "min(span.end, len(request.tokens) - 1)", "span.end"),
    "more is generated than was asked for": Edit(f"{BATCH}_take", "tokens[: request.room]", "tokens[:]"),
    "the newest token counts as computed": Edit(f"{BATCH}_take", "len(request.tokens) - 1)", "len(request.tokens))"),
    "requests are not in the order of arrival": Edit(f"{BATCH}join", "key=lambda r: r.arrival or 0", "key=lambda r: r.n_max"),
    "who leaves the queue comes back": Edit(f"{BATCH}cancel", "self.queue.remove(request)", "pass"),
    "the last come of a client is first": Edit("underhood.infer.fairness:FairQueue.push", "line.append(request)", "line.appendleft(request)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found(fault: str) -> None:
    with applied([FAULTS[fault]]) as reached, pytest.raises((AssertionError, UnderhoodError, ValueError, KeyError, IndexError)):
        for seed in range(10):
            Crowd(seed, 100).live()
    reached.require()


def preemptions() -> int:
    """Forty requests of one moment, of which four fit at once: how often does one have to make way?"""
    scheduler = made(n_blocks=24, max_running=12, tokens_per_step=256)
    engine, names = Engine(scheduler), added(scheduler, {chr(200 + i): (18, 2) for i in range(40)})
    while scheduler.batch.running or scheduler.batch.queue:
        engine.step()
    assert all(r.generated == alone(r) for r in names)
    return scheduler.batch.counts.preempted


def test_without_admission_control_requests_push_each_other_out() -> None:
    assert preemptions() == 0
    with applied([Edit(f"{SCHEDULER}_fits", "not self.batch.running or", "True or")]):
        assert preemptions() > 10
