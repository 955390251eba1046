"""What any correct scheduler satisfies: steps to follow by hand, then a crowd of which each gets the tokens that it gets alone."""

import random
from functools import partial

from underhood.infer.request import SchedulerConfig
from underhood.lab.check import Check, Part, check, equal, holds
from underhood.projects.serving.scripts import Driver, alone, refused, runs, whole

# ── the next step ─────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "5 · The next step",
    hints=(
        "`a` decodes, `b` has a prompt of fourteen tokens, a step has room for eight. What is computed?",
        "First those that run, then those that join while there is room. Each gets what it still needs, at most what is left of the step.",
        "`n = min(request.target - request.computed, plan.left)`; `plan.put(Span(request, request.computed, request.computed + n, slots, copies))`.",
    ),
)
@whole
def check_requests_join_between_steps(part: Part, rng: random.Random) -> None:
    """A request joins as soon as another has left and there is room in the step; a long prompt comes in chunks, and no step is larger than it may be."""
    runs(lambda: part.Scheduler(SchedulerConfig(context=8), part.BlockPool(2, 4)), "a scheduler can be made", given="a config, and a pool")
    driver = Driver(part, tokens_per_step=8, max_running=2)
    for name, length, n_max in (("a", 3, 3), ("b", 14, 2), ("c", 2, 1)):
        driver.add(name, [ord(name)] * length, n_max)
    expected = ["a[0:3] b[0:5]", "a[3:4] b[5:12]", "a[4:5] b[12:14]", "b[14:15] c[0:2]"]
    given = "8 tokens a step, 2 at once; a: 3 + 3 tokens, b: 14 + 2, c: 2 + 1"
    for i, words in enumerate(expected, 1):
        equal(driver.step(), words, "requests join and leave between any two steps, and prompts come in chunks", given=f"{given}; step {i}")
    equal((driver.busy, len(list(driver.pool.free))), (False, 100), "who is complete leaves and gives its blocks back", given=given)
    equal(driver.step(), "", "where nobody waits or runs there is nothing to compute", given="an idle scheduler")
    driver = Driver(part, tokens_per_step=4)
    driver.add("long", [1] * 10, 1)
    found = driver.all_steps(9)
    equal(found, ["long[0:4]", "long[4:8]", "long[8:10]"], "a prompt that is longer than a step is computed in several", given="4 tokens a step, 10 + 1")
    for policy, wanted in (("continuous", 4), ("static", 32)):
        driver = Driver(part, max_running=2, policy=policy)
        last = [driver.add(name, [ord(name)] * 3, n_max) for name, n_max in (("a", 2), ("b", 30), ("c", 2))][-1]
        taken = 0
        while len(last.generated) < 2 and taken < 40:
            driver.step()
            taken += 1
        given = f"policy {policy}, 2 at once; a: 3 + 2 tokens, b: 3 + 30, c: 3 + 2; steps until c has its tokens"
        equal(taken, wanted, "under the static policy nobody joins until the whole batch is done; else as soon as there is a place", given=given)


@check(
    "5 · The next step",
    hints=(
        "Somebody waits for the next word of an answer; somebody else has sent a book, and came first. Who is computed first?",
        "Those that decode need one token each. Let them have it before prompts take what is left.",
        "`for request in sorted(batch.running, key=lambda r: r.pending > 1)`: False comes before True, and within each the order of arrival stays.",
    ),
)
@whole
def check_decodes_go_first(part: Part, rng: random.Random) -> None:
    """Whoever decodes is computed before any prompt, though the prompt arrived first."""
    driver = Driver(part, tokens_per_step=4, max_running=2)
    driver.add("w", [9, 9], 1, client="x")
    driver.add("a", [1] * 12, 1, client="x")
    driver.add("b", [2, 2], 6, client="y")
    expected = ["w[0:2] b[0:2]", "b[2:3] a[0:3]", "b[3:4] a[3:6]", "b[4:5] a[6:9]", "b[5:6] a[9:12]", "b[6:7]"]
    given = "4 tokens a step, 2 at once; w: 2 + 1 tokens and a: 12 + 1 of one client, b: 2 + 6 of another"
    for i, words in enumerate(expected, 1):
        equal(driver.step(), words, "those that decode come first, then prompts, each in the order of arrival", given=f"{given}; step {i}")


