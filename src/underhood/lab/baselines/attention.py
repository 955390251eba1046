"""Healthy runs for attention: its statistics on random input, one head that learns to read, and a deeper model in the setting of a public claim."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from underhood.base.config import get_part, part
from underhood.base.errors import NonFinite, ShapeError
from underhood.base.rng import stream_seed
from underhood.data.sampler import Batches, RandomSampler, SequentialSampler
from underhood.data.tales import VERSION, generate
from underhood.infer.cache import KVCache
from underhood.infer.sample import SampleConfig, generate_batch
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.lab.probe import at_rest, attention_entropy, attention_weights, is_causal, paths_differ, row_sum_error
from underhood.nn.attention import AttentionConfig, MultiHeadAttention, average_past, causal_mask, entropy, merge_heads, split_heads
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.init import fan_in, init_parameters
from underhood.text.chars import CharTokenizer
from underhood.train.groups import decay_groups, named_once
from underhood.train.loss import cross_entropy
from underhood.train.optim import AdamW

Figures = Mapping[str, float | bool | str]
EXACT = 1e-5  # float32 sums of a few hundred terms agree to this


def noise(seed: int, purpose: str, *shape: int) -> Tensor:
    """Independent numbers of mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(stream_seed(seed, purpose))
    return torch.randn(shape, generator=generator)


# ── rows: no training, queries and keys of unit variance ──────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """Random queries, keys and values, a causal mask, and what the weights look like."""

    attend: str = part("underhood.nn.attention", "attend")
    length: int = 64  # T: positions
    batch: int = 16  # enough that a mean entropy is known to 0.01
    widths: tuple[int, ...] = (16, 64, 256)  # D: the head widths compared
    claim_length: int = 8  # a sentence of a few words, where the claim's healthy entropy can be met


def rows(config: RowsConfig, seed: int, watch: Watch) -> Figures:
    """Entropy, sharpness and gradient of causal attention rows at each width, and the exact properties of the layer."""
    figures: dict[str, float | bool | str] = {}
    for step, D in enumerate(config.widths):
        found = row_statistics(config, seed, D, config.length)
        figures |= {f"{name}_d{D}": value for name, value in found.items()}
        watch(step, entropy=found["entropy"])
    figures["entropy_claim"] = row_statistics(config, seed, 16, config.claim_length)["entropy"]
    return figures | properties(config, seed)


def row_statistics(config: RowsConfig, seed: int, D: int, T: int) -> dict[str, float]:
    """Means over rows: entropy in nats, the largest weight, the softmax's Jacobian (Frobenius norm), and the gradient's norm at a query."""
    q, k, v = (noise(seed, f"{name}/{D}/{T}", config.batch, T, D) for name in "qkv")
    q.requires_grad_()
    out, weights = get_part(config, "attend")(q, k, v, causal_mask(T))
    if not out.isfinite().all():
        raise NonFinite("the attention's output")
    (gradient,) = torch.autograd.grad(out, q, noise(seed, f"upstream/{D}/{T}", config.batch, T, D))
    w = weights.detach()
    shares = w.abs() / w.abs().sum(-1, keepdim=True)
    return {
        "entropy": float(entropy(shares).mean()),
        "largest": float(w.amax(-1).mean()),
        "jacobian": float(softmax_jacobian(w).mean()),
        "gradient": float(gradient.norm(dim=-1).mean()),
    }


def softmax_jacobian(w: Float[Tensor, "... S"]) -> Float[Tensor, "..."]:
    """‖diag(w) - w wᵀ‖, the Frobenius norm of softmax's derivative at weights ``w``: 0 when one weight is 1, so that nothing can be learned through it."""
    squares = w.square().sum(-1)
    return (squares - 2 * w.pow(3).sum(-1) + squares.square()).clamp(min=0).sqrt()


def properties(config: RowsConfig, seed: int) -> dict[str, bool]:
    """What holds exactly for a correct layer, whatever its weights."""
    T, D, H = 12, 8, 4
    q, k, v = (noise(seed, f"properties/{name}", 2, T, D) for name in "qkv")
    mask = causal_mask(T)
    out, weights = get_part(config, "attend")(q, k, v, mask)
    x, wide = noise(seed, "properties/x", 2, T, H * D), noise(seed, "properties/context", 2, T, H * D)
    layer = MultiHeadAttention(AttentionConfig(width=H * D, n_head=H))
    cross = MultiHeadAttention(AttentionConfig(width=H * D, n_head=H, causal=False, fused_qkv=False))
    for module in (layer, cross):
        init_parameters(module, seed, fan_in)
    with torch.no_grad():
        return {
            "rows_sum_to_one": row_sum_error(weights) <= EXACT,
            "within_values": within_values(out, v),
            "empty_row_is_refused": refuses_empty_row(config, q, k, v),
            "causal": past_stands(layer, x),
            "past_is_averaged": paths_differ(average_past(v), v.cumsum(1) / torch.arange(1, T + 1).unsqueeze(-1)) <= EXACT,
            "heads_are_slices": paths_differ(split_heads(x, H)[:, 1], x[..., D : 2 * D]) == 0,
            "heads_rejoin": paths_differ(merge_heads(split_heads(x, H)), x) == 0,
            "cached_equals_whole": cached_equals_whole(layer, x),
            "context_is_a_set": paths_differ(cross(x, context=wide.flip(1)), cross(x, context=wide)) <= EXACT,
        }


