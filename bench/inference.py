"""Decoding and prefill of the GPT-2-small shape: tokens a second beside transformers and llama.cpp, and the share of the memory's and arithmetic's limits.

    python bench/inference.py [--quick] [--json]

Every row is a process of its own with the same random weights (124 M), greedy, cache on, prompts of 32 random tokens. Weights are drawn large enough that
the rows' first tokens can be compared; they must be equal in fp32 (llama.cpp's: the prompt's logits within 1 %). Each step is timed with the choice of its
token.

* underhood, compiled: ``CompiledDecoder``; weights in huge pages where the system has them, or left in ordinary ones. Compile time is told apart.
* underhood, plain: ``infer.sample``'s way, the model itself with its fast parts and ``KVCache``.
* transformers: ``GPT2LMHeadModel`` called step by step with its own cache (its ``generate`` would add overhead).
* llama.cpp, where ``llama-cpp-python`` and ``gguf`` are installed: the same numbers as GGUF, its C interface, its defaults.

Decoding: tokens/s is rows ÷ the median step. The limit is bytes that a step must read (each matrix once, the vectors, keys and values at the mean length)
over the speed at which this process just read 1 GiB, in the kind of pages that gives more. Prefill: 512 tokens, products counted as the config counts them with
the head once, against the best 2048 × 2048 product in the same precision in the same process.
"""

import argparse
import json
import mmap
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import llama_peer
import machine
import torch
from torch import Tensor

from underhood.infer.cache import KVCache
from underhood.nn.fast import fast
from underhood.nn.gpt import GPT, GPTConfig, build_gpt, gpt2

PROMPT, LONG, COMPARED, LEAST = 32, 512, 24, 40  # tokens; of a prompt, of a prefill, held equal, timed at the least
EVERY, APART = 100, 0.01  # one logit of so many is compared, and how far the vectors may be apart
LLAMA = "llama.cpp"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Decoder(Protocol):
    """What is measured."""

    compile_seconds: float

    def prefill(self, ids: Tensor) -> Tensor:
        """(B, T) → logits (B, V) after the last token; forgets what was."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """(B,) → logits (B, V)."""
        ...


def random_model(precision: str) -> GPT:
    """The shape with random weights; matrices five times GPT-2's 0.02, so that the likeliest token changes from step to step."""
    model = build_gpt(fast(gpt2("small")), 0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5 if p.ndim == 2 else 1)
    return model.to(DTYPES[precision]).eval()


class Compiled:
    """Ours, compiled."""

    def __init__(self, precision: str, *, huge_pages: bool = True) -> None:
        from underhood.kernels.decode import CompiledDecoder

        self.decoder = CompiledDecoder(random_model(precision), "bfloat16" if precision == "bf16" else "float32", huge_pages=huge_pages)
        self.compile_seconds, self.prefill, self.step = self.decoder.compile_seconds, self.decoder.prefill, self.decoder.step


class Plain:
    """Ours, through the model."""

    compile_seconds = 0.0

    def __init__(self, precision: str) -> None:
        self.model = random_model(precision)

    def prefill(self, ids: Tensor) -> Tensor:
        self.cache = KVCache(self.model.config.n_layer, self.model.config.context)
        return self.model.logits(self.model.hidden(ids, self.cache)[:, -1])

    def step(self, tokens: Tensor) -> Tensor:
        return self.model(tokens.unsqueeze(1), self.cache)[:, -1]  # type: ignore[no-any-return]


class Transformers:
    """Theirs, with our numbers."""

    compile_seconds = 0.0

    def __init__(self, precision: str) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        from underhood.interop.gpt2 import their_tensors

        self.model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).eval()
        self.model.load_state_dict(their_tensors(random_model("fp32")), strict=False)
        self.model.to(DTYPES[precision])

    def prefill(self, ids: Tensor) -> Tensor:
        out = self.model(ids, use_cache=True, logits_to_keep=1)
        self.past = out.past_key_values
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def step(self, tokens: Tensor) -> Tensor:
        out = self.model(tokens.unsqueeze(1), past_key_values=self.past, use_cache=True)
        self.past = out.past_key_values
        return out.logits[:, -1]  # type: ignore[no-any-return]


