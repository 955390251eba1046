"""What runs in the next step: requests join and leave between any two steps, not batch by batch (Orca: Yu et al. 2022, OSDI).

A step computes at most ``tokens_per_step`` tokens: first one for each request that decodes, then as much of the prompts as there is room for (chunked
prefill: Agrawal et al. 2024, arXiv 2403.02310). A request joins only when the blocks of all it has to say are free (admission control). When blocks
run out all the same, the request that came last gives its own back (pre-emption by recomputation: Kwon et al. 2023, arXiv 2309.06180).
"""

import math
from collections.abc import Mapping, Sequence

from underhood.infer.batch import Batch
from underhood.infer.pages import BlockPool, OutOfBlocks
from underhood.infer.request import Plan, Request, SchedulerConfig, Span


class Scheduler:
    """The engine's loop is ``plan = step()``, compute, ``advance(plan, new tokens)``; ``add`` and ``cancel`` may come between any two of them.

    Beside ``config`` and ``pool``: ``batch``, the ``Batch`` of those who wait and run.
    """

    def __init__(self, config: SchedulerConfig, pool: BlockPool) -> None:
        self.config, self.pool, self.batch = config, pool, Batch(config, pool)

    def add(self, request: Request) -> None:
        """Let a request wait. Raises ``RequestRefused`` for one that can never run and ``QueueFull``."""
        self.batch.add(request)

    def cancel(self, request: Request) -> None:
        """The request leaves, waiting or running, and its blocks are free."""
        self.batch.cancel(request)

    def advance(self, plan: Plan, tokens: Mapping[Request, Sequence[int]]) -> list[Request]:
        """Take in the new tokens of each span that samples, and give back the requests that are complete."""
        return self.batch.advance(plan, tokens)

    def step(self) -> Plan:
        """What to compute now; empty only if nobody waits or runs."""
        plan, batch = Plan(self.config.tokens_per_step), self.batch
        joinable = self.config.policy == "continuous" or not batch.running
        for request in sorted(batch.running, key=lambda r: r.pending > 1):  # decodes first, each kind in the order of arrival
            self._schedule(request, plan)
        while joinable and batch.queue and not plan.preempted and len(batch.running) < self.config.max_running and plan.left > 0:
            request = batch.queue.peek()
            known = self.pool.index.match(request.tokens, self.pool.size, request.salt)
            if not self._fits(request, known):
                break  # nobody overtakes: a long request would wait for ever
            batch.join(batch.queue.pop(), known)
            self._schedule(request, plan)
        return plan

    def _schedule(self, request: Request, plan: Plan) -> None:
        """Put as much of ``request`` into the plan as there is room for; whoever came last makes way, perhaps ``request`` itself."""
        n = min(request.target - request.computed, plan.left)
        while request.table and n > 0:
            try:
                slots, copies = request.table.append_slots(n)
            except OutOfBlocks:
                self.batch.preempt(plan)
            else:
                return plan.put(Span(request, request.computed, request.computed + n, slots, copies))

    def _fits(self, request: Request, known: Sequence[int]) -> bool:
        """Whether its blocks are free and the watermark is left; whoever is alone fits.

        Those who run have the blocks of all their tokens by now: as long as the plan has room, they are in it whole.
        """
        needed = self.pool.blocks_of(len(request.tokens)) - sum(block in self.pool.users for block in known)
        return not self.batch.running or needed + math.ceil(self.config.watermark * self.pool.n_blocks) <= len(self.pool.free)
