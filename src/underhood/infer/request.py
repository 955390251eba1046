"""What the scheduler and the engine speak about: a request, the part of it that a step computes, and the step."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from underhood.base.errors import ConfigError, UserError
from underhood.infer.pages import PageTable


class RequestRefused(UserError):
    """A request that could never run: it is empty, or longer than the context or all blocks."""


class QueueFull(UserError):
    """As many requests wait as may."""

    exit_code = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """How much runs at once."""

    context: int  # positions of the model: a prompt and its answer fit in
    tokens_per_step: int = 512  # bounds the time of a step, and so how long a decoding request waits beside a long prompt
    max_running: int = 64
    max_waiting: int = 256
    watermark: float = 0.02  # share of the blocks left free when a request joins, for those that run to grow into
    policy: Literal["continuous", "static"] = "continuous"  # static: nobody joins until the whole batch is done (the baseline)

    def __post_init__(self) -> None:
        bounds = {
            "context": (self.context >= 1, "at least 1"),
            "max_running": (self.max_running >= 1, "at least 1"),
            "tokens_per_step": (self.tokens_per_step >= self.max_running, "at least max_running, so that every request can decode in every step"),
            "max_waiting": (self.max_waiting >= 0, "0 or more"),
            "watermark": (0 <= self.watermark < 1, "0 ≤ share < 1"),
            "policy": (self.policy in ("continuous", "static"), "continuous or static"),
        }
        for field, (fine, expected) in bounds.items():
            if not fine:
                raise ConfigError(f"found {getattr(self, field)!r}", where=field, expected=expected)


class Request:
    """A prompt and what has been generated after it; two requests are equal only if they are the same."""

    def __init__(self, prompt: Sequence[int], n_max: int, *, client: str = "", priority: float = 1.0, salt: str = "") -> None:
        if not (math.isfinite(priority) and priority > 0):
            raise RequestRefused(f"found {priority!r}", where="priority", expected="a finite number above 0")
        self.tokens = list(prompt)  # of the prompt, then the generated ones
        self.n_prompt, self.n_max = len(self.tokens), n_max  # n_max: tokens to generate at most
        self.client, self.priority = client, priority  # a client of priority 2 gets twice the tokens of one of priority 1
        self.salt = salt  # prefixes are shared among requests of one salt only
        self.draft: list[int] = []  # guessed tokens that the next step is to compute too (speculative decoding)
        self.arrival: int | None = None  # its number in the order of arrival, once added
        self.table: PageTable | None = None  # while it runs
        self.computed = 0  # leading tokens whose keys and values are in the table
        self.cached = 0  # those of them that were found when it last joined
        self.preemptions = 0

    @property
    def generated(self) -> list[int]:
        """The tokens after the prompt."""
        return self.tokens[self.n_prompt :]

    @property
    def pending(self) -> int:
        """Known tokens still to be computed: 1 while it decodes."""
        return len(self.tokens) - self.computed

    @property
    def target(self) -> int:
        """Tokens to compute up to: all that are known and the draft, but no guess beyond the last token that may be generated."""
        return min(len(self.tokens) + len(self.draft), self.n_prompt + self.n_max)

    @property
    def room(self) -> int:
        """Tokens that may still be generated."""
        return self.n_prompt + self.n_max - len(self.tokens)


@dataclasses.dataclass(frozen=True)
class Span:
    """Tokens ``start`` to ``end`` of a request (its draft counted), to be computed in one step."""

    request: Request
    start: int
    end: int
    slots: list[int]  # where the keys and values of each token go
    copies: list[tuple[int, int]]  # blocks (from, to) to copy first

    @property
    def samples(self) -> bool:
        """Whether it reaches the last known token, so that the step gives a new one. (Ask before the new one is taken in.)"""
        return self.end >= len(self.request.tokens)

    @property
    def tokens(self) -> list[int]:
        """The tokens to compute."""
        known = self.request.tokens[self.start : self.end]
        return known + self.request.draft[: self.end - self.start - len(known)]


class Plan:
    """One step: at most one span for each request. Blocks are copied before anything is written, spans in this order."""

    def __init__(self, tokens_per_step: int) -> None:
        self.spans: dict[Request, Span] = {}
        self.left = tokens_per_step  # tokens that there is room for
        self.preempted: list[Request] = []

    @property
    def n_tokens(self) -> int:
        """Tokens to compute."""
        return sum(span.end - span.start for span in self.spans.values())

    def put(self, span: Span) -> None:
        """Take in a request's span."""
        self.spans[span.request] = span
        self.left -= span.end - span.start

    def drop(self, request: Request) -> None:
        """The request gave its blocks back: it is not computed after all."""
        span = self.spans.pop(request, None)
        self.left += span.end - span.start if span else 0
        self.preempted.append(request)