WHO: dict[str, Callable[[str], Decoder]] = {
    "underhood, compiled": Compiled,
    "underhood, compiled, ordinary pages": lambda precision: Compiled(precision, huge_pages=False),
    "underhood, plain": Plain,
    "transformers": Transformers,
    LLAMA: lambda precision: llama_peer.LlamaCpp(random_model("fp32"), precision),
}


def bandwidth(*, huge: bool) -> float:
    """GB/s at which this process reads memory now."""
    return machine.read_bandwidth(huge=huge and hasattr(mmap, "MADV_HUGEPAGE"), repeats=4)


def step_bytes(config: GPTConfig, precision: str, rows: int, length: float) -> float:
    """Bytes that a step must read: every weight but the embeddings' other rows, in its precision, and float32 keys and values."""
    matrices = config.n_params - config.context * config.width
    cache = 2 * config.n_layer * config.width * length * rows * 4
    return matrices * (2 if precision == "bf16" else 4) + cache


@torch.no_grad()
def measure_decode(who: str, precision: str, threads: int, rows: int, seconds: float) -> dict[str, Any]:
    """One row of the table: rate, share, times, and the first tokens."""
    torch.set_num_threads(threads)
    config, decoder = gpt2("small"), WHO[who](precision)
    prompt = torch.randint(config.vocab_size, (rows, PROMPT), generator=torch.Generator().manual_seed(1))
    logits = decoder.prefill(prompt)
    decoder.step(logits.argmax(-1))
    memory = machine.peak_memory_mb()
    limit = max(bandwidth(huge=huge) for huge in (False, True))
    tokens, times, lengths = [decoder.prefill(prompt).argmax(-1)], [], []
    end = time.perf_counter() + seconds
    while (time.perf_counter() < end or len(times) < LEAST) and PROMPT + len(tokens) < config.context:
        start = time.perf_counter()
        tokens.append(decoder.step(tokens[-1]).argmax(-1))
        times.append(time.perf_counter() - start)
        lengths.append(PROMPT + len(tokens) - 1)
    ordered = sorted(times)
    rate = rows / statistics.median(times)
    ceiling = rows * limit * 1e9 / step_bytes(config, precision, rows, statistics.fmean(lengths))
    return {
        "who": who, "precision": precision, "threads": threads, "rows": rows, "rate": rate, "share": rate / ceiling, "gb_s": limit,
        "p50_ms": statistics.median(times) * 1e3, "p99_ms": ordered[int(0.99 * (len(ordered) - 1))] * 1e3, "steps": len(times),
        "compile_s": decoder.compile_seconds, "mb": memory, "logits": logits[:, ::EVERY].float().flatten().tolist(),
        "tokens": torch.stack(tokens[:COMPARED]).tolist(),
    }  # fmt: skip


@torch.no_grad()
def measure_prefill(who: str, precision: str, threads: int, seconds: float) -> dict[str, Any]:
    """One row: tokens a second of the best prefill, as a share of the best product."""
    torch.set_num_threads(threads)
    config, decoder = gpt2("small"), WHO[who](precision)
    ids = torch.randint(config.vocab_size, (1, LONG), generator=torch.Generator().manual_seed(1))
    head = 2 * config.vocab_size * config.width
    flops = (config.flops_per_token(LONG) - head) * LONG + head
    best, peak, end = float("inf"), 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        peak = max(peak, machine.matmul(DTYPES[precision], 2))
        start = time.perf_counter()
        decoder.prefill(ids)
        best = min(best, time.perf_counter() - start)
    return {"who": who, "precision": precision, "threads": threads, "rate": LONG / best, "share": flops / best / (peak * 1e9), "peak": peak}


