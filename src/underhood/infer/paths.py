"""Every way through a model that must end at the same logits: whole, in steps, in pages, in company, in pieces, from a shared prefix, with guesses.

A path computes given texts, all tokens known beforehand (teacher forcing), and shows each forward pass to ``see`` together with the places, (text,
position), of its rows. A pass gives logits, and where it does not go through the model's own blocks the stream after each block too.
``underhood.interop.verify`` compares what was seen.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from underhood.infer.cache import KVCache, RollingCache, StaticCache
from underhood.infer.forward import hidden_padded, hidden_static
from underhood.infer.paged import PagedCache, Reach, Step, hidden_of, read_pages
from underhood.infer.pages import BlockPool, PageTable
from underhood.infer.sample import context_of
from underhood.nn.attention import plain
from underhood.nn.flash import flash_attention
from underhood.nn.gpt import GPT

Texts = Sequence[Int[Tensor, "T"]]
Place = tuple[int, int] | None  # text and position; None for a row that stands for nothing
Streams = dict[int, Tensor]  # block → (..., C) after it
Forward = Callable[[], Tensor | tuple[Tensor, Streams]]
See = Callable[[Sequence[Place], Forward], None]
Path = Callable[[GPT, Texts, See], None]
SIZE = 4  # tokens a block: small, so that short texts cross many borders
WRONG = 3  # guesses of a draft that are wrong, after each that is right


def naive(model: GPT, texts: Texts, see: See) -> None:
    """Each text whole and alone, through the plain kernel. It defines correct; the other paths run through the model's own kernel."""
    with kernel(model, plain):
        _whole(model, texts, see)


def _whole(model: GPT, texts: Texts, see: See) -> None:
    for i, text in enumerate(texts):
        see(_places(i, 0, len(text)), functools.partial(model, text[None]))


def tiled(model: GPT, texts: Texts, see: See) -> None:
    """As ``naive``, through tiled attention; the tiles are small, and do not divide a text."""

    def small(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, dropout: Any) -> Any:
        return flash_attention(q, k, v, causal=causal, mask=mask, tile=(5, 3)), None

    with kernel(model, small):
        _whole(model, texts, see)


def cached(model: GPT, texts: Texts, see: See) -> None:
    """The first half at once, then token by token, keys and values kept."""
    for i, text in enumerate(texts):
        cache = KVCache(model.config.n_layer, len(text))
        for begin, end in _halves(len(text)):
            see(_places(i, begin, end), functools.partial(model, text[None, begin:end], cache))


def static_cached(model: GPT, texts: Texts, see: See) -> None:
    """As ``cached``, with keys and values of one shape from the first token to the last."""
    for i, text in enumerate(texts):
        cache = StaticCache(model.config.n_layer, len(text) + 3)
        for begin, end in _halves(len(text)):
            see(_places(i, begin, end), functools.partial(_static_logits, model, text[None, begin:end], cache))


def _static_logits(model: GPT, ids: Tensor, cache: StaticCache) -> Tensor:
    return model.logits(hidden_static(model, ids, cache))


def rolling(model: GPT, texts: Texts, see: See) -> None:
    """As ``cached``, keeping of each layer what its window can see. Raises ``ConfigError`` for a model without windows."""
    windows = [c.attend.window for c in model.config.block_configs]
    for i, text in enumerate(texts):
        cache = RollingCache(windows, len(text))
        for begin, end in _halves(len(text)):
            see(_places(i, begin, end), functools.partial(model, text[None, begin:end], cache))


def padded(model: GPT, texts: Texts, see: See) -> None:
    """All texts in one rectangle, with filler in front and at the end."""
    width = max(map(len, texts)) + 2
    ids, real = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.bool)
    places: list[list[Place]] = [[None] * width for _ in texts]
    for i, text in enumerate(texts):
        begin = (width - len(text)) * (i % 3) // 2
        ids[i, begin : begin + len(text)], real[i, begin : begin + len(text)] = text, True
        places[i][begin : begin + len(text)] = _places(i, 0, len(text))
    see([p for row in places for p in row], lambda: model.logits(hidden_padded(model, ids, real)))


def paged(model: GPT, texts: Texts, see: See) -> None:
    """Each text alone in pages: the first half at once, then token by token."""
    for i, text in enumerate(texts):
        pages = Pages(model, texts)
        for begin, end in _halves(len(text)):
            pages.compute([(i, begin, end)], see)


def batched(model: GPT, texts: Texts, see: See) -> None:
    """All texts in the same steps, each at its own place: some are being read while others are written, one token at a time."""
    pages, done = Pages(model, texts), [0] * len(texts)
    while any(d < len(t) for d, t in zip(done, texts, strict=True)):
        steps = [(i, d, min(len(t), d + (7 if d == 0 and i % 2 else 1))) for i, (d, t) in enumerate(zip(done, texts, strict=True)) if d < len(t)]
        pages.compute(steps, see)
        for i, _, end in steps:
            done[i] = end


