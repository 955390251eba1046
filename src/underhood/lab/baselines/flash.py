"""Healthy runs for tiled attention: its errors, limits and memory on random rows, and a small model whose texts are longer than a tile."""

import dataclasses
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from underhood.base.errors import ShapeError
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.lab.baselines.attention import CORPUS, TRAINED_METRICS, TrainedConfig, blind_loss, characters, exact, fit, noise, validation
from underhood.lab.probe import at_rest, is_causal, paths_differ
from underhood.nn.flash import flash_attention
from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.train.loss import cross_entropy

Figures = Mapping[str, float | bool | str]
EXACT = 1e-5  # float32 sums of a few hundred terms agree to this
ALIKE = 1e-4  # gradients of sharp rows are sums of large terms that cancel
SEARCHED = 10_000.0  # the largest score that is tried


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """Random queries, keys and values, unit variance unless said otherwise."""

    tile: tuple[int, ...] = (64, 48)  # queries × keys; different, so that a mix-up shows
    length: int = 152  # T: three tiles of queries, four of keys, both with a ragged end
    whole: int = 192  # a length that both divide
    long: int = 1024  # where 16-bit sums have had time to go wrong
    heads: tuple[int, ...] = (4, 2)  # H, G
    width: int = 32  # D
    spread: float = 6.0  # of the sharp rows' scores: their largest grows as tiles come


def rows(config: RowsConfig, seed: int, watch: Watch) -> Figures:
    """Largest errors of output and gradients against the float64 formula, the exact properties, and the most memory held."""
    even = errors(config, seed, "even", config.length)
    sharp = errors(config, seed, "sharp", config.length, spread=config.spread)
    watch(0, error=even["error"])
    return {
        "error": even["error"],
        "gradient_error": even["gradient_error"],
        "sharp_error": sharp["error"],
        "sharp_gradient_error": sharp["gradient_error"],
        "key_gradient_ratio": even["key_gradient_ratio"],
        "whole_tiles_error": errors(config, seed, "whole", config.whole)["error"],
        "two_way_error": errors(config, seed, "two_way", config.length, causal=False)["error"],
        "half_error": half_error(config, seed),
        "largest_safe_score": largest_safe_score(config),
        "row_sum_error": row_sum_error(config, seed),
        "peak_kib": peak_kib(config, seed),
        "gradients": max(even["gradient_error"], sharp["gradient_error"]) <= ALIKE,
        **properties(config, seed),
    }


