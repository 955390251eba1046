"""Healthy runs for what stands inside a block: exact properties of each part, a small Llama-shaped model, one with a seam, a deep post-norm one,
and one whose weights were trained by another implementation."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from underhood.base.config import get_part, part
from underhood.base.rng import stream_seed
from underhood.infer.sample import SampleConfig, generate_batch
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.lab.baselines.gpt import CORPUS, EXACT, LOSSES, UNIFORM, VOCABULARY, Curve, random_batches, tales, windows
from underhood.lab.probe import at_rest, attention_entropy, is_causal, paths_differ
from underhood.lab.stream import residual_stream
from underhood.nn.activation import gelu
from underhood.nn.attention import AttentionConfig, MultiHeadAttention
from underhood.nn.block import BlockConfig, PostNormBlock
from underhood.nn.feedforward import GatedFeedForward
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.init import fan_in, init_parameters
from underhood.nn.llama import llama
from underhood.nn.norm import layer_norm, rms_norm
from underhood.nn.positions import Learned, Rotary, frequencies
from underhood.nn.scores import alibi_bias, soft_cap
from underhood.train.loop import TrainConfig, Trainer
from underhood.train.loss import cross_entropy
from underhood.train.optim_config import OptimConfig
from underhood.train.schedule import ScheduleConfig
from underhood.train.validate import validation_loss

Found = Mapping[str, float | bool | str]
NEAR = 1e-5  # float32 sums of a few dozen terms agree to this


def noise(seed: int, purpose: str, *shape: int) -> Tensor:
    """Independent numbers of mean 0 and variance 1."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(stream_seed(seed, purpose)))


# ── parts, untrained ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """Sizes of the parts whose exact properties are looked at."""

    width: int = 16
    n_head: int = 2
    length: int = 12
    tiny: float = 1e-4  # its square is no float16
    large: float = 300.0  # nor is this one's


def properties(config: PartsConfig, seed: int, watch: Watch) -> Found:
    """What holds exactly for correct parts, whatever the weights."""
    watch(0)
    with torch.no_grad():
        return {**norm_properties(config, seed), **position_properties(config, seed), **other_properties(config, seed)}


def norm_properties(config: PartsConfig, seed: int) -> dict[str, bool]:
    """Of both norms; half precision is judged against the same numbers in float64."""
    row = noise(seed, "row", config.length, config.width)
    normed = layer_norm(row.double() + 3)
    return {
        "zero_row_is_zero": bool((rms_norm(torch.zeros(2, config.width).half()) == 0).all()),
        "tiny_row_is_right": half_is_right((row * config.tiny).half()),
        "large_row_is_right": half_is_right((row.sign() * config.large).half()),
        "layer_is_centred": float(normed.mean(-1).abs().max()) < NEAR,
        "layer_has_unit_size": float((normed.var(-1, unbiased=False) - 1).abs().max()) < 1e-3,
    }


def half_is_right(x: Float[Tensor, "... C"]) -> bool:
    """Whether ``rms_norm`` of float16 numbers is what float64 says, up to float16's own rounding."""
    wide = x.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return bool(torch.isclose(rms_norm(x).double(), expected, rtol=3e-3, atol=1e-6).all())


def position_properties(config: PartsConfig, seed: int) -> dict[str, bool]:
    """Of rotation, bias and table."""
    T, C, H = config.length, config.width, config.n_head
    D = C // H
    x, rotary = noise(seed, "x", 1, T, C), Rotary(3 * T, C, D)
    layer = MultiHeadAttention(AttentionConfig(width=C, n_head=H))
    init_parameters(layer, seed, fan_in)
    q = noise(seed, "q", 1, H, 2 * T, D)
    late = rotary.rotation(x, T)(q[:, :, T:])
    bias = alibi_bias(H, T, T)
    table = Learned(T, C, D)
    return {
        "frequencies_fall_to_the_end": abs(float(frequencies(D)[-1]) * 10_000 ** ((D - 2) / D) - 1) < NEAR,
        "rotation_starts_where_told": paths_differ(late, rotary.rotation(torch.zeros(1, 2 * T, C))(q)[:, :, T:]) <= NEAR,
        "only_distance_counts": paths_differ(layer(x, rotate=rotary.rotation(x, T)), layer(x, rotate=rotary.rotation(x))) <= NEAR,
        "near_weighs_more": bool((bias.diff(dim=-1) > 0).all()) and float(bias.diagonal(dim1=-2, dim2=-1).abs().max()) == 0,
        "past_the_table_is_refused": raises(lambda: table.add(x, start=T - 1)),
    }


