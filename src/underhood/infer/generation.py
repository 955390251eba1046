"""What is asked of the engine, and the answer as it comes."""

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Bool
from torch import Tensor

from underhood.base.errors import ConfigError
from underhood.base.rng import stream_seed
from underhood.infer.lookup import Lookup
from underhood.infer.request import Request
from underhood.infer.sample import SampleConfig
from underhood.infer.stream import StopStrings, TextStream
from underhood.text.tokenizer import Tokenizer

MOST_CHOICES = 128
MOST_LOGPROBS = 20
Finish = Literal["stop", "length", "error", "cancelled"]
LATE = "the deadline has passed"
NOT_FINITE = "the model's logits are not finite"


class Guide(Protocol):
    """What holds an answer to a grammar (``underhood.infer.grammar_tokens.Constraint``)."""

    start: Any  # the state before the first token

    def allowed(self, state: Any, budget: int | None = None) -> Bool[Tensor, "V"]:
        """Which tokens may come next, so that the answer can end within ``budget`` tokens."""

    def advance(self, state: Any, token: int) -> Any:
        """The state after ``token``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """One thing asked: continue ``prompt``, ``n`` times."""

    prompt: tuple[int, ...]
    sample: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    seed: int = 0
    n: int = 1
    logprobs: int | None = None  # give each token's log-probability, and so many of the likeliest beside it
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)  # added to the logits of these tokens
    presence_penalty: float = 0.0  # taken from the logit of each token that the answer holds already
    frequency_penalty: float = 0.0  # taken as often as it holds it
    guide: Guide | None = None
    client: str = ""
    priority: float = 1.0
    deadline: float | None = None  # seconds of the engine's clock after which it is given up

    @property
    def plain(self) -> bool:
        """Whether a token's distribution hangs on the tokens before it through the model alone, so that several may be judged in one pass."""
        return self.guide is None and self.sample.repetition_penalty == 1 and not (self.presence_penalty or self.frequency_penalty)

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MOST_CHOICES:
            raise ConfigError(f"found {self.n}", where="n", expected=f"1 … {MOST_CHOICES}")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise ConfigError(f"found {self.logprobs}", where="logprobs", expected=f"0 … {MOST_LOGPROBS}")
        if not all(-100 <= b <= 100 for b in self.logit_bias.values()):
            raise ConfigError("a bias is out of bounds", where="logit_bias", expected="-100 … 100")
        for field in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, field) <= 2:
                raise ConfigError(f"found {getattr(self, field)}", where=field, expected="-2 … 2")


@dataclasses.dataclass(frozen=True)
class TokenInfo:
    """A token that was chosen: its log-probability under the model, before temperature and filters, and the likeliest beside it."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    ends: bool = False  # it is a token that ends the answer, and no part of its text


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one step adds to an answer. ``text`` is safe to show: whole characters, nothing that may become a stop string."""

    text: str
    tokens: tuple[TokenInfo, ...] = ()
    finish: Finish | None = None
    error: str = ""


class Choice:
    """One of a generation's ``n`` answers: its request, its random numbers, its text so far, and the pieces that nobody has taken yet."""

    def __init__(self, asked: Generation, index: int, tokenizer: Tokenizer) -> None:
        self.asked, self.index = asked, index
        self.request = Request(asked.prompt, asked.sample.max_tokens, client=asked.client, priority=asked.priority)
        self.generator = torch.Generator().manual_seed(stream_seed(asked.seed, f"sample/{index}" if index else "sample"))
        self.text, self.stops = TextStream(tokenizer), StopStrings(asked.sample.stop)
        self.state = asked.guide.start if asked.guide else None
        self.written, self.lookup = 0, Lookup()
        self.pieces: deque[Piece] = deque()
        self.finish: Finish | None = None
        self.on_piece: Callable[[Piece], None] = lambda piece: None  # called with each new piece

    def uniform(self) -> float:
        """The next random number from [0, 1); the i-th token always gets the i-th, whoever shares the batch."""
        return float(torch.rand(1, generator=self.generator, dtype=torch.float64))

    def take(self, info: TokenInfo) -> bool:
        """Take in the next token; returns whether the answer goes on."""
        if info.id in self.asked.sample.end_ids:
            self._put(Piece(self._rest(), (dataclasses.replace(info, ends=True),), "stop"))
            return False
        if self.asked.guide:
            self.state = self.asked.guide.advance(self.state, info.id)
        text = self.stops.add(self.text.add(info.id))
        self.written += 1
        last = self.written >= self.request.n_max
        if self.stops.found:
            self._put(Piece(text, (info,), "stop"))
        elif last:
            self._put(Piece(text + self._rest(), (info,), "length"))
        else:
            self._put(Piece(text, (info,)))
        return self.finish is None

    def end(self, finish: Finish, error: str = "") -> None:
        """No more tokens come; what was held back is shown, unless the answer failed."""
        if self.finish is None:
            self._put(Piece(self._rest() if finish == "stop" else "", (), finish, error))

    def _rest(self) -> str:
        return self.stops.add(self.text.flush()) + self.stops.flush()

    def _put(self, piece: Piece) -> None:
        self.finish = piece.finish
        self.pieces.append(piece)
        self.on_piece(piece)
