"""The equivalence lattice: every path through a model against the naive one, on the user's own machine.

Of each path all logits are compared, and after every block the residual stream; where a path differs, the first layer and position are named. Of what
writes by itself every token must be the naive path's likeliest. Three grades: *exact* (float64, within 1e-9 of the largest value), *numerical* (float32,
within a tolerance) and *half* (bfloat16: the path's errors against float64 are on the whole at most 1.5 times the naive path's own, and no single one is
more than 3 times its largest). A greedy token may differ only where the two likeliest are nearer than twice the measured error.
"""

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from underhood.base.errors import ConfigError, NonFinite
from underhood.infer.paths import PATHS, Forward, Place, See, Streams, Texts, naive
from underhood.infer.paths import Path as Way
from underhood.infer.writers import Asked, Writer, by_engine, drafted
from underhood.interop.export import save_model
from underhood.interop.models import load_weights
from underhood.nn.gpt import GPT

Grade = Literal["exact", "numerical", "half"]
TOLERANCE = {"exact": 1e-9, "numerical": 1e-4}
GPT2_TOLERANCE = 1e-5
PRECISION: dict[torch.dtype, Literal["float32", "bfloat16"]] = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
MOST_ERROR, MOST_OUTLIER = 1.5, 3.0  # of the naive path's: on the whole (root mean square), and in one logit, which rounding alone makes twice as large
FLOOR = 1e-3  # of the naive path's error in half precision, relative: less is no scale to compare with


@dataclasses.dataclass
class Seen:
    """What one path gave: logits and, after each block, the stream, by text: (T, V) and (T, C); ``shown`` says of which positions."""

    logits: list[Tensor]
    streams: dict[int, list[Tensor]]
    shown: dict[int, list[Tensor]]  # by block, -1 for the logits, and text: (T,)

    def rows(self, layer: int) -> list[Tensor]:
        """After one block, or the logits for -1."""
        return self.logits if layer == -1 else self.streams[layer]

    @property
    def layers(self) -> list[int]:
        """The blocks in their order, then -1."""
        return [*sorted(self.streams), -1]


@dataclasses.dataclass(frozen=True)
class Edge:
    """One path beside the naive one. ``layer`` and ``place`` say where they first part: a block's number, or -1 for the logits; what
    writes by itself shows tokens alone, so there only the place is known."""

    name: str
    grade: Grade
    holds: bool
    error: float  # of logits: largest difference, relative to max(1, the largest logit)
    allowed: float
    compared: int  # positions
    near: int = 0  # greedy tokens that differ where the two likeliest are too near to tell
    layer: int | None = None
    place: tuple[int, int] | None = None
    why: str = ""  # a path that does not apply to this model, or that failed outright
    seconds: float = 0.0


@torch.no_grad()
def verify(model: GPT, texts: Texts, grade: Grade = "numerical", paths: Mapping[str, Way] | None = None) -> Iterator[Edge]:
    """Every edge, or those of ``paths``, as it is measured.

    ``model`` is in the grade's dtype (float64, float32, bfloat16); ``texts`` are token ids, two at least. Raises ``NonFinite`` where the naive path itself
    gives a number that is none: there is nothing to compare with then.
    """
    dtype = {"exact": torch.float64, "numerical": torch.float32, "half": torch.bfloat16}[grade]
    if model.head_weight.dtype != dtype:
        raise ConfigError(f"a model in {model.head_weight.dtype}", where="grade", expected=f"{dtype} for {grade!r}")
    base, truth = _finite(look(model, texts, naive)), None
    if grade == "half":
        truth = _finite(look(_wide(model), texts, naive))
    edges = {n: functools.partial(_edge, n, grade, model, texts, path, base, truth) for n, path in (every_path(model) if paths is None else paths).items()}
    if paths is None:
        allowed = _allowed(grade, model, base, truth)
        edges |= {n: functools.partial(_written, n, grade, model, texts, write, allowed) for n, write in WRITERS.items()}
    for name, edge in edges.items():
        start = time.perf_counter()
        try:
            found = edge()
        except ModuleNotFoundError as error:
            found = Edge(name, grade, True, 0.0, 0.0, 0, why=f"passed over: {error.name} is not installed")
        except ConfigError as error:
            found = Edge(name, grade, True, 0.0, 0.0, 0, why=f"passed over: {error}")
        except Exception as error:
            found = Edge(name, grade, False, float("inf"), 0.0, 0, why=f"{type(error).__name__}: {error}")
        yield dataclasses.replace(found, seconds=round(time.perf_counter() - start, 3))


def every_path(model: GPT) -> dict[str, Way]:
    """The paths that there are, compiled kernels and a round trip through files among them."""
    return {**PATHS, "compiled": compiled, "exported": exported}


