"""Training speed and memory: tokens a second of three implementations of one model, and the share of the machine's matrix products that they reach.

    python bench/training.py [--quick] [--json]

Two shapes: GPT-2 small (124 M parameters, one sequence of 1,024) and a small character model (4 layers, width 128, 12 sequences of 64). Each row is a
process of its own. All three do the same work a step: forward, cross-entropy over every position, backward, the gradient clipped to norm 1, one AdamW
update of every weight. They differ in how:

* underhood: ``Trainer`` with the fast parts (fused attention, loss in chunks, one-pass AdamW). bf16: the model in bf16, fp32 masters.
* plain loop: a GPT written in torch's modules as one would in an afternoon; ``torch.optim.AdamW``. bf16: ``torch.autocast``.
* transformers: ``GPT2LMHeadModel`` with its fused attention, its own loss, ``torch.optim.AdamW``. bf16: ``torch.autocast``.

A step's operations are counted alike for all three, those of the matrix products (``GPTConfig.flops_per_token``). The peak is that of a 2048 × 2048
product in the same precision, timed before every step in the same process. Rates are the best step, as the peak is the best product.

``--vitals`` measures instead what ``VitalSigns`` costs: every other step is looked at, and the difference of the medians is spread over its default interval.
"""

import argparse
import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import machine
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.nn.fast import fast
from underhood.nn.gpt import GPTConfig, build_gpt, gpt2
from underhood.train.loop import TrainConfig, Trainer
from underhood.train.optim_config import OptimConfig
from underhood.train.vitals import VitalSigns

Step = Callable[[], float]
CHARACTER = GPTConfig(vocab_size=65, context=64, n_layer=4, n_head=4, width=128)
SHAPES = {"gpt2-small": (gpt2("small"), 1), "character": (CHARACTER, 12)}
LEARNING_RATE, BETAS, DECAY = 6e-4, (0.9, 0.95), 0.1


class RandomTokens:
    """Batches of random ids: speed does not depend on what they say."""

    def __init__(self, config: GPTConfig, batch: int) -> None:
        self.shape, self.vocab_size = (batch, config.context + 1), config.vocab_size
        self.generator = torch.Generator().manual_seed(0)

    def next(self) -> tuple[Tensor, Tensor]:
        ids = torch.randint(self.vocab_size, self.shape, generator=self.generator)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def state(self) -> dict[str, int]:
        return {}

    def load_state(self, state: Any) -> None:
        pass


def underhood_trainer(config: GPTConfig, batches: RandomTokens, precision: str) -> Trainer:
    """Our trainer with the fast parts."""
    optim = OptimConfig(kind="underhood.train.optim_fast:AdamW", lr=LEARNING_RATE, weight_decay=DECAY)
    chunk = 512 if config.vocab_size > 1024 else 0
    train = TrainConfig(steps=10_000, precision=precision, loss_chunk=chunk, optim=optim)  # type: ignore[arg-type]
    return Trainer(build_gpt(fast(config), 0), train, batches)


def underhood_step(config: GPTConfig, batches: RandomTokens, precision: str) -> Step:
    """Ours."""
    trainer = underhood_trainer(config, batches, precision)
    return lambda: trainer.step().loss


class PlainBlock(nn.Module):
    """The plain loop's block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (p.view(B, T, self.heads, -1).transpose(1, 2) for p in self.qkv(self.ln1(x)).split(C, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln2(x))  # type: ignore[no-any-return]


class PlainGPT(nn.Module):
    """The plain loop's model."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(config.vocab_size, config.width), nn.Embedding(config.context, config.width)
        self.blocks = nn.Sequential(*(PlainBlock(config.width, config.n_head) for _ in range(config.n_layer)))
        self.norm, self.head = nn.LayerNorm(config.width), nn.Linear(config.width, config.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02 / ((2 * config.n_layer) ** 0.5 if name.endswith(("out.weight", "mlp.2.weight")) else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return self.head(self.norm(self.blocks(x)))  # type: ignore[no-any-return]

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x).flatten(0, 1), y.flatten())


def torch_adamw(model: nn.Module, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """torch's AdamW, matrices with decay and vectors without."""
    groups = [{"params": [p for p in model.parameters() if (p.ndim >= 2) == matrices], "weight_decay": DECAY * matrices} for matrices in (True, False)]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=fused)


def torch_step(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], batches: RandomTokens, precision: str, *, fused: bool | None = None) -> Step:
    """The usual loop around a model."""
    optimizer = torch_adamw(model, fused=fused)

    def step() -> float:
        x, y = batches.next()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(x, y)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(value.detach())

    return step


def plain_step(config: GPTConfig, batches: RandomTokens, precision: str) -> Step:
    """The plain loop, with the optimizer as torch sets it."""
    torch.manual_seed(0)
    model = PlainGPT(config)
    return torch_step(model, model.loss, batches, precision)


def plain_fused_step(config: GPTConfig, batches: RandomTokens, precision: str) -> Step:
    """The plain loop, with torch's fused AdamW."""
    torch.manual_seed(0)
    model = PlainGPT(config)
    return torch_step(model, model.loss, batches, precision, fused=True)


