"""What goes wrong when many are served at once. The worst is silent: a fluent answer, made of somebody else's text."""

from underhood.lab.sabotage import Below, Crashes, Edit, Falls, Keeps, Rises, Sabotage, Set, Stays, Violates

INDEX, PAGES, SCHEDULER = "underhood.infer.prefix:PrefixIndex", "underhood.infer.pages:", "underhood.infer.scheduler:Scheduler"
CHAIN = "underhood.infer.prefix:chain_hash"
POOL, TABLE = f"{PAGES}BlockPool", f"{PAGES}PageTable"
COUNTED = """    if block not in self.users:
        raise PageError(f"block {block} is released and nobody uses it")
    self.users[block] -= 1
    if self.users[block] == 0:
        del self.users[block]
"""
NO_COUNT = (
    Edit(f"{POOL}.release", COUNTED, "    if self.users.pop(block, None):\n"),
    Edit(f"{POOL}.writable", "self.users[block] == 1", "True"),
)
TABLE_OFF = Edit(f"{TABLE}.append_slots", "self.blocks[t // size]", "self.blocks[t // size - 1]")
PARENT = Edit(f"{INDEX}.find", "(entry.parent, entry.tokens, entry.salt) == (parent, tokens, salt)", "(entry.tokens, entry.salt) == (tokens, salt)")
NO_PREVIOUS = Edit(CHAIN, "(previous, tokens, salt)", "(tokens, salt)")