def compiled(model: GPT, texts: Texts, see: See) -> None:
    """Pages through compiled kernels, all texts in the same steps. Raises ``ConfigError`` for a model that they do not know."""
    decoder, size = _decoder(model), 4
    pages = [-(-len(t) // size) for t in texts]
    pools = decoder.new_pools(sum(pages), size)
    table = torch.full((len(texts), max(pages)), 0)
    for i, blocks in enumerate(torch.randperm(sum(pages), generator=torch.Generator().manual_seed(0)).split(pages)):  # type: ignore[no-untyped-call]
        table[i, : len(blocks)] = blocks
    for t in range(max(map(len, texts))):
        rows = [i for i, text in enumerate(texts) if t < len(text)]
        ids, at = torch.tensor([int(texts[i][t]) for i in rows]), torch.full((len(rows),), t)
        see([(i, t) for i in rows], functools.partial(_compiled_logits, decoder, ids, at, table[rows], pools))


def _compiled_logits(decoder: Any, ids: Tensor, at: Tensor, table: Tensor, pools: Any) -> tuple[Tensor, Streams]:
    streams: Streams = {}
    hidden = decoder.hidden(ids.numpy(), at.numpy(), table.numpy(), pools, lambda block, stream: streams.update({block: torch.from_numpy(stream)}))
    return decoder.logits(hidden), streams


def _decoder(model: GPT) -> Any:
    from underhood.kernels.decode import CompiledDecoder

    if model.head_weight.dtype not in PRECISION:
        raise ConfigError(f"a model in {model.head_weight.dtype}", expected="float32 or bfloat16")
    return CompiledDecoder(model, PRECISION[model.head_weight.dtype], huge_pages=False)


def by_compiled_engine(model: GPT, asked: Sequence[Asked]) -> list[list[int]]:
    """Through the engine as `underhood serve` runs it: with compiled kernels where there are any for this model."""
    try:
        decoder = _decoder(model)
    except (ConfigError, ModuleNotFoundError):
        decoder = None
    return by_engine(model, asked, decoder)


WRITERS: dict[str, Writer] = {"drafted": drafted, "engine": by_compiled_engine}


def exported(model: GPT, texts: Texts, see: See) -> None:
    """Saved in the layout of transformers and read again. Raises ``ConfigError`` for a model that no layout has words for."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model")
        again = load_weights(Path(folder) / "model", model.head_weight.dtype)
    with _watched(again) as streams:
        for i, text in enumerate(texts):
            see([(i, t) for t in range(len(text))], lambda text=text: (again(text[None]), streams))  # type: ignore[misc]


@torch.no_grad()
def look(model: GPT, texts: Texts, path: Way) -> Seen:
    """Run ``path`` and keep what every block and the head gave, by text and position."""
    seen = Seen(_blank(texts, model.config.vocab_size), {}, {-1: _unseen(texts)})
    with _watched(model) as own:

        def see(places: Sequence[Place], forward: Forward) -> None:
            own.clear()
            given = forward()
            logits, streams = given if isinstance(given, tuple) else (given, own)
            _put(seen.logits, seen.shown[-1], places, logits)
            for layer, stream in streams.items():
                if layer not in seen.streams:
                    seen.streams[layer], seen.shown[layer] = _blank(texts, stream.shape[-1]), _unseen(texts)
                _put(seen.streams[layer], seen.shown[layer], places, stream)

        path(model, texts, see)
    return seen


@contextlib.contextmanager
def _watched(model: GPT) -> Iterator[Streams]:
    """What each of the model's blocks gave last."""
    streams: Streams = {}

    def keep(layer: int) -> Callable[[Any, Any, Tensor], None]:
        return lambda module, args, out: streams.update({layer: out})

    with contextlib.ExitStack() as hooks:
        for layer, block in enumerate(model.blocks):
            hooks.callback(block.register_forward_hook(keep(layer)).remove)
        yield streams


def _blank(texts: Texts, width: int) -> list[Tensor]:
    return [torch.zeros(len(t), width, dtype=torch.float64) for t in texts]


def _unseen(texts: Texts) -> list[Tensor]:
    return [torch.zeros(len(t), dtype=torch.bool) for t in texts]


def _put(kept: Sequence[Tensor], shown: Sequence[Tensor], places: Sequence[Place], rows: Float[Tensor, "... W"]) -> None:
    for place, row in zip(places, rows.flatten(0, -2), strict=True):
        if place is not None:
            kept[place[0]][place[1]], shown[place[0]][place[1]] = row.double(), True


def _finite(seen: Seen) -> Seen:
    """What the naive path gave, all of it finite; else ``NonFinite``."""
    for layer in seen.layers:
        for i, rows in enumerate(seen.rows(layer)):
            if not rows.isfinite().all():
                place = int((~rows.isfinite().all(-1)).nonzero()[0])
                after = "the head" if layer == -1 else f"block {layer}"
                raise NonFinite(f"what the naive path gives after {after} at text {i + 1}, position {place},")
    return seen


def _wide(model: GPT) -> GPT:
    """The same weights in float64."""
    wide = GPT(model.config).double()
    wide.load_state_dict(model.state_dict())
    return wide.eval()


def _edge(name: str, grade: Grade, model: GPT, texts: Texts, path: Way, base: Seen, truth: Seen | None) -> Edge:
    found = look(model, texts, path)
    compared = sum(int(s.sum()) for s in found.shown[-1])
    against = base if truth is None else truth
    apart = _apart(found, against)
    allowed = _allowed(grade, model, base, truth)
    lost, near = _tokens(found, against, apart)
    coarse = truth is not None and _typical(found, truth) > MOST_ERROR * max(FLOOR, _typical(base, truth))
    holds = apart <= allowed and not coarse and not lost and compared > 0
    layer, place = (None, None) if holds else first_difference(found, against, allowed)
    why = "it computed nothing" if not compared else "a number that is not finite:" if apart == float("inf") else ""
    why = "larger errors on the whole" if coarse and apart <= allowed else "another greedy token" if lost and apart <= allowed else why
    return Edge(name, grade, holds, apart, allowed, compared, near, layer, place, why)


def _written(name: str, grade: Grade, model: GPT, texts: Texts, write: Writer, allowed: float) -> Edge:
    """Half of each text goes on greedily. ``error``: how far a written token's logit lies below the naive path's best, relative; ties are allowed for."""
    asked = [(t[: -(-len(t) // 2)].tolist(), len(t) // 2) for t in texts if len(t) > 1]
    whole = [torch.tensor([*prompt, *tokens]) for (prompt, _), tokens in zip(asked, write(model, asked), strict=True)]
    if [len(t) for t in whole] != [len(prompt) + n for prompt, n in asked]:
        return Edge(name, grade, False, float("inf"), 2 * allowed, 0, why="it wrote too little or too much")
    worst, near, place = 0.0, 0, None
    for i, (logits, text, (prompt, _)) in enumerate(zip(_finite(look(model, whole, naive)).logits, whole, asked, strict=True)):
        rows = logits[len(prompt) - 1 : -1]
        short = (rows.max(-1).values - rows.gather(1, text[len(prompt) :, None])[:, 0]) / logits.abs().max().clamp(min=1)
        wrong = (short > 2 * allowed).nonzero()
        worst, near = max(worst, float(short.max())), near + int(((short > 0) & (short <= 2 * allowed)).sum())
        place = (i, len(prompt) + int(wrong[0])) if len(wrong) and place is None else place
    why = "" if place is None else "a token that is not the likeliest:"
    return Edge(name, grade, place is None, worst, 2 * allowed, sum(n for _, n in asked), near, None, place, why)


def _allowed(grade: Grade, model: GPT, base: Seen, truth: Seen | None) -> float:
    if truth is not None:
        return MOST_OUTLIER * max(FLOOR, _apart(base, truth))
    learned = model.config.positions.rpartition(":")[2] == "Learned"
    return GPT2_TOLERANCE if grade == "numerical" and learned else TOLERANCE[grade]


def _apart(found: Seen, base: Seen) -> float:
    """The largest difference of logits relative to max(1, the text's largest), over what was shown; infinite where a number shown is not finite."""
    worst = 0.0
    for layer in found.layers:
        for f, b, shown in zip(found.rows(layer), base.logits, found.shown[layer], strict=True):
            if not f[shown].isfinite().all():
                return float("inf")
            if layer == -1 and shown.any():
                worst = max(worst, float((f[shown] - b[shown]).abs().max() / b.abs().max().clamp(min=1)))
    return worst


def _typical(found: Seen, truth: Seen) -> float:
    """The root mean square of the logits' differences over what was shown, relative to max(1, the largest logit)."""
    rows = [((f - t)[shown], t) for f, t, shown in zip(found.logits, truth.logits, found.shown[-1], strict=True)]
    return float(torch.cat([d for d, _ in rows]).square().mean().sqrt()) / max(1.0, *(float(t.abs().max()) for _, t in rows))


def _tokens(found: Seen, base: Seen, error: float) -> tuple[int, int]:
    """Greedy tokens that differ: where they must not, and where the two likeliest are nearer than twice the error."""
    lost = near = 0
    for f, b, shown in zip(found.logits, base.logits, found.shown[-1], strict=True):
        top = b[shown].topk(2, dim=-1)
        other = f[shown].argmax(-1) != top.indices[:, 0]
        close = top.values[:, 0] - top.values[:, 1] <= 2 * error * b.abs().max().clamp(min=1)
        lost += int((other & ~close).sum())
        near += int((other & close).sum())
    return lost, near


def first_difference(found: Seen, base: Seen, allowed: float) -> tuple[int | None, tuple[int, int] | None]:
    """The first block after which the streams part, and the first text and position where they do; block -1 stands for the logits."""
    for layer in found.layers:
        if layer not in base.shown:
            continue
        for i, (f, b, shown) in enumerate(zip(found.rows(layer), base.rows(layer), found.shown[layer], strict=True)):
            wrong = shown & (((f - b).abs().amax(-1) > allowed * b.abs().max().clamp(min=1)) | ~f.isfinite().all(-1))
            if wrong.any():
                return layer, (i, int(wrong.nonzero()[0]))
    return None, None