def within_values(out: Float[Tensor, "B T D"], v: Float[Tensor, "B T D"]) -> bool:
    """A weighted mean lies between the smallest and the largest of what it may look at."""
    low, high = v.cummin(1).values - EXACT, v.cummax(1).values + EXACT
    return bool(((out >= low) & (out <= high)).all())


def refuses_empty_row(config: RowsConfig, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether a query that may look nowhere is an error."""
    mask = causal_mask(q.shape[1])
    mask[3] = False
    try:
        get_part(config, "attend")(q, k, v, mask)
    except ShapeError:
        return True
    return False


def past_stands(layer: MultiHeadAttention, x: Float[Tensor, "B T C"]) -> bool:
    """Whether no output moves when only later inputs change."""
    changed = x.clone()
    changed[:, 6:] += 1
    return bool(paths_differ(layer(changed)[:, :6], layer(x)[:, :6]) <= EXACT)


def cached_equals_whole(layer: MultiHeadAttention, x: Float[Tensor, "B T C"]) -> bool:
    """Whether one position at a time with a cache gives what all at once gives."""
    cache = KVCache(1, x.shape[1]).layers[0]
    pieces = [layer(piece, cache=cache) for piece in torch.split(x, 1, dim=1)]
    return paths_differ(torch.cat(pieces, dim=1), layer(x)) <= EXACT


# ── trained on the characters of tales ────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedConfig:
    """A character model, trained for a short while."""

    model: GPTConfig  # its vocabulary is replaced by the characters that occur
    batch_size: int = 16
    steps: int = 600
    lr: float = 3e-3  # high: a small model on little time
    stories: int = 1500  # about a million characters: more than are read
    check_batches: int = 8  # validation batches, the same for every arm


ONE_HEAD = TrainedConfig(
    model=GPTConfig(vocab_size=1, context=32, n_layer=1, n_head=1, width=64, init="fan_in")  # unit-variance q and k in a wide head: there the scale acts
)
FOUR_LAYERS = TrainedConfig(model=GPTConfig(vocab_size=1, context=64, n_layer=4, n_head=4, width=128), batch_size=12, lr=1e-3)


def trained(config: TrainedConfig, seed: int, watch: Watch) -> Figures:
    """Train, then measure on held-out stories with and without the future in sight, and let the model write."""
    tokenizer, train_ids, val_ids = characters(config.stories)
    model = build_gpt(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size), seed)
    late = fit(model, train_ids, config, seed, watch)
    with at_rest(model):
        x, y = validation(val_ids, config)
        weights = attention_weights(model, x[:16])
        prompt = tokenizer.encode("Once ") if set("Once ") <= set(tokenizer.chars) else [0]
        written = generate_batch(model, [prompt], SampleConfig(max_tokens=200, temperature=0.8), torch.Generator().manual_seed(stream_seed(seed, "sample")))
        return {
            "train_loss": late,
            "val_loss": float(cross_entropy(model(x), y)),
            "blind_loss": blind_loss(model, x, y),
            "attention_entropy": attention_entropy(model, x[:16]),
            "rows_sum_to_one": all(row_sum_error(w) <= EXACT for w in weights.values()),
            "causal": is_causal(model, x[:4]),
            "text": tokenizer.decode(prompt + written[0]),
        }


@functools.cache
def characters(stories: int) -> tuple[CharTokenizer, np.ndarray, np.ndarray]:
    """Tokenizer, training ids and validation ids of ``stories`` generated stories, one to a line; the same for every seed."""
    texts = [story.text + "\n" for story in generate(stories, seed=0)]
    tokenizer = CharTokenizer.train("".join(texts))
    cut = stories * 9 // 10
    ids = [np.array(tokenizer.encode("".join(part)), dtype=np.int64) for part in (texts[:cut], texts[cut:])]
    return tokenizer, ids[0], ids[1]


def fit(model: GPT, ids: np.ndarray, config: TrainedConfig, seed: int, watch: Watch) -> float:
    """Plain training at a constant rate; the mean loss of the last tenth of the steps. Raises ``NonFinite`` with the step."""
    T = config.model.context
    batches = Batches(ids, RandomSampler(len(ids), T, config.batch_size, seed), T)
    optimizer = AdamW(decay_groups(named_once(model), lr=config.lr, weight_decay=0.0))
    losses = []
    for step in range(config.steps):
        x, y = batches.next()
        loss = cross_entropy(model(x), y)
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise NonFinite("the training loss", step=step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        watch(step, loss=losses[-1])
    return float(np.mean(losses[-max(1, config.steps // 10) :]))


def validation(ids: np.ndarray, config: TrainedConfig) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Held-out windows and their targets, the same for every arm."""
    T, count = config.model.context, config.check_batches * config.batch_size
    return Batches(ids, SequentialSampler(len(ids), T, count), T).next()


def blind_loss(model: GPT, x: Int[Tensor, "B T"], y: Int[Tensor, "B T"]) -> float:
    """The loss at the last position of prefixes: there is no future to look at, as when the model writes."""
    T = x.shape[1]
    ends = [T // 4, T // 2, 3 * T // 4, T - 1]
    losses = [cross_entropy(model(x[:, : end + 1])[:, -1], y[:, end]) for end in ends]
    return float(torch.stack(losses).mean())


# ── what the figures mean ─────────────────────────────────────────────────────────────────────────────────────────────

PROPERTIES = {
    "rows_sum_to_one": "the weights of every row sum to 1",
    "within_values": "every output lies between the smallest and the largest value in sight",
    "empty_row_is_refused": "a query with nothing to attend to is an error",
    "causal": "no output moves when only the future changes",
    "past_is_averaged": "stage 1 gives the running mean",
    "heads_are_slices": "head h is columns hD to (h+1)D of every position",
    "heads_rejoin": "merging what was split gives it back",
    "cached_equals_whole": "one position at a time with a cache gives the same as all at once",
    "context_is_a_set": "looking at another sequence does not depend on its order",
}


def exact(says: str) -> Metric:
    """A property that holds or does not."""
    return Metric(says=says, better="neither")


def row_metrics(config: RowsConfig) -> dict[str, Metric]:
    """The metrics of ``rows``; the entropy's ceiling is that of equal weights over each row's past."""
    uniform = float(torch.arange(1, config.length + 1).log().mean())
    short = float(torch.arange(1, config.claim_length + 1).log().mean())
    found = {
        "entropy_claim": Metric(
            says=f"row entropy at d = 16, {config.claim_length} positions (nats)", floor=0.0, ceiling=short, smallest=0.02, better="neither"
        )
    }
    for D in config.widths:
        found |= {
            f"entropy_d{D}": Metric(says=f"row entropy at d = {D} (nats)", floor=0.0, ceiling=uniform, smallest=0.02, better="neither"),
            f"largest_d{D}": Metric(says=f"largest weight of a row at d = {D}", floor=0.0, ceiling=1.0, smallest=0.01, better="neither"),
            f"jacobian_d{D}": Metric(says=f"norm of softmax's derivative at d = {D}", floor=0.0, ceiling=0.5, smallest=0.005, better="neither"),
            f"gradient_d{D}": Metric(says=f"norm of the gradient at a query, d = {D}", floor=0.0, smallest=0.01, better="neither"),
        }
    return found | {name: exact(says) for name, says in PROPERTIES.items()}


TRAINED_METRICS = {
    "val_loss": Metric(says="loss on held-out stories (nats per character)", floor=0.18, ceiling=4.04, smallest=0.02, worst=4.04),
    "train_loss": Metric(says="mean training loss of the last tenth of the steps (nats per character)", floor=0.18, ceiling=4.04, smallest=0.02, worst=4.04),
    "blind_loss": Metric(says="loss where no future is in sight, as when writing (nats per character)", floor=0.18, ceiling=4.04, smallest=0.03, worst=4.04),
    "attention_entropy": Metric(says="mean entropy of an attention row (nats)", floor=0.0, ceiling=3.5, smallest=0.05, better="neither"),
    "rows_sum_to_one": exact(PROPERTIES["rows_sum_to_one"]),
    "causal": exact("no logit moves when only a later character changes"),
}
CORPUS = f"tales version {VERSION}, seed 0, 1500 stories, characters"

BASELINES = (
    Baseline(
        name="attention.rows",
        says="Causal attention on random queries and keys of unit variance at d = 16, 64 and 256, and the exact properties of the layer. Nothing is trained.",
        run=rows,
        config=RowsConfig(),
        metrics=row_metrics(RowsConfig()),
        seconds=0.2,
    ),
    Baseline(
        name="attention.one_head",
        says="One block with one head of 64, weights of unit gain, 32 characters of tales, 600 steps.",
        run=trained,
        config=ONE_HEAD,
        metrics=TRAINED_METRICS,
        seconds=5,
        corpus=CORPUS,
    ),
    Baseline(
        name="attention.four_layers",
        says="Four blocks, width 128, four heads, GPT-2's initial weights, 64 characters of tales, 600 steps.",
        run=trained,
        config=FOUR_LAYERS,
        metrics=TRAINED_METRICS,
        seconds=55,
        corpus=CORPUS,
    ),
)