def other_properties(config: PartsConfig, seed: int) -> dict[str, bool]:
    """Of gate, activation, cap and the post-norm block."""
    gated = GatedFeedForward(1, 1)
    for p, value in zip((gated.gate.weight, gated.up.weight, gated.down.weight), (2.0, 3.0, 1.0), strict=True):
        nn.init.constant_(p, value)
    block = PostNormBlock(BlockConfig(attend=AttentionConfig(width=config.width, n_head=config.n_head), hidden=2 * config.width))
    init_parameters(block, seed, fan_in)
    out = block(10 * noise(seed, "stream", 2, config.length, config.width))
    return {
        "gelu_is_exact": abs(float(gelu(torch.tensor(1.0))) - 0.8413447) < NEAR,
        "gate_is_bent": abs(float(gated(torch.ones(1))) - 6 / (1 + math.exp(-2))) < NEAR,
        "cap_holds": bool((soft_cap(torch.tensor([-1e4, 1e4]), 50.0).abs() <= 50).all()),
        "cap_has_a_slope": slope_beyond_cap() > 0,
        "post_norm_stream_is_normed": float((out.square().mean(-1) - 1).abs().max()) < 1e-2,
    }


def slope_beyond_cap() -> float:
    """The derivative of ``soft_cap`` at one and a half times the cap."""
    x = torch.tensor(75.0, requires_grad=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(soft_cap(x, 50.0), x)
    return float(slope)


def raises(call: Callable[[], object]) -> bool:
    """Whether ``call()`` is an error of any kind."""
    try:
        call()
    except Exception:
        return True
    return False


# ── trained on tales ──────────────────────────────────────────────────────────────────────────────────────────────────


SMALL = llama(
    vocab_size=VOCABULARY,
    context=64,
    n_layer=2,
    n_head=2,
    width=64,
    hidden=168,  # 8/3 of the width: three matrices as large as two of four times the width
    tie=True,
    init="fan_in",
    block="underhood.nn.block:Block",  # which takes its parts from the config, so that they can be changed
)
SHORT = TrainConfig(steps=300, optim=OptimConfig(lr=6e-3), schedule=ScheduleConfig(warmup=30))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallConfig:
    """A small model, trained on windows of half its context."""

    model: GPTConfig = SMALL
    train: TrainConfig = SHORT
    window: int = 32
    batch_size: int = 16
    check_windows: int = 96


def train_small(config: SmallConfig, seed: int, watch: Watch) -> Found:
    """Train, then measure: the loss at trained positions and beyond them, exact properties, and the residual stream."""
    model, late = fit(config, seed, watch)
    ids = tales().val
    (inside,) = windows(ids, config.window, config.check_windows)
    x, y = windows(ids, config.model.context, config.check_windows // 2)[0]
    stream = residual_stream(model, x[:16, : config.window])
    with at_rest(model):
        beyond = cross_entropy(model(x)[:, config.window :], y[:, config.window :])
    return {
        "train_loss": late,
        "val_loss": validation_loss(model, [inside]),
        "beyond_loss": float(beyond),
        "causal": is_causal(model, x[:4]),
        "only_distance_counts": ignores_shift(model, x[:4, : config.window]),
        "attention_entropy": attention_entropy(model, x[:16, : config.window]),
        "stream_growth": stream[-1].mean_square / stream[0].mean_square,
        "least_update": min(layer.update_ratio for layer in stream[1:]),
        **inner_figures(model, x[:16, : config.window]),
        "parameters": float(sum(p.numel() for p in model.parameters())),
    }


def fit(config: SmallConfig, seed: int, watch: Watch) -> tuple[GPT, float]:
    """The trained model, and the mean loss of its last steps."""
    model, curve = build_gpt(config.model, seed), Curve(watch)
    Trainer(model, config.train, random_batches(tales().train, config.window, config.batch_size, seed), callbacks=[curve]).run()
    return model, curve.late()


def ignores_shift(model: GPT, ids: Int[Tensor, "B T"]) -> bool:
    """Whether the hidden vectors stay when all positions are counted from another number."""
    with at_rest(model):
        x = model.tokens(ids)
        return paths_differ(*(through(model, x, start) for start in (0, 16))) <= 10 * NEAR


def through(model: GPT, x: Float[Tensor, "B T C"], start: int) -> Float[Tensor, "B T C"]:
    """The stream after all blocks when the first position is ``start``."""
    rotate = model.positions.rotation(x, start)
    x = model.positions.add(x, start)
    for block in model.blocks:
        x = block(x, rotate=rotate)
    return x


def inner_figures(model: GPT, ids: Int[Tensor, "B T"]) -> dict[str, float]:
    """What tells one kind of part from another: what a norm makes of a constant, the feed-forward layers' hidden units, the scores."""
    hidden: list[float] = []
    scores: list[float] = []
    blocks: list[Any] = list(model.blocks)
    for block in blocks:
        block.attention.kernel = noting(block.attention.kernel, scores)
    hooks = [block.feedforward.down.register_forward_pre_hook(lambda module, args: hidden.append(float(args[0].min()))) for block in blocks]
    with at_rest(model):
        model(ids)
        x = model.tokens(ids)
        felt = paths_differ(model.norm(x + 1), model.norm(x))
    for hook, block in zip(hooks, blocks, strict=True):
        hook.remove()
        block.attention.kernel = block.attention.kernel.__wrapped__
    return {"constant_felt": felt, "hidden_min": min(hidden), "largest_score": max(scores)}


def noting(kernel: Callable[..., Any], scores: list[float]) -> Callable[..., Any]:
    """``kernel``, with the largest |q · k| / √D of each call written down."""

    @functools.wraps(kernel)
    def noted(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        scores.append(float((q @ k.transpose(-2, -1)).abs().max()) / math.sqrt(q.shape[-1]))
        return kernel(q, k, v, **options)

    return noted


# ── a seam ────────────────────────────────────────────────────────────────────────────────────────────────────────────


LAYERED = dataclasses.replace(SMALL, n_layer=3, norm="LayerNorm", bias=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeamConfig:
    """A model trained with LayerNorm; afterwards every norm above the seam becomes ``above``, with the gain that was learned."""

    small: SmallConfig = SmallConfig(model=LAYERED)
    seam: int = 1  # the first block that is changed
    above: str = part("underhood.nn.norm", "LayerNorm")


def cross_seam(config: SeamConfig, seed: int, watch: Watch) -> Found:
    """The loss before and after the norms are exchanged, and how much of the stream lies in its mean, which RMSNorm does not take away."""
    model, late = fit(config.small, seed, watch)
    held_out = windows(tales().val, config.small.window, config.small.check_windows)
    before = validation_loss(model, held_out)
    stream = residual_stream(model, held_out[0][0][:16])
    for block in model.blocks[config.seam :]:
        block.norm1, block.norm2 = exchanged(block.norm1, config), exchanged(block.norm2, config)
    model.norm = exchanged(model.norm, config)
    after = validation_loss(model, held_out)
    return {
        "train_loss": late,
        "before_loss": before,
        "val_loss": after,
        "seam_cost": after - before,
        "mean_share": max(layer.mean_share for layer in stream[config.seam :]),
        "causal": is_causal(model, held_out[0][0][:4]),
    }


def exchanged(norm: Any, config: SeamConfig) -> nn.Module:
    """A norm of the kind ``above`` with the gain, and the shift where it has one, of ``norm``."""
    new: nn.Module = get_part(config, "above")(norm.weight.shape[0], epsilon=norm.epsilon)
    new.load_state_dict(norm.state_dict(), strict=False)
    return new


# ── weights of another implementation ─────────────────────────────────────────────────────────────────────────────────


FOREIGN = llama(vocab_size=VOCABULARY, context=32, n_layer=2, n_head=2, width=32, hidden=88, tie=True, init="fan_in")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignConfig:
    """A Llama written with torch's own functions, trained with torch's optimizer; ours then gets its weights."""

    model: GPTConfig = FOREIGN
    steps: int = 250
    batch_size: int = 12
    lr: float = 6e-3
    check_windows: int = 96


def load_foreign(config: ForeignConfig, seed: int, watch: Watch) -> Found:
    """Train the other implementation, load its weights into ours, and compare."""
    text = tales()
    weights = {name: p.detach().clone().requires_grad_() for name, p in build_gpt(config.model, seed).state_dict().items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=config.lr, weight_decay=0.0)
    batches = random_batches(text.train, config.model.context, config.batch_size, seed)
    for step in range(config.steps):
        x, y = batches.next()
        loss = F.cross_entropy(torch_llama(x, weights, config.model).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        watch(step, loss=loss.item())
    model = GPT(config.model)
    model.load_state_dict({name: w.detach() for name, w in weights.items()})
    ((x, y),) = windows(text.val, config.model.context, config.check_windows)
    with at_rest(model):
        theirs, ours = torch_llama(x, weights, config.model), model(x)
    written = generate_batch(model, [text.tokenizer.encode("One day")], SampleConfig(max_tokens=24, temperature=0.0), torch.Generator().manual_seed(0))
    return {
        "their_loss": float(F.cross_entropy(theirs.flatten(0, 1), y.flatten())),
        "val_loss": float(cross_entropy(ours, y)),
        "logits_equal": paths_differ(ours, theirs) <= 1e-4,
        "same_choice": float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
        "causal": is_causal(model, x[:4]),
        "text": "One day" + text.tokenizer.decode(written[0]),
    }


def torch_llama(ids: Int[Tensor, "B T"], w: Mapping[str, Tensor], config: GPTConfig) -> Float[Tensor, "B T V"]:
    """A Llama from torch's own functions, its rotation in complex numbers of halves; tests hold it equal to transformers'."""
    x = w["tokens.weight"][ids]
    T, D = ids.shape[1], config.head_width
    angles = torch.outer(torch.arange(T), 10_000.0 ** (-torch.arange(0, D, 2) / D))
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotated(h: Tensor) -> Tensor:
        turned = torch.complex(h[..., : D // 2], h[..., D // 2 :]) * turn
        return torch.cat([turned.real, turned.imag], dim=-1)

    for i in range(config.n_layer):
        at = {name.removeprefix(f"blocks.{i}."): p for name, p in w.items() if name.startswith(f"blocks.{i}.")}
        h = F.rms_norm(x, (config.width,), at["norm1.weight"], config.epsilon)
        q, k, v = (F.linear(h, at[f"attention.{n}.weight"]).view(*h.shape[:2], config.n_head, D).transpose(1, 2) for n in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + F.linear(mixed, at["attention.output.weight"])
        h = F.rms_norm(x, (config.width,), at["norm2.weight"], config.epsilon)
        bent = F.silu(F.linear(h, at["feedforward.gate.weight"])) * F.linear(h, at["feedforward.up.weight"])
        x = x + F.linear(bent, at["feedforward.down.weight"])
    head = w["tokens.weight"] if config.tie else w["head.weight"]
    return F.rms_norm(x, (config.width,), w["norm.weight"], config.epsilon) @ head.T


# ── what the figures mean ─────────────────────────────────────────────────────────────────────────────────────────────


def exact(says: str) -> Metric:
    """A property that holds or does not."""
    return Metric(says=says, better="neither")


PARTS = {
    "zero_row_is_zero": exact("RMS norm of a row of zeros is a row of zeros"),
    "tiny_row_is_right": exact("RMS norm of a float16 row of size 0.0001 is what float64 says"),
    "large_row_is_right": exact("RMS norm of a float16 row of size 300 is what float64 says"),
    "layer_is_centred": exact("layer norm leaves a row of mean 0"),
    "layer_has_unit_size": exact("layer norm leaves a row of variance 1, dividing by C"),
    "frequencies_fall_to_the_end": exact("the slowest pair turns by 10000^(2/D - 1) a position"),
    "rotation_starts_where_told": exact("position p is turned alike, whether it comes first or not"),
    "only_distance_counts": exact("nothing changes when all positions are counted from another number"),
    "near_weighs_more": exact("ALiBi costs nothing at a query's own place and more with each step back"),
    "past_the_table_is_refused": exact("a position that the learned table does not have is an error"),
    "gelu_is_exact": exact("GELU(1) is the normal distribution's 0.8413447"),
    "gate_is_bent": exact("SwiGLU bends the gate, not the other projection"),
    "cap_holds": exact("a capped number stays within the cap"),
    "cap_has_a_slope": exact("beyond the cap there is still a gradient"),
    "post_norm_stream_is_normed": exact("after a post-norm block every position has unit mean square"),
}
SMALL_METRICS = LOSSES | {
    "beyond_loss": Metric(
        says="loss at positions 33 to 64 after training on 32 (nats per token)", floor=0.714, ceiling=UNIFORM, smallest=0.05, worst=2 * UNIFORM
    ),
    "causal": EXACT["causal"],
    "only_distance_counts": PARTS["only_distance_counts"],
    "attention_entropy": Metric(says="mean entropy of an attention row (nats)", floor=0.0, ceiling=2.6, smallest=0.05, worst=0.0, better="neither"),
    "stream_growth": Metric(says="mean square of the stream after the last block over that before the first", smallest=0.5, worst=1e6, better="neither"),
    "least_update": Metric(says="what the least block adds, as a share of the stream's size", floor=0.0, smallest=0.02, worst=0.0, better="neither"),
    "constant_felt": Metric(says="how far the last norm's output moves when 1 is added to every number of a row", floor=0.0, smallest=0.01, better="neither"),
    "hidden_min": Metric(says="the smallest hidden unit of a feed-forward layer", smallest=0.01, better="neither"),
    "largest_score": Metric(says="the largest |q · k| / √D", floor=0.0, smallest=0.1, better="neither"),
    "parameters": Metric(says="numbers that are learned", smallest=1, better="neither"),
}

BASELINES = (
    Baseline(
        name="block.parts",
        says="Exact properties of norms, activations, positions, scores and blocks on random numbers. Nothing is trained.",
        run=properties,
        config=PartsConfig(),
        metrics=PARTS,
        seconds=0.1,
    ),
    Baseline(
        name="block.small",
        says="Two Llama-shaped blocks of width 64 and two heads, trained on 32 tokens of tales (BPE of 1,024) for 300 steps of 16 windows, and asked about 64.",
        run=train_small,
        config=SmallConfig(),
        metrics=SMALL_METRICS,
        seconds=5,
        corpus=CORPUS,
    ),
    Baseline(
        name="block.seam",
        says="Three blocks with LayerNorm, trained as block.small; then the norms above the first block are exchanged, gains kept.",
        run=cross_seam,
        config=SeamConfig(),
        metrics=LOSSES
        | {
            "before_loss": LOSSES["val_loss"],
            "seam_cost": Metric(says="what exchanging the norms adds to the loss (nats per token)", floor=0.0, smallest=0.002, worst=UNIFORM),
            "mean_share": Metric(says="share of the stream's mean square that lies in its mean, at worst over layers", floor=0.0, ceiling=1.0, smallest=0.01),
            "causal": EXACT["causal"],
        },
        seconds=6,
        corpus=CORPUS,
    ),
    Baseline(
        name="block.post",
        says="Six post-norm blocks of width 32 with LayerNorm, trained on 32 tokens of tales for 300 steps of 12 windows, at a high rate, 100 of them warm-up.",
        run=train_small,
        config=SmallConfig(
            model=dataclasses.replace(LAYERED, n_layer=6, width=32, hidden=88, block="underhood.nn.block:PostNormBlock"),
            train=TrainConfig(steps=300, optim=OptimConfig(lr=3e-2), schedule=ScheduleConfig(warmup=100)),  # high enough that the order of norm and sum matters
            batch_size=12,
        ),
        metrics=SMALL_METRICS,
        seconds=6,
        corpus=CORPUS,
    ),
    Baseline(
        name="block.foreign",
        says="Two Llama blocks of width 32 made of torch's own functions, trained on tales for 250 steps with torch's AdamW; ours then runs on their weights.",
        run=load_foreign,
        config=ForeignConfig(),
        metrics={
            "val_loss": LOSSES["val_loss"],
            "their_loss": LOSSES["val_loss"],
            "logits_equal": exact("our logits are those of the other implementation"),
            "same_choice": Metric(
                says="share of positions where both think the same token likeliest", floor=1.0, ceiling=0.0, smallest=0.02, worst=0.0, better="higher"
            ),
            "causal": EXACT["causal"],
        },
        seconds=4,
        corpus=CORPUS,
    ),
)
