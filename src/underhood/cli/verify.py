"""``underhood verify``: every path through a model ends at the same logits, on this machine; where one does not, the first layer and position."""

from pathlib import Path
from typing import Annotated, Any

import typer


def command(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run, a checkpoint, a model folder, or a pulled model's name.")] = Path("runs/tales"),
    grade: Annotated[str, typer.Option(help="exact (float64), numerical (float32) or half (bfloat16).")] = "numerical",
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="Length of the longest text.")] = 48,
    seed: Annotated[int, typer.Option(help="Other texts.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prove that naive = tiled = cached = paged = batched = chunked = prefix-cached = speculative = compiled = exported = served for this model.

    The texts are drawn from the vocabulary; all logits and the stream after every block are compared. The exit code is 1 if a path differs.
    """
    import torch

    from underhood.base.errors import UnknownName, UserError
    from underhood.cli.console import note, print_json
    from underhood.infer.sample import context_of
    from underhood.interop.models import open_model
    from underhood.interop.verify import verify

    dtypes = {"exact": torch.float64, "numerical": torch.float32, "half": torch.bfloat16}
    if grade not in dtypes:
        raise UnknownName("grade", grade, dtypes)
    if tokens < 2:
        raise UserError(f"{tokens} tokens", where="--tokens", expected="at least 2")
    opened, _, config = open_model(model, dtype=dtypes[grade], kernel="sdpa")
    longest = min(tokens, context_of(opened))
    texts = _texts(longest, config.vocab_size, seed)
    note(f"{model}: {config.n_layer} blocks, {len(texts)} texts of up to {longest} tokens, {grade}; about {_memory(opened)}")
    if longest < tokens:
        note(f"{tokens} tokens were asked for; {longest} is the longest text that every path takes{_why_not_longer(config.context, longest)}")
    edges = []
    for edge in verify(opened, texts, grade):  # type: ignore[arg-type]
        edges.append(edge)
        if not as_json:
            _say(edge)
    if as_json:
        print_json({"model": str(model), "grade": grade, "tokens": longest, "edges": [_plain(e) for e in edges]})
    if not all(e.holds for e in edges):
        raise typer.Exit(1)
    if not as_json:
        print("Every path ends at the same logits." + (f" Passed over: {', '.join(e.name for e in edges if e.why)}." if any(e.why for e in edges) else ""))


def _texts(longest: int, vocab_size: int, seed: int) -> list[Any]:
    """Five texts, from one token to ``longest``, two of them alike at the beginning."""
    import torch

    from underhood.base.rng import stream_seed

    generator = torch.Generator().manual_seed(stream_seed(seed, "verify"))
    lengths = [longest, max(1, longest // 2), 1, max(1, longest // 3), longest]
    texts = [torch.randint(vocab_size, (n,), generator=generator) for n in lengths]
    texts[-1][: longest // 2] = texts[0][: longest // 2]
    return texts


def _why_not_longer(context: int, longest: int) -> str:
    return "" if longest == context else f": up to {context} the rotation changes with the length, and nothing can be cached"


def _memory(model: Any) -> str:
    used = sum(p.numel() * p.element_size() for p in model.parameters())
    return f"{2 * used / 2**20:,.0f} MB of memory, the model twice"


def _say(edge: Any) -> None:
    """One line an edge."""
    if edge.why.startswith("passed over"):
        print(f"  ·  naive = {edge.name:<14} {edge.why}")
        return
    mark = "✓" if edge.holds else "✗"
    near = f", {edge.near} greedy tokens too near to tell" if edge.near else ""
    print(f"  {mark}  naive = {edge.name:<14} {edge.error:8.1e} of {edge.allowed:.0e} allowed, {edge.compared} positions{near}, {edge.seconds:.1f} s")
    if not edge.holds:
        place = "" if edge.place is None else f" first apart{_layer(edge.layer)} at text {edge.place[0] + 1}, position {edge.place[1]}"
        print(f"       {edge.why}{place}")


def _layer(layer: int | None) -> str:
    return "" if layer is None else " after the head" if layer == -1 else f" after block {layer}"


def _plain(edge: Any) -> dict[str, Any]:
    import dataclasses
    import math

    values = dataclasses.asdict(edge)
    return {**values, "error": values["error"] if math.isfinite(values["error"]) else None}
