"""The tokenizer beside its peers, all in one run: training, encoding and decoding the standard library's own source text.

    python bench/tokenizer.py [--quick] [--json]

Every row is measured in a process of its own, so that its peak memory is its own (interpreter, text and all: the last row, which only reads the
text, is what every process needs). Loading and compiling are no part of a time; "ready after" says how long they took. Times are the best of
three, of one for training. ``tokenizers`` trains and encodes on as many threads as it likes, all others on one. Rows whose merges or ids differ
from the others' are an error: only equal work is compared.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

FULL, QUICK = 32_000_000, 2_000_000  # bytes
VOCABS, QUICK_VOCABS = (4096, 32_768), (1024, 4096)
Result = dict[str, Any]


def stdlib_text(limit: int) -> list[str]:
    """The sources of the running Python's standard library, in order, until ``limit`` bytes are reached."""
    root, texts, size = Path(sysconfig.get_paths()["stdlib"]), [], 0
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts or size >= limit:
            continue
        try:
            texts.append(path.read_bytes().decode())
        except UnicodeDecodeError:
            continue
        size += len(texts[-1].encode())
    return texts


def fingerprint(numbers: Sequence[int]) -> str:
    return hashlib.sha256(array("i", numbers).tobytes()).hexdigest()[:12]