@check(
    "5 · The next step",
    hints=(
        "A prompt begins as another did that has been computed. From where on is it computed?",
        "Ask the index before the request joins, and hand what it knows to `batch.join`.",
        "`known = self.pool.index.match(request.tokens, self.pool.size, request.salt)`, then `batch.join(batch.queue.pop(), known)`.",
    ),
)
@whole
def check_what_is_known_is_not_computed(part: Part, rng: random.Random) -> None:
    """A prompt is computed from its first unknown block on; strangers by their salt find nothing; a prompt that was asked before still gets its logits."""
    driver = Driver(part)
    prompts = {"a": ([1] * 9, ""), "b": ([1] * 8 + [2, 2], ""), "c": ([1] * 8 + [2, 2], "salt"), "d": ([1] * 8, ""), "e": ([2] * 4 + [1] * 5, "")}
    expected = {"a": ["a[0:9]"], "b": ["b[8:10]"], "c": ["c[0:10]"], "d": ["d[4:8]"], "e": ["e[0:9]"]}
    for name, (prompt, salt) in prompts.items():
        request = driver.add(name, prompt, 1, salt=salt)
        says = "a prompt is computed from its first unknown block on, and at least its last token"
        equal(driver.all_steps(5), expected[name], says, given=f"blocks of 4; prompts so far, with salts: {list(prompts.items())[: 'abcde'.index(name) + 1]}")
        equal(list(request.generated), alone(prompt, 1), "the token is that which the request gets alone", given=f"{name}: {prompt}")


# ── room, turns and making way ────────────────────────────────────────────────────────────────────────────────────────


@check(
    "6 · Room, turns and making way",
    hints=(
        "Forty requests come at once and four fit. What happens if all of them begin?",
        "Let a request join only if the blocks that it needs are free and a reserve is left; known blocks in use it has already. Whoever is alone may.",
        "`needed + math.ceil(self.config.watermark * self.pool.n_blocks) <= len(self.pool.free)`; needed: `blocks_of` its tokens, less known ones in use.",
    ),
)
@whole
def check_nobody_joins_without_room(part: Part, rng: random.Random) -> None:
    """Requests join as blocks allow; the reserve is kept; known blocks in use cost nothing, free ones cost as any other; nobody overtakes."""
    driver = Driver(part, n_blocks=24, max_running=12, tokens_per_step=256, context=100)
    for i in range(20):
        driver.add(f"r{i}", [i] * 18, 2, client="x")
    given = "24 blocks of 4, twenty requests of 18 + 2 tokens"
    equal(driver.step(), " ".join(f"r{i}[0:18]" for i in range(4)), "as many join as have room for their tokens", given=given)
    driver.all_steps()
    equal((driver.batch.counts.preempted, driver.busy), (0, False), "nobody is pushed out, and all are served", given=given)
    for watermark, expected in ((0.0, "a[0:18] b[0:4] c[0:8] d[0:2]"), (0.3, "a[0:18] b[0:4]")):
        driver = Driver(part, n_blocks=10, tokens_per_step=256, max_running=9, watermark=watermark)
        for name, length in (("a", 18), ("b", 4), ("c", 8), ("d", 2)):
            driver.add(name, [ord(name)] * length, 1, client="x")
        given = f"10 blocks of 4, a reserve of {watermark}; prompts of 18, 4, 8 and 2 tokens"
        equal(driver.step(), expected, "a request joins if the reserve is left when it has its blocks; and nobody overtakes who waits", given=given)
    driver = Driver(part, n_blocks=6, tokens_per_step=256, max_running=9)
    driver.add("a", [1] * 12 + [2], 5, client="x")
    driver.step()
    driver.add("b", [1] * 12 + [3], 1, client="x")
    says = "blocks that somebody uses already are not needed again"
    equal(driver.step(), "a[13:14] b[12:13]", says, given="6 blocks of 4, 4 in use; a prompt of 13 tokens of which 12 are known")
    driver = Driver(part, n_blocks=10, tokens_per_step=256, max_running=9, watermark=0.2)
    for name, prompt, n_max in (("a", [1] * 8 + [2], 1), ("b", [5] * 21, 3)):
        driver.add(name, prompt, n_max)
        driver.step()
    driver.add("c", [1] * 8 + [3] * 6, 1)
    given = "10 blocks of 4, 6 in use, a reserve of 2; a prompt of 14 tokens, of which 8 stand in two free blocks"
    equal(driver.step(), "b[21:22]", "a known block that is free is needed like any other: who takes it leaves one free block fewer", given=given)
    driver = Driver(part, n_blocks=4, tokens_per_step=256, max_running=9, watermark=0.5)
    driver.add("a", [1] * 13, 3)
    equal(driver.step(), "a[0:13]", "whoever is alone may have everything", given="4 blocks of 4, a reserve of half, a prompt of 13 tokens")