BREAKS: tuple[Sabotage, ...] = (
    # ── what a block holds ──
    Sabotage(
        name="hash_without_previous",
        says="A block's hash leaves out the block before it; what is found is still compared.",
        kind="part",
        patch=NO_PREVIOUS,
        baseline="serving.crowd",
        expect=(Falls("cached_share", by=0.02), Keeps("tokens_alike"), Keeps("all_served")),
        look="Right answers, and fewer tokens found: a question asked after one system prompt hides the same question after another.",
        silent=True,
    ),
    Sabotage(
        name="content_alone",
        says="A block is known by its own tokens: neither the hash nor the comparison asks what stands before it.",
        kind="part",
        patch=(NO_PREVIOUS, PARENT),
        baseline="serving.crowd",
        expect=(Violates("tokens_alike"), Rises("wrong_tokens", by=0.1), Rises("cached_share", by=0.02), Keeps("all_served")),
        look="More tokens are found, and the answer is about another conversation that asked the same question.",
        silent=True,
    ),
    Sabotage(
        name="hash_alone_decides",
        says="Whatever has the hash is taken for the block; the tokens are not compared.",
        kind="part",
        patch=Edit(f"{INDEX}.find", "entry if entry and (entry.parent, entry.tokens, entry.salt) == (parent, tokens, salt) else None", "entry"),
        baseline="serving.pages",
        expect=(Violates("equal_hashes_apart"), Keeps("texts_alike"), Keeps("none_lost")),
        look="Nothing in any random run. Somebody who knows how the hash is made can be answered from a stranger's prompt.",
        silent=True,
        cites=("GHSA-rm76-4mrf-v9r8 (CVE-2025-25183): predictable hashes in vLLM's prefix cache",),
    ),
    Sabotage(
        name="whole_prompt_found",
        says="A prompt may be found whole, its last token too.",
        kind="part",
        patch=Edit(f"{INDEX}.match", "range(0, len(tokens) - size, size)", "range(0, len(tokens) - size + 1, size)"),
        baseline="serving.engine",
        expect=(Violates("all_served"), Violates("none_lost")),
        look="Most are served. One whose prompt fills its last block, and was asked before, waits for ever: with nothing left to compute it gets no logits.",
    ),
    # ── the pool ──
    Sabotage(
        name="no_reference_count",
        says="A block is free as soon as one of its users lets it go, and nobody counts how many there are.",
        kind="part",
        patch=NO_COUNT,
        baseline="serving.crowd",
        expect=(Violates("tokens_alike"), Rises("wrong_tokens", by=0.05), Stays("tokens_per_step", within=2.0)),
        look="Two requests read and write one page. Every figure of the dashboard is as before, and answers change in the middle of a sentence.",
        silent=True,
    ),
    Sabotage(
        name="user_not_counted",
        says="Who shares a block is not counted as a user of it; a release too many is an error, as it was.",
        kind="part",
        patch=Edit(f"{POOL}.share", "self.users.get(block, 0) + 1", "1"),
        baseline="serving.crowd",
        expect=(Crashes("PageError"),),
        look="The same fault with the guard in place: it ends loudly when the second user leaves.",
    ),
    Sabotage(
        name="index_not_told",
        says="A block is handed out again and the index still says what it held.",
        kind="part",
        patch=Edit(f"{POOL}.allocate", "    self.index.forget(block)\n", ""),
        baseline="serving.crowd",
        expect=(Violates("tokens_alike"), Rises("wrong_tokens", by=0.05), Rises("cached_share", by=0.02)),
        look="The hit rate is better than it ever was. What is found is what somebody else has written there since.",
        silent=True,
    ),
    # ── page tables ──
    Sabotage(
        name="table_off_by_one",
        says="A token's slot is taken from the entry of the table before its own.",
        kind="part",
        patch=TABLE_OFF,
        baseline="serving.crowd",
        expect=(Violates("tokens_alike"), Rises("wrong_tokens", by=0.5), Keeps("short_alike"), Keeps("all_served")),
        look="Texts of one block are right, for entry -1 is entry 0 there. All longer ones are fluent nonsense.",
        silent=True,
    ),
    Sabotage(
        name="wrong_guess_kept",
        says="After a wrong guess the blocks are given back and the length stays.",
        kind="part",
        patch=Edit(f"{TABLE}.truncate", "self.length, self.published = length, min(", "self.published = min("),
        baseline="serving.crowd",
        expect=(Crashes("PageError"),),
        look="An error soon after the first wrong guess: `publish` is given fewer tokens than the table says. Without that guard keys would shift, silently.",
    ),
    Sabotage(
        name="taken_before_counting",
        says="Whether all blocks are there is not asked before the first is taken.",
        kind="part",
        patch=Edit(f"{TABLE}.append_slots", "if fresh + torn > len(self.pool.free):", "if fresh + torn > 0 and not self.pool.free:"),
        baseline="serving.pages",
        expect=(Violates("none_lost"), Rises("blocks_lost", by=8.0)),
        look="Each time that memory is short a few blocks are gone for good, and so it is short more often: a leak that looks like load.",
        silent=True,
    ),
    Sabotage(
        name="copy_left_out",
        says="A last block that others read is replaced by a new one, and what stood in it is not copied.",
        kind="part",
        patch=Edit(f"{TABLE}.append_slots", "copies.append((old, self.blocks[-1]))", "pass"),
        baseline="serving.pages",
        expect=(Violates("texts_alike"), Rises("wrong_reads", by=0.02), Falls("copies", by=10.0), Keeps("none_lost"), Keeps("counts_right")),
        look="Two answers to one question begin alike; the one that goes on second reads, in its last block, what an earlier tenant left there.",
        silent=True,
    ),
    # ── the scheduler ──
    Sabotage(
        name="prompt_in_one_go",
        says="A prompt is computed in one step, however little of the step is left.",
        kind="part",
        patch=Edit(f"{SCHEDULER}._schedule", "min(request.target - request.computed, plan.left)", "request.target - request.computed"),
        baseline="serving.crowd",
        expect=(Rises("largest_step", by=20.0), Keeps("tokens_alike"), Stays("gap_p99", within=0.5)),
        look="Counted in steps nothing is worse. Steps are longer now and then, and everybody who decodes waits for them.",
        silent=True,
    ),
    Sabotage(
        name="decodes_wait",
        says="Whoever came first is computed first, be it a prompt or a token.",
        kind="part",
        patch=Edit(f"{SCHEDULER}.step", "sorted(batch.running, key=lambda r: r.pending > 1)", "list(batch.running)"),
        baseline="serving.crowd",
        expect=(Stays("tokens_per_step", within=0.5), Stays("gap_p99", within=0.5), Keeps("tokens_alike")),
        look="Nothing on average. Now and then an answer stands still while an older prompt is read in chunks.",
        silent=True,
    ),
    Sabotage(
        name="no_admission_control",
        says="A request joins whenever there is a place for it, whether or not its blocks are free.",
        kind="part",
        patch=Edit(f"{SCHEDULER}._fits", "not self.batch.running or", "True or"),
        baseline="serving.crowd",
        expect=(Rises("preempted", by=0.5), Rises("computed_per_token", by=0.1), Rises("gap_p99", by=1.0), Keeps("tokens_alike"), Keeps("all_served")),
        look="The same answers, later: requests push each other out, and what they had computed is computed again.",
        silent=True,
    ),
    Sabotage(
        name="no_fairness",
        says="Everybody stands in one line, whoever sends how much.",
        kind="part",
        patch=Edit(f"{SCHEDULER}.add", "self.batch.add(request)", 'request.client = ""; self.batch.add(request)'),
        baseline="serving.crowd",
        expect=(Rises("polite_p99", by=20.0), Stays("tokens_per_step", within=1.0), Keeps("tokens_alike"), Keeps("all_served")),
        look="Throughput is the same. One client sends forty requests, and everybody else waits for all of them.",
        silent=True,
    ),
    Sabotage(
        name="static_batching",
        says="Nobody joins until the whole batch is done.",
        kind="setup",
        patch=Set("policy", "static"),
        baseline="serving.crowd",
        expect=(Falls("tokens_per_step", by=4.0), Rises("first_p99", by=40.0), Keeps("tokens_alike"), Keeps("all_served")),
        look="Each batch lasts as long as its longest answer; who comes a step late waits for all of it.",
        probe=Below("tokens_per_step", 6.0),
    ),
)
