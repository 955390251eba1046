"""Who waits, who runs, and what happens when a request comes, joins, is pre-empted, gets its tokens and leaves. Who is next, ``scheduler`` decides."""

import dataclasses
from collections.abc import Mapping, Sequence

from underhood.base.errors import UnderhoodError
from underhood.infer.fairness import FairQueue
from underhood.infer.pages import BlockPool, PageTable
from underhood.infer.request import Plan, QueueFull, Request, RequestRefused, SchedulerConfig, Span


@dataclasses.dataclass
class Counts:
    """What happened since the start, in tokens and in requests."""

    asked: int = 0  # tokens of requests that joined (again)
    cached: int = 0  # those of them that were found in blocks
    computed: int = 0
    generated: int = 0
    guessed: int = 0  # tokens of drafts that were computed
    right: int = 0  # those of them that were kept
    preempted: int = 0  # requests


class Batch:
    """Requests that wait and run; those that run have a page table."""

    def __init__(self, config: SchedulerConfig, pool: BlockPool) -> None:
        self.config, self.pool, self.queue, self.counts = config, pool, FairQueue(), Counts()
        self.running: list[Request] = []  # in the order of arrival
        self.arrivals = 0

    def add(self, request: Request, *, reserved: bool = False) -> None:
        """Let a request wait. Raises ``RequestRefused`` for one that can never run and, unless its place was ``reserved``, ``QueueFull``."""
        if request.arrival is not None:
            raise UnderhoodError("a request is added twice")
        refuse_impossible(request, self.config, self.pool)
        if len(self.queue) >= self.config.max_waiting and not reserved:
            raise QueueFull(f"{len(self.queue)} requests wait already", expected=f"at most {self.config.max_waiting}", remedy="Try again later.")
        request.arrival = self.arrivals
        self.arrivals += 1
        self.queue.push(request)

    def join(self, request: Request, known: Sequence[int]) -> None:
        """Let a request run that has left the queue, and begin with the ``known`` blocks of its prompt."""
        request.table, request.cached = PageTable(self.pool), len(known) * self.pool.size
        request.table.adopt(known, request.cached)
        request.computed = request.cached
        self.running = sorted([*self.running, request], key=lambda r: r.arrival or 0)
        self.queue.charge(request, request.pending)
        self.counts.asked += len(request.tokens)
        self.counts.cached += request.cached

    def preempt(self, plan: Plan) -> None:
        """Whoever came last gives its blocks back and waits again, ahead of its client's others; what it wrote is kept, to be computed anew."""
        request = self.running[-1]
        self._stop(request)
        plan.drop(request)
        request.preemptions += 1
        self.counts.preempted += 1
        self.queue.push(request, head=True)

    def advance(self, plan: Plan, tokens: Mapping[Request, Sequence[int]]) -> list[Request]:
        """Take in the new ``tokens`` of each span that samples; the requests that are complete leave and are given back.

        New is one token, or, of a request with a draft, the guesses that were right and one more. Who left in the meantime is passed over.
        """
        self.counts.computed += plan.n_tokens
        done = [r for r, span in plan.spans.items() if r.table is not None and self._take(r, r.table, span, tokens.get(r, ()))]
        for request in done:
            self.cancel(request)
        return done

    def cancel(self, request: Request) -> None:
        """The request leaves and its blocks are free, between ``step`` and ``advance`` too; nothing happens if it has left already."""
        self.queue.remove(request)
        self._stop(request)
        if not self.running and not self.queue:
            self.queue.forget()

    def _take(self, request: Request, table: PageTable, span: Span, tokens: Sequence[int]) -> bool:
        """Whether the request is complete now. The newest token is not computed yet, and of a draft only the guesses that were right stay."""
        new, samples = tokens[: request.room], span.samples
        if bool(new) != (samples and request.room > 0):
            raise UnderhoodError(f"{len(new)} new tokens for a span to {span.end} of {len(request.tokens)} tokens")
        self.counts.guessed += max(0, span.end - len(request.tokens))
        self.counts.right += max(0, len(new) - 1)
        request.tokens += new
        request.draft = []
        request.computed = min(span.end, len(request.tokens) - 1)
        table.truncate(request.computed)
        table.publish(request.tokens, request.salt)
        self.queue.charge(request, len(new))
        self.counts.generated += len(new)
        return samples and request.room == 0

    def _stop(self, request: Request) -> None:
        if request.table is not None:
            self.running.remove(request)
            request.table.free()
            request.table, request.computed = None, 0


def refuse_impossible(request: Request, config: SchedulerConfig, pool: BlockPool) -> None:
    """Raise ``RequestRefused`` if the request could never run, however long it waited."""
    wanted, capacity = request.n_prompt + request.n_max, pool.n_blocks * pool.size
    if request.n_prompt < 1 or request.n_max < 0:
        raise RequestRefused(f"{request.n_max} tokens after a prompt of {request.n_prompt}", expected="0 or more after at least one")
    for limit, what in ((config.context, "the model's context"), (capacity, "all blocks of the cache")):
        if wanted > limit:
            problem = f"a prompt of {request.n_prompt} tokens and up to {request.n_max} new ones"
            raise RequestRefused(problem, expected=f"at most {limit} together ({what})")