def chunked(model: GPT, texts: Texts, see: See) -> None:
    """Prompts read in pieces of five tokens, two texts a step."""
    pages = Pages(model, texts)
    for begin in range(0, max(map(len, texts)), 5):
        pages.compute([(i, begin, min(len(t), begin + 5)) for i, t in enumerate(texts) if begin < len(t)], see)


def prefix_cached(model: GPT, texts: Texts, see: See) -> None:
    """Each text is computed, leaves, and comes again: what its full blocks hold is found, and only the rest is computed. A stranger comes in between."""
    for i, text in enumerate(texts):
        pages = Pages(model, texts)
        pages.compute([(i, 0, len(text))], _ignored)
        pages.leave(i)
        stranger = (i + 1) % len(texts)
        if stranger != i:
            pages.compute([(stranger, 0, min(3, len(texts[stranger])))], _ignored)
        begin = pages.adopt(i)
        for at, end in [(begin, begin + 1), (begin + 1, len(text))]:
            if at < end:
                pages.compute([(i, at, end)], see)


def speculative(model: GPT, texts: Texts, see: See) -> None:
    """Two tokens a step with wrong guesses behind them, as many as the context allows; what was wrong is taken back."""
    for i, text in enumerate(texts):
        pages, at = Pages(model, texts), 0
        while at < len(text):
            end = min(len(text), at + 2)
            wrong = max(0, min(WRONG, context_of(model) - end))
            pages.compute([(i, at, end)], see, guesses=(text[end - 1 : end] + 1).expand(wrong) % model.config.vocab_size)
            at = end


PATHS: dict[str, Path] = {
    "tiled": tiled,
    "cached": cached,
    "static-cached": static_cached,
    "rolling": rolling,
    "padded": padded,
    "paged": paged,
    "batched": batched,
    "chunked": chunked,
    "prefix-cached": prefix_cached,
    "speculative": speculative,
}


class Pages:
    """Texts in pages of one pool, by the same block pool and page tables as the engine's."""

    def __init__(self, model: GPT, texts: Texts) -> None:
        blocks = 4 + sum(-(-(len(t) + WRONG + 1) // SIZE) for t in texts)
        dtype = model.head_weight.dtype
        self.model, self.texts, self.pool = read_pages(model), texts, BlockPool(blocks, SIZE)
        self.memory = PagedCache(model.config, blocks, SIZE, torch.float32 if dtype == torch.bfloat16 else dtype)
        self.tables = {i: PageTable(self.pool) for i in range(len(texts))}

    def compute(self, spans: Sequence[tuple[int, int, int]], see: See, guesses: Tensor | None = None) -> None:
        """Tokens ``begin`` … ``end`` - 1 of each text in one pass; ``guesses`` come after those of the last, and are taken back."""
        ids, at, places = list[Tensor](), list[Tensor](), list[Place]()
        slots, reaches = list[int](), list[Reach]()
        for i, begin, end in spans:
            tokens = self.texts[i][begin:end] if guesses is None else torch.cat([self.texts[i][begin:end], guesses])
            given, copies = self.tables[i].append_slots(len(tokens))
            self.memory.copy(copies)
            first = sum(map(len, ids))
            ids.append(tokens)
            at.append(torch.arange(begin, begin + len(tokens)))
            slots += given
            reaches.append(Reach(first, first + len(tokens), torch.tensor(self.tables[i].blocks), begin + len(tokens)))
            places += [*_places(i, begin, end), *[None] * (len(tokens) - (end - begin))]
        step = Step(torch.cat(ids), torch.cat(at), torch.tensor(slots), reaches)
        see(places, lambda: self.model.logits(hidden_of(self.model, self.memory, step)))
        for i, _, end in spans:
            self.tables[i].truncate(end)
            self.tables[i].publish(self.texts[i].tolist())

    def leave(self, i: int) -> None:
        """The text gives its blocks back."""
        self.tables[i].free()

    def adopt(self, i: int) -> int:
        """The text comes again; returns how many of its tokens were found."""
        found = self.pool.index.match(self.texts[i].tolist(), SIZE, "")
        self.tables[i] = PageTable(self.pool)
        self.tables[i].adopt(found, len(found) * SIZE)
        return len(found) * SIZE


@contextlib.contextmanager
def kernel(model: GPT, other: Any) -> Iterator[None]:
    """Every layer's kernel is ``other`` within the scope."""
    layers: list[Any] = [block.attention for block in model.blocks]
    before = [layer.kernel for layer in layers]
    for layer in layers:
        layer.kernel = other
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.kernel = own


def _places(i: int, begin: int, end: int) -> list[Place]:
    return [(i, t) for t in range(begin, end)]


def _halves(T: int) -> list[tuple[int, int]]:
    """Half of a text, then its tokens one by one."""
    half = max(1, T // 2)
    return [(0, half), *((t, t + 1) for t in range(half, T))]


def _ignored(places: Sequence[Place], forward: Forward) -> None:
    forward()