def best(work: Callable[[], Any], times: int) -> tuple[float, Any]:
    """The shortest time in seconds, and the last result."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def watched(work: Callable[[], Any], times: int, print_of: Callable[[Any], str]) -> Result:
    seconds, result = best(work, times)
    return {"seconds": seconds, "peak": peak_bytes(), "fingerprint": print_of(result)}


def merges_print(merges: Sequence[tuple[int, int]]) -> str:
    return fingerprint([number for pair in merges for number in pair])


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def train_ours(texts: list[str], vocab: int, engine: str) -> Result:
    from underhood.text.bpe_fast import FastBPE

    start = time.perf_counter()
    FastBPE.train(texts[:2], 300, engine=engine)  # type: ignore[arg-type]
    warm = time.perf_counter() - start
    return watched(lambda: FastBPE.train(texts, vocab, engine=engine), 1, lambda bpe: merges_print(bpe.merges)) | {"warm": warm}  # type: ignore[arg-type]


def train_tokenizers(texts: list[str], vocab: int, _: str) -> Result:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    def train() -> Any:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, show_progress=False))
        return tokenizer

    def merges_of(tokenizer: Any) -> str:
        model = json.loads(tokenizer.to_str())["model"]
        return merges_print([(model["vocab"][left], model["vocab"][right]) for left, right in model["merges"]])

    return watched(train, 1, merges_of)


def codec(kind: str, path: str) -> tuple[Callable[[str], Any], Callable[[Any], str]]:
    """encode and decode of one library with the vocabulary at ``path``."""
    if kind.startswith("ours"):
        from underhood.text.bpe_fast import FastBPE

        ours = FastBPE.load(path, engine="python" if "python" in kind else "compiled")
        return (ours.encode_array if "array" in kind else ours.encode), ours.decode
    if kind == "tiktoken":
        import tiktoken

        from underhood.text.tiktoken_ranks import ranks_of
        from underhood.text.tokenizer_json import read_tokenizer_json

        public = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""  # as tiktoken itself has it: faster than ours
        theirs = tiktoken.Encoding("ours", pat_str=public, mergeable_ranks=ranks_of(read_tokenizer_json(path)), special_tokens={})
        return theirs.encode_ordinary, theirs.decode
    from tokenizers import Tokenizer, pre_tokenizers

    loaded = Tokenizer.from_file(path)
    loaded.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # its own splitter: faster than the pattern in the file
    return lambda text: loaded.encode(text).ids, loaded.decode


def encode(texts: list[str], kind: str, path: str) -> Result:
    text = "\n".join(texts)
    start = time.perf_counter()
    work, _ = codec(kind, path)
    work(text[:100_000])
    warm = time.perf_counter() - start
    times = 1 if kind == "tokenizers" else 3
    return watched(lambda: work(text), times, fingerprint) | {"warm": warm}


def decode(texts: list[str], kind: str, path: str) -> Result:
    text = "\n".join(texts)
    ids = codec("ours", path)[0](text)
    _, work = codec(kind, path)
    return watched(lambda: work(ids), 1 if kind == "tokenizers" else 3, lambda back: str(back == text))


def limit(texts: list[str], kind: str, _: str) -> Result:
    """What bounds every tokenizer here: finding the words, and reading memory at all."""
    text = "\n".join(texts)
    if kind == "regex split":
        from underhood.text.split import split

        return watched(lambda: split(text), 1, lambda words: str(len(words)))
    import numpy as np

    data = np.frombuffer(text.encode(), np.uint8)
    if kind == "hand-made split":
        from underhood.text import fast_compiled
        from underhood.text.compiled_encode import split_ends

        ends = np.empty(len(data), np.int64)
        split_ends(data[:1000], fast_compiled.classes(), False, ends)
        return watched(lambda: split_ends(data, fast_compiled.classes(), False, ends), 3, str)
    words = np.zeros(1 << 25)
    seconds, _total = best(words.sum, 5)
    return {"seconds": seconds * len(data) / words.nbytes, "peak": peak_bytes(), "fingerprint": ""}


TASKS: dict[str, Callable[..., Result]] = {"train_ours": train_ours, "train_tokenizers": train_tokenizers, "encode": encode, "decode": decode, "limit": limit}

# ── the parent ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def measured(task: str, size: int, *arguments: Any) -> Result:
    """Run one task in a process of its own."""
    command = [sys.executable, __file__, "--task", task, "--bytes", str(size), "--arguments", json.dumps(arguments)]
    found: Result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return found


def table(title: str, size: int, rows: dict[str, Result], ours: str) -> list[str]:
    lines = [f"| {title} | s | MB/s | {ours} ÷ this, MB/s | peak memory of the process | ready after |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        ratio = row["seconds"] / rows[ours]["seconds"]
        warm = f"{row['warm']:.2f} s" if "warm" in row else ""
        lines.append(f"| {name} | {row['seconds']:.3f} | {size / 1e6 / row['seconds']:.1f} | {ratio:.2f} | {row['peak'] / 1e6:.0f} MB | {warm} |")
    return [*lines, ""]


def require_equal(rows: dict[str, Result], what: str) -> None:
    """Only equal work is compared."""
    if len({row["fingerprint"] for row in rows.values()}) != 1:
        raise SystemExit(f"{what} differ: { {name: row['fingerprint'] for name, row in rows.items()} }")


def conditions() -> str:
    """The machine and the versions, in one line."""
    names = ("numpy", "numba", "regex", "tokenizers", "tiktoken")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    model = next((line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.processor())
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{time.strftime('%Y-%m-%d')}, {model}, {os.cpu_count()} CPUs{load}, {platform.system()}, Python {platform.python_version()}, {versions}"


def _cpu_lines() -> list[str]:
    cpu = Path("/proc/cpuinfo")
    return cpu.read_text().splitlines() if cpu.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 MB and small vocabularies")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--bytes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--arguments", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(TASKS[options.task](stdlib_text(options.bytes), *json.loads(options.arguments))))
        return
    run(options.quick, options.json)


def run(quick: bool, as_json: bool) -> None:
    from underhood.text.bpe_fast import FastBPE

    size, vocabs = (QUICK, QUICK_VOCABS) if quick else (FULL, VOCABS)
    texts = stdlib_text(size)
    n = len("\n".join(texts).encode())
    results: dict[str, dict[str, Result]] = {}
    for vocab in vocabs:
        title = f"train {vocab:,}"
        results[title] = {"ours": measured("train_ours", size, vocab, "compiled"), "tokenizers": measured("train_tokenizers", size, vocab, "")}
        if quick:
            results[title]["ours without numba"] = measured("train_ours", size, vocab, "python")
        require_equal(results[title], f"{title}: merges")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "tokenizer.json")
        FastBPE.train(texts, vocabs[-1]).save(path)
        kinds = ("ours", "ours, array", "ours, python", "tiktoken", "tokenizers")
        results["encode"] = {kind: measured("encode", size, kind, path) for kind in kinds}
        require_equal(results["encode"], "ids")
        results["decode"] = {kind: measured("decode", size, kind, path) for kind in ("ours", "tiktoken", "tokenizers")}
        require_equal(results["decode"], "texts")
        results["limits"] = {kind: measured("limit", size, kind, "") for kind in ("hand-made split", "regex split", "memory read")}
    if as_json:
        print(json.dumps({"conditions": conditions(), "bytes": n, "results": results}, indent=1))
        return
    print(conditions(), "\n")
    print(f"{n / 1e6:.1f} MB of standard-library source in {len(texts)} files, GPT-2 splitting; encode and decode with {vocabs[-1]:,} tokens\n")
    for title, rows in results.items():
        print("\n".join(table(title, n, rows, next(iter(rows)))))


if __name__ == "__main__":
    main()
