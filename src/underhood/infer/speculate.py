"""Speculative decoding: a quick draft guesses several tokens, one pass of the model judges them all, and the text is the model's own all the same
(Leviathan et al. 2023, arXiv 2211.17192, algorithm 1; Chen et al. 2023, arXiv 2302.01318).

Draft and model give distributions q and p. A guess x drawn from q is accepted with probability min(1, p(x)/q(x)); after the first that is not, a token
is drawn from what p has over q; when all are accepted the pass gives one more for nothing. Greedy decoding is the case in which p is one token.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from underhood.base.errors import ConfigError, DataError
from underhood.infer.cache import KVCache
from underhood.infer.filters import draw, keep_min_p, keep_top_k, keep_top_p
from underhood.infer.sample import SampleConfig
from underhood.infer.session import in_common
from underhood.nn.gpt import GPT


class Draft:
    """Whoever guesses. A guess need not be good; only its distribution must be the one that it was drawn from. This one never guesses."""

    def observe(self, hidden: Float[Tensor, "C"]) -> None:
        """The model's hidden vector of the token before the newest, as it was in the last pass."""

    def propose(self, text: Sequence[int], count: int, uniform: Float[Tensor, "K"]) -> tuple[list[int], Float[Tensor, "K V"]]:
        """At most ``count`` guesses of what follows ``text``, and the distribution that each was drawn from with its random number."""
        return [], torch.zeros(0, 1, dtype=torch.float64)


@dataclasses.dataclass
class Tally:
    """What speculation came to: passes of the model, guesses made, guesses accepted, tokens written (an end token among them)."""

    passes: int = 0
    proposed: int = 0
    accepted: int = 0
    rejected: int = 0  # at most one a pass: those behind it are not judged
    written: int = 0

    def note(self, proposed: int, new: int) -> None:
        """One pass that judged ``proposed`` guesses and gave ``new`` tokens."""
        self.passes += 1
        self.proposed += proposed
        self.accepted += new - 1
        self.rejected += new <= proposed
        self.written += new

    @property
    def acceptance(self) -> float:
        """α: the share of guesses that were accepted, of those that were judged."""
        judged = self.accepted + self.rejected
        return self.accepted / judged if judged else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """1 without speculation."""
        return self.written / self.passes if self.passes else 0.0


def drawn(probabilities: Float[Tensor, "V"], uniform: Float[Tensor, ""]) -> int:
    """The token that a number from [0, 1) draws: the first whose cumulative probability exceeds it."""
    return int(draw(probabilities.log().unsqueeze(0), uniform.unsqueeze(0)))


def distribution(logits: Float[Tensor, "... V"], config: SampleConfig) -> Float[Tensor, "... V"]:
    """What a token is drawn from, in float64: softmax of logits / temperature, filtered; all on the likeliest when the temperature is 0.

    How: ``F.one_hot`` of the argmax for temperature 0; else divide, then ``keep_top_k``, ``keep_top_p``, ``keep_min_p`` where asked for, then softmax.
    """
    if config.temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    logits = logits.double() / config.temperature
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = keep_top_p(logits, config.top_p)
    if config.min_p is not None:
        logits = keep_min_p(logits, config.min_p)
    return logits.softmax(-1)