def transformers_step(config: GPTConfig, batches: RandomTokens, precision: str) -> Step:
    """transformers' GPT-2, told that the targets are shifted already, so that it has as many as the others."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"vocab_size": config.vocab_size, "n_positions": config.context, "n_embd": config.width, "n_layer": config.n_layer, "n_head": config.n_head}
    model = GPT2LMHeadModel(GPT2Config(**shape, loss_type="ForCausalLM", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0))
    model.train()
    return torch_step(model, lambda x, y: model(x, labels=x, shift_labels=y).loss, batches, precision)


WHO: dict[str, Callable[[GPTConfig, RandomTokens, str], Step]] = {
    "underhood": underhood_step,
    "plain loop": plain_step,
    "plain loop, fused AdamW": plain_fused_step,
    "transformers": transformers_step,
}


def measure(who: str, shape: str, precision: str, threads: int, seconds: float) -> dict[str, Any]:
    """One row: best rate, best peak, first loss, memory."""
    torch.set_num_threads(threads)
    config, batch = SHAPES[shape]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    step = WHO[who](config, RandomTokens(config, batch), precision)
    first = step()
    memory = machine.peak_memory_mb()
    tokens = batch * config.context
    start = time.perf_counter()
    step()
    steps = max(1, round(0.5 / (time.perf_counter() - start)))  # half a second's worth between two looks at the peak
    rate = peak = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        peak = max(peak, machine.matmul(dtype, 2))
        start = time.perf_counter()
        for _ in range(steps):
            step()
        rate = max(rate, tokens * steps / (time.perf_counter() - start))
    share = rate * config.flops_per_token(training=True) / (peak * 1e9)
    memory = max(memory, machine.peak_memory_mb())
    return {"who": who, "shape": shape, "precision": precision, "threads": threads, "rate": rate, "peak": peak, "share": share, "mb": memory, "first": first}


def measure_vitals(shape: str, precision: str, threads: int, seconds: float) -> dict[str, Any]:
    """What a look costs, as a share of a step, spread over the default interval."""
    torch.set_num_threads(threads)
    config, batch = SHAPES[shape]
    trainer = underhood_trainer(config, RandomTokens(config, batch), precision)
    every = inspect.signature(VitalSigns).parameters["every"].default
    times: list[float] = []
    with VitalSigns(trainer.model, every=2) as signs:
        trainer.callbacks.append(signs)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 8:
            start = time.perf_counter()
            trainer.step()
            times.append(time.perf_counter() - start)
    plain, looked_at = statistics.median(times[2::2]), statistics.median(times[3::2])  # the first two are to warm up
    share = (looked_at - plain) / (every * plain)
    return {"shape": shape, "precision": precision, "threads": threads, "every": every, "ms": plain * 1e3, "looked_at_ms": looked_at * 1e3, "share": share}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one thread, fp32, the character model only")
    parser.add_argument("--seconds", type=float, default=20, help="of timing a row")
    parser.add_argument("--shape", choices=SHAPES, help="only this one")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="only this one")
    parser.add_argument("--threads", type=int, choices=[1, 2], help="only so many")
    parser.add_argument("--vitals", action="store_true", help="what looking at the vital signs costs, instead")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        job = json.loads(options.one)
        print(json.dumps(measure(**job) if "who" in job else measure_vitals(**job)))
        return 0
    if options.quick:
        options.shape, options.precision, options.threads, options.seconds = "character", "fp32", 1, 3.0
    print(machine.line("transformers"))
    print(machine.quiet())
    if options.vitals:
        return show_vitals(options)
    print(f"{'shape':12} {'threads':>7} {'':4} {'':24} {'tokens/s':>9} {'share':>6} {'peak GFLOP/s':>12} {'MB':>6} {'ours is':>8}")
    for shape in [options.shape] if options.shape else SHAPES:
        for threads in [options.threads] if options.threads else (1, 2):
            for precision in [options.precision] if options.precision else ("fp32", "bf16"):
                rows = [
                    machine.isolated(__file__, threads, {"who": w, "shape": shape, "precision": precision, "threads": threads, "seconds": options.seconds})
                    for w in WHO
                ]
                assert max(r["first"] for r in rows) - min(r["first"] for r in rows) < 0.2, f"the models start from different losses: {rows}"
                for row in rows:
                    show(row, rows[0], as_json=options.json)
    return 0


def show_vitals(options: argparse.Namespace) -> int:
    """One line: the vital signs of one shape."""
    shape, precision, threads = options.shape or "character", options.precision or "fp32", options.threads or 1
    row = machine.isolated(__file__, threads, {"shape": shape, "precision": precision, "threads": threads, "seconds": options.seconds})
    if options.json:
        print(json.dumps(row))
        return 0
    print(f"{shape}, {threads} threads, {precision}: {row['ms']:.1f} ms a step, {row['looked_at_ms']:.1f} ms where looked at")
    print(f"every {row['every']} steps that is {row['share']:.1%}")
    return 0


def show(row: dict[str, Any], ours: dict[str, Any], *, as_json: bool) -> None:
    """Print one row."""
    if as_json:
        print(json.dumps(row), flush=True)
        return
    ratio = f"{ours['rate'] / row['rate']:.2f} ×" if row is not ours else ""
    shape = f"{row['shape']:12} {row['threads']:7} {row['precision']:4} {row['who']:24}"
    print(f"{shape} {row['rate']:9,.0f} {row['share']:6.0%} {row['peak']:12.0f} {row['mb']:6.0f} {ratio:>8}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