def decode_table(options: argparse.Namespace) -> None:
    """Decoding: threads × rows × precision × who."""
    heading = f"{'threads':>7} {'rows':>4} {'':4} {'':36} {'tokens/s':>9} {'share':>6} {'GB/s':>5} {'p50 ms':>7} {'p99 ms':>7} {'compile s':>9} {'ours is':>8}"
    print(f"\ndecoding\n{heading}")
    for threads in options.threads:
        for rows in options.rows:
            for precision in options.precision:
                found = [
                    machine.isolated(__file__, threads, {"who": w, "precision": precision, "threads": threads, "rows": rows, "seconds": options.seconds})
                    for w in options.who
                ]
                if precision == "fp32":
                    assert_alike(found)
                for row in found:
                    show_decode(row, found[0], as_json=options.json)


def assert_alike(rows: list[dict[str, Any]]) -> None:
    """All computed the same model: the prompts' logits are close and, but for llama.cpp's (which rounds on its way), the texts equal."""
    expected = torch.tensor(rows[0]["logits"])
    for row in rows:
        apart = float((torch.tensor(row["logits"]) - expected).norm() / expected.norm())
        assert apart < APART, f"{row['who']}: the prompts' logits are {apart:.1%} apart"
        assert row["who"] == LLAMA or row["tokens"] == rows[0]["tokens"], f"{row['who']} does not write the same text"


def show_decode(row: dict[str, Any], ours: dict[str, Any], *, as_json: bool) -> None:
    """Print one row."""
    if as_json:
        print(json.dumps(row), flush=True)
        return
    ratio = f"{ours['rate'] / row['rate']:.2f} ×" if row is not ours else ""
    name = f"{row['threads']:7} {row['rows']:4} {row['precision']:4} {row['who']:36}"
    times = f"{row['p50_ms']:7.1f} {row['p99_ms']:7.1f} {row['compile_s']:9.1f}"
    print(f"{name} {row['rate']:9.1f} {row['share']:6.0%} {row['gb_s']:5.1f} {times} {ratio:>8}", flush=True)


def prefill_table(options: argparse.Namespace) -> None:
    """Prefill: threads × precision × who."""
    print(f"\nprefill of {LONG} tokens\n{'threads':>7} {'':4} {'':36} {'tokens/s':>9} {'share':>6} {'peak GFLOP/s':>12}")
    for threads in options.threads:
        for precision in options.precision:
            for who in (w for w in options.who if w in ("underhood, compiled", "transformers", LLAMA)):
                row = machine.isolated(__file__, threads, {"who": who, "precision": precision, "threads": threads, "seconds": options.seconds})
                name = f"{threads:7} {precision:4} {who:36}"
                print(json.dumps(row) if options.json else f"{name} {row['rate']:9.0f} {row['share']:6.0%} {row['peak']:12.0f}", flush=True)


TABLES: dict[str, Callable[[argparse.Namespace], None]] = {"decode": decode_table, "prefill": prefill_table}  # the engine's requests: a third table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one thread, fp32, one row, decoding only")
    parser.add_argument("--seconds", type=float, default=5, help="of timing a row")
    parser.add_argument("--table", nargs="*", choices=TABLES, default=list(TABLES))
    parser.add_argument("--who", nargs="*", choices=WHO, default=list(WHO), help="only these; the first is what the others are compared with")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--precision", nargs="*", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        job = json.loads(options.one)
        print(json.dumps(measure_decode(**job) if "rows" in job else measure_prefill(**job)))
        return 0
    if options.quick:
        options.threads, options.rows, options.precision, options.table, options.seconds = [1], [1], ["fp32"], ["decode"], 2.0
    why = llama_peer.missing()
    if LLAMA in options.who and why:
        options.who.remove(LLAMA)
        print(f"llama.cpp is passed over: {why}")
    print(machine.line("transformers", "numba", *(() if why else llama_peer.PACKAGES.values())))
    print(machine.quiet())
    for table in options.table:
        TABLES[table](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
