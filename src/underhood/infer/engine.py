"""The engine: requests in, tokens out, as many at once as memory holds.

Each ``step`` asks the scheduler what to compute, runs the model once over a flat list of tokens of many texts, chooses each text's next token, and hands
it on. A text's tokens depend neither on who shares the step nor on pre-emption: its keys lie in its own pages, its random numbers are its own, and
``batch_invariant`` makes even the bits of its logits its own.

With ``guesses`` a step also computes what a text may go on with. Each place's token is chosen as ever, with that place's own random number; as long as it
is the one that was guessed, the next place counts too. So the tokens are those that come without guesses, sampled ones too. For a guess that is sure of
itself this is speculative decoding: it is kept with the probability that the model gives it (Leviathan et al. 2023, arXiv 2211.17192, algorithm 1).
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from underhood.base.errors import ConfigError, UnderhoodError, UserError
from underhood.infer.generation import LATE, NOT_FINITE, Choice, Generation, TokenInfo
from underhood.infer.paged import PagedCache, Reach, Step, hidden_of, padded, read_pages, with_singles
from underhood.infer.pages import BlockPool, waste
from underhood.infer.pick_rows import pick_rows
from underhood.infer.request import Plan, QueueFull, Request, RequestRefused, SchedulerConfig
from underhood.infer.sample import context_of
from underhood.infer.scheduler import Scheduler
from underhood.nn.gpt import GPT
from underhood.text.tokenizer import Tokenizer

Array = np.ndarray[Any, Any]
BYTES = 4  # of a number in the pages


class Compiled(Protocol):
    """What the engine uses of ``underhood.kernels.decode.CompiledDecoder``."""

    dtype: Literal["float32", "bfloat16"]

    def hidden(self, tokens: Array, at: Array, table: Array, pools: Sequence[tuple[Array, Array]]) -> Array:
        """The residual stream after the final norm, (N C)."""

    def logits(self, hidden: Array) -> Tensor:
        """(N V)."""

    def attend(self, q: Array, keys: Array, values: Array, table: Array, lengths: Array, window: int) -> Array:
        """Single tokens' attention over pages, (N H D)."""


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
    compiled_up_to: int = 16  # steps of at most so many tokens run in compiled kernels, where there are any; of larger ones the matrices run in torch's
    batch_invariant: bool = False  # all steps in compiled kernels, as always in bfloat16: a text's bits are its own; long prompts take longer
    guesses: int = 0  # tokens guessed for each text from what it repeats, in steps that stay at ``compiled_up_to`` tokens with them

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
        if config.guesses < 0:
            raise ConfigError(f"found {config.guesses}", where="guesses", expected="0 or more")
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
        # In bfloat16 torch's kernels round activations too, which the compiled ones do not: who shares a step would decide how well it is computed.
        self._always = compiled is not None and (config.batch_invariant or compiled.dtype == "bfloat16")

    def submit(self, asked: Generation) -> list[Choice]:
        """Let a generation wait; its ``n`` choices fill with pieces as steps go by. Raises ``RequestRefused`` and ``QueueFull``.

        Where as many wait as may, a client of whom nobody waits may still let one choice wait: a flood from one does not shut out the others.
        """
        self._require(asked)
        choices = [Choice(asked, i, self.tokenizer) for i in range(asked.n)]
        waiting = len(self.scheduler.batch.queue) + sum(map(len, self.later.values()))
        full = waiting + asked.n > self.config.max_waiting and waiting > 0
        if full and not (self._alone(asked) and waiting < 2 * self.config.max_waiting):
            raise QueueFull(f"{waiting} requests wait already", expected=f"at most {self.config.max_waiting}", remedy="Try again later.")
        if choices[1:]:
            self.later[choices[0].request] = choices[1:]  # before the first comes: it may be complete at once
        try:
            self._enter(choices[0], reserved=full)
        except UserError:
            self.later.pop(choices[0].request, None)
            raise
        return choices

    def cancel(self, choice: Choice) -> None:
        """The choice ends where it is, and what it held is free."""
        for first, others in list(self.later.items()):
            if choice in others:
                others.remove(choice)
                if not others:
                    del self.later[first]
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
        self._guess()
        plan = self.scheduler.step()
        if not plan.spans:
            return 0
        for span in plan.spans.values():
            self.cache.copy(span.copies)
        hidden = self._hidden(plan)
        self._hand_on(plan, self._choose(hidden, _last_rows(plan)))
        return plan.n_tokens

    def statistics(self) -> dict[str, float]:
        """What a page of metrics shows."""
        batch = self.scheduler.batch
        counts = dataclasses.asdict(batch.counts)
        tables = [r.table for r in batch.running if r.table is not None]
        used = len(self.pool.users)
        return {**counts, "running": len(batch.running), "waiting": len(batch.queue), "blocks_used": used, "blocks": self.pool.n_blocks, "waste": waste(tables)}

    # ── inside a step ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _quick(self, n_tokens: int) -> Compiled | None:
        """The compiled kernels, for a step of so many tokens that runs in them."""
        return self.compiled if self._always or n_tokens <= self.config.compiled_up_to else None

    def _hidden(self, plan: Plan) -> Float[Tensor, "N C"]:
        """The residual stream of every token of the plan, by the kernels that its size asks for."""
        spans = list(plan.spans.values())
        ids = torch.tensor([t for span in spans for t in span.tokens])
        at = torch.cat([torch.arange(span.start, span.end) for span in spans])
        quick = self._quick(len(ids))
        if quick is not None:
            table = padded([_table(span.request) for span in spans for _ in range(span.start, span.end)])
            pools = [(k.numpy(), v.numpy()) for k, v in self.cache.pools]
            return torch.from_numpy(quick.hidden(ids.numpy(), at.numpy(), table, pools))
        slots = torch.tensor([slot for span in spans for slot in span.slots])
        reaches, begin = [], 0
        for span in spans:
            end = begin + span.end - span.start
            reaches.append(Reach(begin, end, torch.tensor(_table(span.request)), span.end))
            begin = end
        step = Step(ids, at, slots, reaches)
        return hidden_of(self.model, self.cache, step if self.compiled is None else with_singles(step, self.compiled.attend))

    def _logits(self, hidden: Float[Tensor, "B C"]) -> Float[Tensor, "B V"]:
        quick = self._quick(len(hidden))
        if quick is not None:
            return quick.logits(np.ascontiguousarray(hidden.float().numpy()))
        return self.model.logits(hidden.to(self.model.head_weight.dtype)).float()

    def _guess(self) -> None:
        """Let the texts that decode carry guesses, unless the step would grow wide, or take blocks that others need."""
        decoding = [r for r in self.scheduler.batch.running if r.pending == 1]
        each = min(self.config.guesses, self.config.compiled_up_to // max(1, len(decoding)) - 1)
        if sum(self.pool.blocks_of(len(r.tokens) + each) - len(_table(r)) for r in decoding) > len(self.pool.free):
            each = 0
        for request in decoding:
            choice = self.choices[request]
            request.draft = choice.lookup.guesses(request.tokens, each) if each > 0 and choice.asked.plain else []

    def _choose(self, hidden: Float[Tensor, "N C"], rows: dict[Request, list[int]]) -> dict[Request, list[int]]:
        """Each text's next tokens, handed on: one, and one more as long as the last was the guess. ``rows``: where a text's known end and guesses stand."""
        chosen: dict[Request, list[int]] = {request: [] for request in rows}
        if not rows:
            return chosen
        logits = self._logits(hidden[torch.tensor([row for own in rows.values() for row in own])])
        going = dict(zip(rows, torch.split(logits, [len(own) for own in rows.values()]), strict=True))
        while going:
            places = [len(chosen[request]) for request in going]
            infos = pick_rows(torch.stack([own[i] for own, i in zip(going.values(), places, strict=True)]), [self.choices[r] for r in going])
            for request, place, info in zip(list(going), places, infos, strict=True):
                choice = self.choices[request]
                chosen[request].append(info.id if info else 0)
                if info is None:
                    choice.end("error", NOT_FINITE)
                goes_on = info is not None and _taken(choice, info)
                if not (goes_on and place + 1 < len(rows[request]) and request.draft[place] == chosen[request][place]):
                    del going[request]
        return chosen

    def _hand_on(self, plan: Plan, tokens: dict[Request, list[int]]) -> None:
        """Tell the scheduler what was written, end those that are done, and let the choices come that waited for a prompt."""
        done = self.scheduler.advance(plan, tokens)
        for request in tokens:
            self._release(request)
        for request in {**tokens, **dict.fromkeys(done)}:
            choice = self.choices.get(request)
            if choice is not None and (choice.finish is not None or request in done):
                choice.end("length")  # nothing happens to those that have ended
                self._leave(choice)

    # ── coming and going ──────────────────────────────────────────────────────────────────────────────────────────────

    def _require(self, asked: Generation) -> None:
        """What a model cannot know at all is refused before anything is held for it."""
        V = self.model.config.vocab_size
        for token in (*asked.prompt, *asked.logit_bias):
            if not 0 <= token < V:
                raise RequestRefused(f"token {token}", expected=f"ids from 0 to {V - 1}")

    def _alone(self, asked: Generation) -> bool:
        """Whether it is one choice of a client of whom no other waits."""
        return asked.n == 1 and asked.client not in self.scheduler.batch.queue.lines and all(first.client != asked.client for first in self.later)

    def _enter(self, choice: Choice, *, reserved: bool = False) -> None:
        """Let a choice wait, whose place ``submit`` may have counted before."""
        if not self.config.share_prefixes:
            self._unshared += 1
            choice.request.salt = f"alone/{self._unshared}"
        if reserved:
            self.scheduler.batch.add(choice.request, reserved=True)
        else:
            self.scheduler.add(choice.request)
        self.choices[choice.request] = choice
        if choice.request.n_max == 0:
            choice.end("length")
            self._leave(choice)

    def _release(self, first: Request) -> None:
        """The prompt is computed: the other choices of its generation may come, and find it in the pages."""
        for choice in self.later.pop(first, []):
            self._enter(choice, reserved=True)

    def _leave(self, choice: Choice) -> None:
        self.scheduler.cancel(choice.request)
        self.choices.pop(choice.request, None)
        self._release(choice.request)

    def _drop_late(self) -> None:
        """End what is past its deadline."""
        now = self.clock()
        later = [c for others in self.later.values() for c in others]
        for choice in [c for c in [*later, *self.choices.values()] if c.asked.deadline is not None and now > c.asked.deadline]:
            choice.end("error", LATE)
            self.cancel(choice)


def _table(request: Request) -> list[int]:
    assert request.table is not None
    return request.table.blocks


def _taken(choice: Choice, info: TokenInfo) -> bool:
    """``choice.take``; what fails in one answer ends that answer."""
    try:
        return choice.take(info)
    except UnderhoodError as error:
        choice.end("error", str(error))
        return False


def _last_rows(plan: Plan) -> dict[Request, list[int]]:
    """Of each request whose span reaches its last known token: the rows of that token and of the guesses after it in the step."""
    rows, end = {}, 0
    for request, span in plan.spans.items():
        end += span.end - span.start
        if span.samples:
            rows[request] = list(range(end - 1 - (span.end - len(request.tokens)), end))
    return rows
