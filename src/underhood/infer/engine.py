"""The engine: requests in, tokens out, as many at once as memory holds.

Each ``step`` asks the scheduler what to compute, runs the model once over a flat list of tokens of many texts, chooses each text's next token, and hands
it on. A text's tokens depend neither on who shares the step nor on pre-emption: its keys lie in its own pages, its random numbers are its own, and
``batch_invariant`` makes even the bits of its logits its own.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from underhood.base.errors import ConfigError
from underhood.infer.generation import LATE, NOT_FINITE, Choice, Generation, TokenInfo
from underhood.infer.paged import PagedCache, Reach, Step, hidden_of, read_pages
from underhood.infer.pages import BlockPool, waste
from underhood.infer.pick_rows import pick_rows
from underhood.infer.request import Plan, QueueFull, Request, RequestRefused, SchedulerConfig
from underhood.infer.scheduler import Scheduler
from underhood.nn.gpt import GPT
from underhood.text.tokenizer import Tokenizer

Array = np.ndarray[Any, Any]
BYTES = 4  # of a number in the pages


class Compiled(Protocol):
    """What the engine uses of ``underhood.kernels.decode.CompiledDecoder``."""

    def hidden(self, tokens: Array, at: Array, table: Array, pools: Sequence[tuple[Array, Array]]) -> Array:
        """The residual stream after the final norm, (N C)."""

    def logits(self, hidden: Array) -> Tensor:
        """(N V)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How much the engine holds and does at once."""

    block_size: int = 16  # tokens a block; larger wastes more, smaller shares less
    cache_mb: float = 512.0  # for keys and values of everybody; what it allows is ``n_blocks``
    n_blocks: int | None = None  # instead of ``cache_mb``
    tokens_per_step: int = 512
    max_running: int = 64
    max_waiting: int = 256
    share_prefixes: bool = True  # a prompt that begins as another did finds what was computed
    policy: str = "continuous"
    compiled_up_to: int = 16  # steps of at most so many tokens run in compiled kernels, where there are any; larger ones in torch's
    batch_invariant: bool = False  # all steps in compiled kernels: a text's bits are its own; long prompts take longer

    def blocks_for(self, model: GPT) -> int:
        """How many blocks there are, at most what every running text could fill."""
        if self.n_blocks is not None:
            return self.n_blocks
        config = model.config
        token = 2 * config.n_layer * (config.n_kv_head or config.n_head) * config.head_width * BYTES
        needed = self.max_running * -(-config.context // self.block_size)
        return max(1, min(needed, int(self.cache_mb * 2**20 / (token * self.block_size))))


class Engine:
    """Not for several threads at once: whoever serves calls ``submit``, ``cancel`` and ``step`` in turn."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, config: EngineConfig = EngineConfig(), *, compiled: Compiled | None = None) -> None:
        if config.batch_invariant and compiled is None:
            raise ConfigError("torch's kernels add in an order that depends on the batch", where="batch_invariant", expected="compiled kernels: numba, float32")
        self.model, self.tokenizer, self.config, self.compiled = read_pages(model.eval()), tokenizer, config, compiled
        self.cache = PagedCache(model.config, config.blocks_for(model), config.block_size)
        limits = {f: getattr(config, f) for f in ("tokens_per_step", "max_running", "max_waiting", "policy")}
        self.pool = BlockPool(config.blocks_for(model), config.block_size)
        self.scheduler = Scheduler(SchedulerConfig(context=context_of(model), **limits), self.pool)
        self.choices: dict[Request, Choice] = {}
        self.later: dict[Request, list[Choice]] = {}  # choices that wait for the first of their generation to have computed the prompt
        self.clock: Callable[[], float] = time.monotonic
        self._unshared = 0

    def submit(self, asked: Generation) -> list[Choice]:
        """Let a generation wait; its ``n`` choices fill with pieces as steps go by. Raises ``RequestRefused`` and ``QueueFull``."""
        self._require(asked)
        choices = [Choice(asked, i, self.tokenizer) for i in range(asked.n)]
        waiting = len(self.scheduler.batch.queue) + sum(map(len, self.later.values()))
        if waiting + asked.n > self.config.max_waiting and waiting:
            raise QueueFull(f"{waiting} requests wait already", expected=f"at most {self.config.max_waiting}", remedy="Try again later.")
        self._enter(choices[0])
        if choices[1:]:
            self.later[choices[0].request] = choices[1:]
        return choices

    def cancel(self, choice: Choice) -> None:
        """The choice ends where it is, and what it held is free."""
        for first, others in list(self.later.items()):
            if choice in others:
                others.remove(choice)
            elif self.choices.get(first) is choice:
                self._release(first)
        self._leave(choice)
        choice.end("cancelled")

    @property
    def busy(self) -> bool:
        """Whether anybody waits or runs."""
        return bool(self.choices)

    @torch.no_grad()
    def step(self) -> int:
        """One step for everybody that fits; returns how many tokens were computed."""
        self._drop_late()
        plan = self.scheduler.step()
        if not plan.spans:
            return 0
        for span in plan.spans.values():
            self.cache.copy(span.copies)
        hidden = self._hidden(plan)
        sampling, rows = _last_rows(plan)
        infos: list[TokenInfo | None] = []
        if sampling:
            infos = pick_rows(self._logits(hidden[torch.tensor(rows)]), [self.choices[r] for r in sampling])
        self._hand_on(plan, dict(zip(sampling, infos, strict=True)))
        return plan.n_tokens

    def statistics(self) -> dict[str, float]:
        """What a page of metrics shows."""
        batch = self.scheduler.batch
        counts = dataclasses.asdict(batch.counts)
        tables = [r.table for r in batch.running if r.table is not None]
        used = len(self.pool.users)
        return {**counts, "running": len(batch.running), "waiting": len(batch.queue), "blocks_used": used, "blocks": self.pool.n_blocks, "waste": waste(tables)}

    # ── inside a step ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _hidden(self, plan: Plan) -> Float[Tensor, "N C"]:
        """The residual stream of every token of the plan, by the kernels that its size asks for."""
        spans = list(plan.spans.values())
        ids = torch.tensor([t for span in spans for t in span.tokens])
        at = torch.cat([torch.arange(span.start, span.end) for span in spans])
        if self.compiled is not None and (self.config.batch_invariant or len(ids) <= self.config.compiled_up_to):
            return self._compiled_hidden(self.compiled, plan, ids, at)
        slots = torch.tensor([slot for span in spans for slot in span.slots])
        reaches, begin = [], 0
        for span in spans:
            end = begin + span.end - span.start
            reaches.append(Reach(begin, end, torch.tensor(_table(span.request)), span.end))
            begin = end
        return hidden_of(self.model, self.cache, Step(ids, at, slots, reaches))

    def _compiled_hidden(self, compiled: Compiled, plan: Plan, ids: Tensor, at: Tensor) -> Float[Tensor, "N C"]:
        tables = [_table(span.request) for span in plan.spans.values() for _ in range(span.start, span.end)]
        padded = np.zeros((len(tables), max(map(len, tables))), dtype=np.int64)
        for row, table in zip(padded, tables, strict=True):
            row[: len(table)] = table
        pools = [(k.numpy(), v.numpy()) for k, v in self.cache.pools]
        return torch.from_numpy(compiled.hidden(ids.numpy(), at.numpy(), padded, pools))

    def _logits(self, hidden: Float[Tensor, "B C"]) -> Float[Tensor, "B V"]:
        if self.compiled is not None and (self.config.batch_invariant or len(hidden) <= self.config.compiled_up_to):
            return self.compiled.logits(np.ascontiguousarray(hidden.float().numpy()))
        return self.model.logits(hidden.to(self.model.head_weight.dtype)).float()

    def _hand_on(self, plan: Plan, infos: dict[Request, TokenInfo | None]) -> None:
        """Give each choice its token, end those that are done, and let the choices come that waited for a prompt."""
        tokens: dict[Request, list[int]] = {}
        over: list[Choice] = []
        for request, info in infos.items():
            choice = self.choices[request]
            tokens[request] = [info.id] if info else [0]
            if info is None:
                choice.end("error", NOT_FINITE)
            if info is None or not choice.take(info):
                over.append(choice)
        done = self.scheduler.advance(plan, tokens)
        for request in infos:
            self._release(request)
        for choice in [*over, *(self.choices[r] for r in done if r in self.choices)]:
            choice.end("length")  # nothing happens to those that have ended
            self._leave(choice)

    # ── coming and going ──────────────────────────────────────────────────────────────────────────────────────────────

    def _require(self, asked: Generation) -> None:
        """What a model cannot know at all is refused before anything is held for it."""
        V = self.model.config.vocab_size
        for token in (*asked.prompt, *asked.logit_bias):
            if not 0 <= token < V:
                raise RequestRefused(f"token {token}", expected=f"ids from 0 to {V - 1}")

    def _enter(self, choice: Choice) -> None:
        if not self.config.share_prefixes:
            self._unshared += 1
            choice.request.salt = f"alone/{self._unshared}"
        self.scheduler.add(choice.request)
        self.choices[choice.request] = choice
        if choice.request.n_max == 0:
            choice.end("length")
            self._leave(choice)

    def _release(self, first: Request) -> None:
        """The prompt is computed: the other choices of its generation may come, and find it in the pages."""
        for choice in self.later.pop(first, []):
            self._enter(choice)

    def _leave(self, choice: Choice) -> None:
        self.scheduler.cancel(choice.request)
        self.choices.pop(choice.request, None)
        self._release(choice.request)

    def _drop_late(self) -> None:
        """End what is past its deadline."""
        now = self.clock()
        for choice in [c for c in self.choices.values() if c.asked.deadline is not None and now > c.asked.deadline]:
            choice.end("error", LATE)
            self._leave(choice)


def context_of(model: GPT) -> int:
    """How long a text may be: the model's context, but the trained one where the rotation changes with the length, since cached keys would be stale."""
    rope = model.config.rope
    if rope is not None and rope.kind == "dynamic":
        return min(model.config.context, rope.original_context or model.config.context)
    return model.config.context


def _table(request: Request) -> list[int]:
    assert request.table is not None
    return request.table.blocks


def _last_rows(plan: Plan) -> tuple[list[Request], list[int]]:
    """The requests whose span reaches their last token, and the row of that token in the step."""
    requests, rows, end = [], [], 0
    for request, span in plan.spans.items():
        end += span.end - span.start
        if span.samples:
            requests.append(request)
            rows.append(end - 1)
    return requests, rows