def residual(p: Float[Tensor, "V"], q: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
    """What is left to draw from after a rejection: max(p - q, 0), normalised; p itself where nothing is left (Leviathan et al. 2023, §2.3).

    How: ``clamp`` the difference at 0 and divide by its sum.
    """
    left = (p - q).clamp(min=0)
    total = left.sum()
    return left / total if total > 0 else p


def judge(p: Float[Tensor, "K1 V"], q: Float[Tensor, "K V"], guesses: Sequence[int], uniform: Float[Tensor, "K1"]) -> list[int]:
    """The tokens of one pass, distributed as if drawn one by one from p: the guesses up to the first rejected, and one more.

    Row i of ``p`` is the model's distribution after i guesses, row i of ``q`` the draft's for guess i; ``uniform`` are K random numbers for the guesses
    and one for the token that is drawn at the end.

    How: accept guess i when u·q(x) < p(x); else draw from the residual of row i and stop. After the last guess draw from p's last row.
    """
    new: list[int] = []
    for i, guess in enumerate(guesses):
        if uniform[i] * q[i, guess] >= p[i, guess]:
            return [*new, drawn(residual(p[i], q[i]), uniform[-1])]
        new.append(guess)
    return [*new, drawn(p[len(guesses)], uniform[-1])]


def expected_tokens(alpha: float, k: int) -> float:
    """Tokens per pass when each of ``k`` guesses is accepted with probability ``alpha``, independently: (1 - α^(k+1)) / (1 - α) (ibid., eq. 1)."""
    return float(k + 1) if alpha == 1 else (1 - alpha ** (k + 1)) / (1 - alpha)


def expected_speedup(alpha: float, k: int, cost: float) -> float:
    """Time saved when a guess costs ``cost`` passes of the model: tokens per pass / (k·cost + 1) (ibid., theorem 3.8)."""
    return expected_tokens(alpha, k) / (k * cost + 1)


@torch.no_grad()
def speculate(
    model: GPT, draft: Draft, ids: Sequence[int], config: SampleConfig, generator: torch.Generator, *, k: int = 4, tally: Tally | None = None
) -> Iterator[int]:
    """New tokens after ``ids`` until ``max_tokens`` or an end token (which is not given), in fewer passes of ``model``.

    Greedy text is that of ``generate``; sampled text has its distribution, not its tokens, since other random numbers are used. Raises ``ConfigError`` for a
    repetition penalty, under which a guess would change the distribution of the next, and for ``k`` below 1; ``DataError`` for an empty prompt and beyond
    the context. After each pass ``draft.observe`` gets the hidden vector that gave the newest token, and ``tally.note`` the counts.

    How: one pass reads what the cache lacks and the guesses; its last K + 1 rows are judged; the cache keeps all but the newest token, which no pass has read.
    """
    _require(model, ids, config, k)
    tally = Tally() if tally is None else tally
    text, cache = list(ids), KVCache(model.config.n_layer, model.config.context)
    end = len(text) + config.max_tokens
    while len(text) < end:
        uniform = torch.rand(2 * k + 1, generator=generator, dtype=torch.float64)
        guesses, q = draft.propose(text, min(k, end - len(text) - 1), uniform[k + 1 :])
        fresh = torch.tensor([text[cache.length :] + guesses])
        hidden = model.hidden(fresh, cache)[0, -len(guesses) - 1 :]
        new = judge(distribution(model.logits(hidden), config), q, guesses, torch.cat([uniform[: len(guesses)], uniform[k : k + 1]]))
        draft.observe(hidden[len(new) - 1])
        tally.note(len(guesses), len(new))
        text += new
        cache.keep(len(text) - 1)
        for token in new:
            if token in config.end_ids:
                return
            yield token


def _require(model: GPT, ids: Sequence[int], config: SampleConfig, k: int) -> None:
    if config.repetition_penalty != 1:
        raise ConfigError(f"found {config.repetition_penalty}", where="repetition_penalty", expected="1 with speculation")
    if k < 1:
        raise ConfigError(f"found {k}", where="k", expected="at least one guess")
    if not ids:
        raise DataError("the prompt holds no token", expected="at least one to continue from")
    if len(ids) + config.max_tokens > model.config.context:
        raise DataError(f"{len(ids)} tokens and {config.max_tokens} new ones", expected=f"at most {model.config.context}, the model's context")


class ModelDraft(Draft):
    """A smaller model of the same vocabulary guesses token by token, with a cache of its own."""

    def __init__(self, model: GPT, config: SampleConfig) -> None:
        self.model, self.config = model, config
        self.cache, self.held = KVCache(model.config.n_layer, model.config.context), list[int]()

    @torch.no_grad()
    def propose(self, text: Sequence[int], count: int, uniform: Float[Tensor, "K"]) -> tuple[list[int], Float[Tensor, "K V"]]:
        """Guesses from the draft's own distribution under the same temperature and filters; fewer where its context ends.

        How: cut the cache back to what the text has in common with what it holds (rejected guesses go), but never all; then token by token.
        """
        self.cache.keep(min(in_common(self.held, text), len(text) - 1))
        known, guesses, rows = list(text), list[int](), list[Tensor]()
        for i in range(min(count, self.model.config.context - len(text))):
            logits = self.model.logits(self.model.hidden(torch.tensor([known[self.cache.length :]]), self.cache)[:, -1])
            rows.append(distribution(logits, self.config)[0])
            guesses.append(drawn(rows[-1], uniform[i]))
            known.append(guesses[-1])
        self.held = known[: self.cache.length]
        return guesses, torch.stack(rows) if rows else torch.zeros(0, self.model.config.vocab_size, dtype=torch.float64)


class NGramDraft(Draft):
    """No model at all: what followed the last time the text's last ``n`` tokens stood there (prompt lookup: Saxena 2023), guessed with certainty."""

    def __init__(self, vocab_size: int, n: int = 3) -> None:
        self.vocab_size, self.n = vocab_size, n

    def propose(self, text: Sequence[int], count: int, uniform: Float[Tensor, "K"]) -> tuple[list[int], Float[Tensor, "K V"]]:
        """What followed the longest suffix, of ``n`` tokens at most, that occurred before, where it stood last; nothing where none did.

        How: for n, n - 1, … 1 look for the last n tokens from the end backwards; give at most ``count`` tokens that followed.
        """
        guesses = self._following(list(text), count)
        return guesses, F.one_hot(torch.tensor(guesses, dtype=torch.long), self.vocab_size).double()

    def _following(self, text: list[int], count: int) -> list[int]:
        for n in range(min(self.n, len(text) - 1), 0, -1):
            tail = text[-n:]
            for at in range(len(text) - n - 1, -1, -1):
                if text[at : at + n] == tail:
                    return text[at + n : at + n + count]
        return []
