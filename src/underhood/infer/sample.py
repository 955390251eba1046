"""Generation: ask the model for the next token's logits, choose one, append it, again.

``generate`` and ``generate_batch`` work on ids, ``stream_text`` on text as it comes. Once the text is longer than the model's context, the oldest
tokens fall out of its sight.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from underhood.base.errors import ConfigError, DataError, NonFinite
from underhood.base.rng import stream_seed
from underhood.data.tokens import end_id
from underhood.infer.cache import KVCache
from underhood.infer.filters import draw, keep_min_p, keep_top_k, keep_top_p, penalise_repeats
from underhood.infer.spoken import Spoken
from underhood.infer.stream import StopStrings, TextStream
from underhood.nn.gpt import GPT
from underhood.text.special import END_OF_TEXT
from underhood.text.tokenizer import Tokenizer

GREEDY = 1e-5  # a temperature below this is 0: a difference of a ten-thousandth would decide, and dividing might overflow


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How the next token is chosen; the filters act in this order."""

    repetition_penalty: float = 1.0  # > 1 makes tokens that occurred less likely; 1.1 is much already
    temperature: float = 1.0  # divides the logits: < 1 sharper, > 1 flatter; 0 (below ``GREEDY``) takes the likeliest
    top_k: int | None = None  # of the k likeliest only
    top_p: float | None = None  # of the likeliest that together reach p only; 0.9 is usual
    min_p: float | None = None  # of those at least p times as likely as the likeliest only; 0.05 is usual
    max_tokens: int = 200  # stop after as many
    stop: tuple[str, ...] = ()  # stop before any of these strings (``stream_text`` only: ids have no text)
    end_ids: tuple[int, ...] = ()  # stop before any of these tokens, as the end of a document

    def __post_init__(self) -> None:
        bounds = {
            "repetition_penalty": (self.repetition_penalty > 0, "more than 0"),
            "temperature": (0 <= self.temperature < float("inf"), "0 or more, and finite"),
            "top_k": (self.top_k is None or self.top_k >= 1, "at least 1, or none"),
            "top_p": (self.top_p is None or 0 < self.top_p <= 1, "0 < p ≤ 1, or none"),
            "min_p": (self.min_p is None or 0 < self.min_p <= 1, "0 < p ≤ 1, or none"),
            "max_tokens": (self.max_tokens >= 0, "0 or more"),
            "stop": (all(self.stop), "no empty string"),
        }
        for field, (fine, expected) in bounds.items():
            if not fine:
                raise ConfigError(f"found {getattr(self, field)!r}", where=field, expected=expected)