def drawn(config: RowsConfig, seed: int, purpose: str, T: int, S: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of the config's heads and width, of variance 1."""
    H, G = config.heads
    return (
        noise(seed, f"{purpose}/q", 1, H, T, config.width),
        noise(seed, f"{purpose}/k", 1, G, S, config.width),
        noise(seed, f"{purpose}/v", 1, G, S, config.width),
    )


def formula(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> Tensor:
    """softmax(QKᵀ/√D)V in float64, with the whole matrix, written out here and not by the layer under test."""
    R = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(R, 1), v.double().repeat_interleave(R, 1)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        T, S = scores.shape[-2:]
        scores = scores.masked_fill(torch.ones(T, S, dtype=torch.bool).triu(S - T + 1), -math.inf)
    return scores.softmax(-1) @ v


def tiled(config: RowsConfig, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> Tensor:
    """The layer under test."""
    return flash_attention(q, k, v, causal=causal, tile=(config.tile[0], config.tile[1]))


def errors(config: RowsConfig, seed: int, purpose: str, T: int, *, spread: float = 1.0, causal: bool = True) -> dict[str, float]:
    """The largest absolute errors of the output and of the gradients at q, k and v, relative to the largest true gradient."""
    q, k, v = drawn(config, seed, purpose, T, T)
    q = q * spread
    upstream = noise(seed, f"{purpose}/upstream", *q.shape)
    found, mine = with_gradients(lambda q, k, v: tiled(config, q, k, v, causal=causal), (q, k, v), upstream)
    true, theirs = with_gradients(lambda q, k, v: formula(q, k, v, causal=causal), (q.double(), k.double(), v.double()), upstream.double())
    return {
        "error": far(found, true),
        "gradient_error": max(far(a, b) / float(b.abs().max()) for a, b in zip(mine, theirs, strict=True)),
        "key_gradient_ratio": float(mine[1].double().norm() / theirs[1].norm()),
    }


def with_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], upstream: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The function's value and its gradients at all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = function(*leaves)
    return out.detach(), torch.autograd.grad(out, leaves, upstream)


def far(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference."""
    return float((one.double() - other.double()).abs().max())


def half_error(config: RowsConfig, seed: int) -> float:
    """The root mean square error on float16 inputs of the long length, in units of that of the true output rounded once to float16."""
    q, k, v = (x.half() for x in drawn(config, seed, "half", config.long, config.long))
    true = formula(q, k, v)
    found = flash_attention(q, k, v, causal=True)  # at the default tile: long rows in small ones only cost time
    return float((found.double() - true).square().mean().sqrt() / (true.half().double() - true).square().mean().sqrt())


def largest_safe_score(config: RowsConfig) -> float:
    """The largest score up to 10,000 at which a row of equal scores still gives finite output, found by halving to within a hundredth."""

    def finite(score: float) -> bool:
        q, k = torch.full((1, 1, 1, 1), score), torch.ones(1, 1, 100, 1)
        return bool(tiled(config, q, k, k, causal=False).isfinite().all())

    low, high = 0.0, SEARCHED
    if finite(high):
        return high
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if finite(middle) else (low, middle)
    return round(low, 2)


def row_sum_error(config: RowsConfig, seed: int) -> float:
    """With every value 1 each output is the sum of its row's weights: how far from 1 at worst, on sharp rows."""
    q, k, v = drawn(config, seed, "sums", config.length, config.length)
    return float((tiled(config, q * config.spread, k, torch.ones_like(v)) - 1).abs().max())


def peak_kib(config: RowsConfig, seed: int) -> float:
    """The most that forward and backward hold at once, inputs apart, at the long length, one head, in KiB."""
    T = config.long
    q, k, v, upstream = (noise(seed, f"peak/{name}", 1, 1, T, config.width) for name in "qkvu")
    return peak_bytes(lambda: with_gradients(lambda q, k, v: tiled(config, q, k, v), (q, k, v), upstream)) / 1024


def properties(config: RowsConfig, seed: int) -> dict[str, bool]:
    """What holds exactly for a correct layer."""
    q, k, v = drawn(config, seed, "properties", config.length, config.length)
    out, cut = tiled(config, q, k, v), 100
    later_k, later_v = k.clone(), v.clone()
    later_k[:, :, cut:] += 1
    later_v[:, :, cut:] += 1
    return {
        "causal": paths_differ(tiled(config, q, later_k, later_v)[:, :, :cut], out[:, :, :cut]) <= EXACT,
        "continues": survives(lambda: paths_differ(tiled(config, q[:, :, cut:], k, v), formula(q, k, v)[:, :, cut:].float()) <= EXACT),
        "left_padding": survives(lambda: paths_differ(padded(config, q, k, v), formula(q, k[:, :, cut:], v[:, :, cut:], causal=False).float()) <= EXACT),
        "empty_row_is_refused": not survives(lambda: bool(padded(config, q, k, v, seen=0).numel())),
        "short_texts": survives(lambda: paths_differ(tiled(config, q[:, :, :9], k[:, :, :9], v[:, :, :9]), formula(q, k, v)[:, :, :9].float()) <= EXACT),
    }


def padded(config: RowsConfig, q: Tensor, k: Tensor, v: Tensor, *, seen: int = 52) -> Tensor:
    """The layer under test when only the last ``seen`` keys are real: the first tiles hide everything."""
    S = k.shape[-2]
    return flash_attention(q, k, v, mask=torch.arange(S) >= S - seen, tile=(config.tile[0], config.tile[1]))


def survives(holds: Callable[[], bool]) -> bool:
    """``holds()``, and False when the layer says that there was nothing to look at."""
    try:
        return holds()
    except ShapeError:
        return False


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every tensor that torch allocates inside, until it is freed. What a kernel keeps for itself while it runs is not seen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: dict[int, int] = {}  # address of a storage object → its bytes, 0 for those that were there before
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation; note its outputs that are new."""
        self._note((args, kwargs), new=False)
        out = func(*args, **(kwargs or {}))
        self._note(out, new=True)
        return out

    def _note(self, values: Any, *, new: bool) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known[storage._cdata] = size = storage.nbytes() if new else 0
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, address: int) -> None:
        self.live -= self.known.pop(address)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes of tensors that ``run()`` holds at once beyond those that were there before."""
    counted = Allocations()
    with counted:
        kept = run()
    del kept
    return counted.peak


# ── a small model ─────────────────────────────────────────────────────────────────────────────────────────────────────

TALES = TrainedConfig(
    # 160 characters are two and a half tiles: every second training row crosses from one tile into another
    model=GPTConfig(vocab_size=1, context=160, n_layer=1, n_head=2, width=64, init="fan_in", kernel="underhood.nn.flash:flash"),
    batch_size=6,
    steps=300,
    lr=3e-3,
    check_batches=4,
)


def trained(config: TrainedConfig, seed: int, watch: Watch) -> Figures:
    """Train on the characters of tales, then measure on held-out stories."""
    tokenizer, train_ids, val_ids = characters(config.stories)
    model = build_gpt(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size), seed)
    late = fit(model, train_ids, config, seed, watch)
    with at_rest(model):
        x, y = validation(val_ids, config)
        plain = build_gpt(dataclasses.replace(model.config, kernel="plain"), seed)
        plain.load_state_dict(model.state_dict())
        plain.eval()
        return {
            "train_loss": late,
            "val_loss": float(cross_entropy(model(x), y)),
            "plain_loss": float(cross_entropy(plain(x), y)),
            "blind_loss": blind_loss(model, x, y),
            "causal": is_causal(model, x[:4]),
        }


# ── what the figures mean ─────────────────────────────────────────────────────────────────────────────────────────────


def error(says: str, smallest: float = 1e-5) -> Metric:
    """An error of float32 against float64: 0 is exact, and what rounding alone gives is of no interest."""
    return Metric(says=says, floor=0.0, smallest=smallest, worst=1e3, tolerance=0.5)


BASELINES = (
    Baseline(
        name="flash.rows",
        says="Tiled attention on random rows (152 positions in tiles of 64 × 48, four query and two key heads of width 32) beside the formula in float64."
        " Nothing is trained.",
        run=rows,
        config=RowsConfig(),
        metrics={
            "error": error("largest error of an output, causal rows"),
            "gradient_error": error("largest error of a gradient, as a share of the largest gradient"),
            "sharp_error": error("largest error of an output, scores of deviation 6"),
            "sharp_gradient_error": error("largest error of a gradient, scores of deviation 6, as a share of the largest gradient"),
            "key_gradient_ratio": Metric(says="norm of the gradient at the keys, as a share of the true one", smallest=1e-3, better="neither"),
            "whole_tiles_error": error("largest error of an output at a length that the tiles divide"),
            "two_way_error": error("largest error of an output without a causal mask"),
            "half_error": Metric(
                says="error on float16 input at 1,024 positions, as a multiple of one rounding of the output", floor=1.0, smallest=0.05, worst=1e3
            ),
            "largest_safe_score": Metric(says="largest score (to 10,000) with finite output", floor=SEARCHED, ceiling=0, smallest=1, better="higher"),
            "row_sum_error": error("how far the weights of a row are from summing to 1, at worst, scores of deviation 6"),
            "peak_kib": Metric(says="most memory held by forward and backward at 1,024 positions, one head (KiB)", smallest=8, tolerance=0.01),
            "gradients": exact("the gradients at q, k and v are those of the formula"),
            "causal": exact("no output moves when only later keys and values change"),
            "continues": exact("queries that follow a past of keys get what they get when all is computed at once"),
            "left_padding": exact("when the first hundred keys are padding, only the others count"),
            "empty_row_is_refused": exact("a query with nothing to attend to is an error"),
            "short_texts": exact("a text shorter than a tile is computed, and right"),
        },
        seconds=0.6,
    ),
    Baseline(
        name="flash.tales",
        says="One block of two heads, width 64, its attention tiled, 160 characters of tales, 300 steps.",
        run=trained,
        config=TALES,
        metrics={name: TRAINED_METRICS[name] for name in ("train_loss", "val_loss", "blind_loss", "causal")}
        | {
            "plain_loss": dataclasses.replace(TRAINED_METRICS["val_loss"], says="the same weights with the plain kernel, held-out stories (nats per character)")
        },
        seconds=5.0,
        corpus=CORPUS,
    ),
)