@check(
    "6 · Room, turns and making way",
    hints=(
        "Two run, both need a block, one is free. Who goes on, and what becomes of the other?",
        "Where `append_slots` raises OutOfBlocks, whoever came last gives back its blocks and waits; then try again. It may be the request itself.",
        "`while request.table and n > 0: try: … except OutOfBlocks: self.batch.preempt(plan) else: return plan.put(…)`; join nobody after that.",
    ),
)
@whole
def check_whoever_came_last_makes_way(part: Part, rng: random.Random) -> None:
    """When blocks run out, the request that came last gives its own back and is computed anew later; each gets the tokens that it gets alone."""
    driver = Driver(part, n_blocks=7, tokens_per_step=32, max_running=3)
    requests = {driver.add(name, [i] * 5, 12): [i] * 5 for i, name in enumerate("abc", 1)}
    requests[driver.add("d", [4], 1)] = [4]
    steps = driver.all_steps(60)
    given = "7 blocks of 4, three at once; a, b and c of 5 + 12 tokens, then d of 1 + 1"
    together = ["a[0:5] b[0:5] c[0:5]", *(f"a[{t}:{t + 1}] b[{t}:{t + 1}] c[{t}:{t + 1}]" for t in (5, 6, 7))]
    equal(steps[:4], together, "three run as long as there are blocks", given=given)
    equal(steps[4], "a[8:9] b[8:9]", "who came last makes way, and nobody joins in a step in which somebody had to", given=f"{given}; step 5")
    equal(steps[5], "a[9:10] b[9:10] d[0:1]", "who made way waits until there is room for all of it; another may fit", given=f"{given}; step 6")
    holds(all("a[" in words for words in steps[:12]), "who came first is never pushed out", given=given, found=steps)
    for request, prompt in requests.items():
        equal(list(request.generated), alone(prompt, request.n_max), "each gets the tokens that it gets alone", given=f"{given}; {driver.names[request]}")
    found = (driver.busy, len(list(driver.pool.free)), driver.batch.counts.preempted > 0)
    equal(found, (False, 7, True), "all are served, and no block is lost", given=given)