def choose(logits: Float[Tensor, "B V"], past: Int[Tensor, "B T"], config: SampleConfig, uniform: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
    """The next token of each row; ``uniform`` are the row's random numbers from [0, 1). NaN or infinite logits raise ``NonFinite``."""
    if not torch.isfinite(logits).all():
        raise NonFinite("the model's logits")
    return pick(logits, past, config, uniform)


def pick(logits: Float[Tensor, "B V"], past: Int[Tensor, "B T"], config: SampleConfig, uniform: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
    """``choose`` for logits that were checked already, and in which -inf stands for tokens that are ruled out."""
    if config.repetition_penalty != 1:
        logits = penalise_repeats(logits, past, config.repetition_penalty)
    if config.temperature < GREEDY:
        return logits.argmax(dim=-1)
    logits = logits / config.temperature
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = keep_top_p(logits, config.top_p)
    if config.min_p is not None:
        logits = keep_min_p(logits, config.min_p)
    return draw(logits, uniform)


def generate(model: GPT, ids: Sequence[int], config: SampleConfig, generator: torch.Generator, *, cached: bool = True) -> Iterator[int]:
    """New tokens after ``ids``, one at a time, until ``max_tokens`` or an end token (which is not given)."""
    for tokens in _steps(model, [ids], config, _draws(1, config, generator), cached):
        token = int(tokens[0])
        if token in config.end_ids:
            return
        yield token


def generate_batch(model: GPT, prompts: Sequence[Sequence[int]], config: SampleConfig, generator: torch.Generator, *, cached: bool = True) -> list[list[int]]:
    """The new tokens after each prompt, end tokens left out. Prompts of one length share a batch; the result keeps the prompts' order."""
    written: list[list[int]] = [[] for _ in prompts]
    uniform = _draws(len(prompts), config, generator)
    for length in sorted({len(p) for p in prompts}):
        rows = [i for i, p in enumerate(prompts) if len(p) == length]
        open_rows = set(rows)
        for tokens in _steps(model, [prompts[i] for i in rows], config, uniform[rows], cached):
            for i, token in zip(rows, tokens.tolist(), strict=True):
                if token in config.end_ids:
                    open_rows.discard(i)
                if i in open_rows:
                    written[i].append(token)
            if not open_rows:
                break
    return written


TEXT_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>")  # tokens that end a text in the families that are known


def first_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """What a model is given to continue ``prompt``: the tokens that it expects before a text, then the text's. Where both are none, what begins a document.

    Raises ``DataError`` where nothing does.
    """
    mark = end_id(tokenizer)
    found = [*getattr(tokenizer, "begin_ids", ()), *tokenizer.encode(prompt)] or ([] if mark is None else [mark])
    if not found:
        raise DataError("no prompt, and this tokenizer has no token that begins a document", remedy="Give the text to continue.")
    return found


def text_ends(tokenizer: Tokenizer, named: Sequence[int] = ()) -> tuple[int, ...]:
    """The tokens that end a text: those that the model's files name, else the special tokens that are known to. A new line is text, and goes on."""
    special: dict[str, int] = getattr(tokenizer, "special", {})
    return tuple(named) or tuple(special[name] for name in TEXT_ENDS if name in special)


def stream_text(model: GPT, tokenizer: Tokenizer, prompt: str, config: SampleConfig, seed: int) -> Iterator[str]:
    """The text that continues ``prompt``, in pieces as it comes; an empty prompt begins a document, and the text ends where the model ends one.

    ``config.end_ids`` are the ends that the model's files name; where there are none, the tokenizer's end mark is. A piece never ends within a character
    or within what may become a stop string; what was held back comes at the end. Draws are the stream ``sample``.
    """
    start = first_ids(tokenizer, prompt)
    config = dataclasses.replace(config, end_ids=text_ends(tokenizer, config.end_ids))
    text, stops = TextStream(Spoken(tokenizer)), StopStrings(config.stop)
    generator = torch.Generator().manual_seed(stream_seed(seed, "sample"))
    for token in generate(model, start, config, generator):
        piece = stops.add(text.add(token))
        if piece:
            yield piece
        if stops.found:
            return
    rest = stops.add(text.flush()) + stops.flush()
    if rest:
        yield rest


def _draws(count: int, config: SampleConfig, generator: torch.Generator) -> Float[Tensor, "B N"]:
    """The random numbers of ``count`` prompts, one row each: a prompt's text does not depend on who comes after it."""
    return torch.rand(count, config.max_tokens, generator=generator, dtype=torch.float64, device=generator.device)


@torch.no_grad()
def _steps(model: GPT, prompts: Sequence[Sequence[int]], config: SampleConfig, uniform: Float[Tensor, "B N"], cached: bool) -> Iterator[Int[Tensor, "B"]]:
    """One token for each of ``prompts`` (all of one length) per step."""
    if not prompts[0]:
        raise DataError("the prompt holds no token", expected="at least one to continue from")
    device = model.head_weight.device
    past = torch.tensor([list(p) for p in prompts], device=device)
    capacity = min(model.config.context, past.shape[1] + config.max_tokens)
    cache = KVCache(model.config.n_layer, capacity) if cached else None
    training = model.training
    model.eval()
    try:
        for step in range(config.max_tokens):
            chosen = choose(_next_logits(model, past, cache), past, config, uniform[:, step].to(device))
            yield chosen
            past = torch.cat([past, chosen.unsqueeze(1)], dim=1)
    finally:
        model.train(training)


def context_of(model: GPT) -> int:
    """How long a cached text may be: the context, but the trained one where the rotation changes with the length, since cached keys would be stale."""
    rope = model.config.rope
    if rope is not None and rope.kind == "dynamic":
        return min(model.config.context, rope.original_context or model.config.context)
    return model.config.context


def _next_logits(model: GPT, past: Int[Tensor, "B T"], cache: KVCache | None) -> Float[Tensor, "B V"]:
    """Logits after the last token. Where every position moves with each step, or every turn with the length, nothing cached would be right."""
    if cache is not None and past.shape[1] <= context_of(model):
        return model.logits(model.hidden(past[:, cache.length :], cache)[:, -1])
    return model.logits(model.hidden(past[:, -model.config.context :])[:, -1])