@check(
    "6 · Room, turns and making way",
    hints=(
        "One client has sent forty requests and another one. Whose turn is it, after the first of the forty?",
        "The queue knows: it keeps a counter for each client. Ask it who is next, take that one out, and let nobody past it.",
        "`request = batch.queue.peek()`, …, `batch.join(batch.queue.pop(), known)`; `add` hands the request on as it is.",
    ),
)
@whole
def check_clients_take_turns(part: Part, rng: random.Random) -> None:
    """Clients take turns by what they were given, who is cancelled leaves, and what can never run is refused."""
    driver = Driver(part, max_running=1, tokens_per_step=8)
    for i in range(4):
        driver.add(f"a{i}", [i] * 3, 1, client="flood")
    driver.add("b0", [7] * 3, 1, client="polite")
    driver.add("b1", [8] * 3, 1, client="polite")
    expected = ["a0[0:3]", "b0[0:3]", "a1[0:3]", "b1[0:3]", "a2[0:3]", "a3[0:3]"]
    equal(
        driver.all_steps(9),
        expected,
        "clients take turns, however many requests one of them sends",
        given="one at a time; four of a client, then two of another",
    )
    driver = Driver(part, max_running=1, max_waiting=2)
    run, wait = driver.add("run", [1] * 5, 9), driver.add("wait", [2] * 5, 9)
    driver.step()
    runs(lambda: (driver.scheduler.cancel(run), driver.scheduler.cancel(wait)), "requests can be cancelled", given="one runs, one waits")
    equal(
        (driver.busy, len(list(driver.pool.free))),
        (False, 100),
        "who is cancelled leaves, and its blocks are free",
        given="one runs, one waits, both are cancelled",
    )
    for words, prompt, n_max in (("longer than the context", [1] * 99, 2), ("no prompt", [], 2)):
        request = driver.batch.kind(prompt, n_max)
        refused(partial(driver.scheduler.add, request), "RequestRefused", "what can never run is refused when it comes", given=words)
    driver.add("one", [1], 1), driver.add("two", [1], 1)
    third = driver.batch.kind([1], 1)
    refused(lambda: driver.scheduler.add(third), "QueueFull", "no more wait than may", given="max_waiting 2, two wait")


@check(
    "6 · Room, turns and making way",
    hints=(
        "The message names the request. Was it pushed out, did it guess, did it find something? Run it alone, then beside one other.",
        "A request's tokens depend on its keys only. If they differ, a key was read from a slot that somebody else wrote, or from one where it does not stand.",
        "Look at `append_slots` (slots), `truncate` (length), `publish` and `adopt` (users), in this order; print the tables' blocks after each step.",
    ),
)
@whole
def check_a_crowd_gets_its_own_tokens(part: Part, rng: random.Random) -> None:
    """Forty random requests on few blocks, some with guesses, some alike: each gets the tokens that it gets alone, all are served, and no block is lost."""
    driver = Driver(part, n_blocks=14, size=4, tokens_per_step=24, max_running=6, max_waiting=99)
    stems, requests = [[rng.randrange(5) for _ in range(8)] for _ in range(2)], {}
    for i in range(40):
        prompt = rng.choice([[], *stems]) + [rng.randrange(2) for _ in range(rng.randint(1, 6))]
        requests[driver.add(f"r{i}", prompt, rng.randint(1, 16), client=rng.choice("abc"))] = prompt
    steps = 0
    while driver.busy and steps < 600:
        for request in list(driver.batch.running):
            if request.pending == 1 and rng.random() < 0.3:
                done = len(request.generated)
                true = alone(requests[request], request.n_max)[done : done + 3]
                request.draft = [t if rng.random() < 0.7 else rng.randrange(5) for t in true]
        driver.step()
        steps += 1
    given = "40 requests on 14 blocks of 4, 24 tokens a step"
    for request, prompt in requests.items():
        found, expected = list(request.generated), alone(prompt, request.n_max)
        equal(found, expected[: len(found)], "each request gets the tokens that it gets alone", given=f"{given}; {driver.names[request]}: {prompt}")
    equal((driver.busy, len(list(driver.pool.free))), (False, 14), "all are served, and no block is lost", given=given)


SCHEDULER_CHECKS: tuple[Check, ...] = (
    check_requests_join_between_steps,
    check_decodes_go_first,
    check_what_is_known_is_not_computed,
    check_nobody_joins_without_room,
    check_whoever_came_last_makes_way,
    check_clients_take_turns,
    check_a_crowd_gets_its_own_tokens,
)
