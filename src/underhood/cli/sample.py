"""``underhood sample``: write text with a model, as it comes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer


def command(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run, a checkpoint, a model folder, or a pulled model's name.")] = Path("runs/tales"),
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What the text begins with; without it the model begins a document.")] = "",
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="At most so many tokens.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token, 1 is the model as it is.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw among the k likeliest only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest that together reach p only.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Draw among those at least p times as likely as the likeliest only.")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, what was said becomes less likely.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 0,
    mine: Annotated[bool, typer.Option("--mine", help="Sample with every part in my/ whose checks hold.")] = False,
    with_: Annotated[list[str] | None, typer.Option("--with", metavar="PROJECT=FILE", help="Sample with this part of yours; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead of text as it comes.")] = False,
) -> None:
    """Write text with a trained model. It ends where the model ends the document, at a stop text, or after so many tokens."""
    from underhood.cli.parts import bound, chosen_parts, note_given
    from underhood.infer.sample import SampleConfig, stream_text
    from underhood.interop.models import end_ids, home_of, open_model

    filters: dict[str, Any] = {"repetition_penalty": repetition_penalty, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    parts = chosen_parts(mine, with_ or [])
    with bound(parts):
        opened, tokenizer, _ = open_model(model, readable=bool(parts))
        if parts:
            note_given(opened)
        ends = end_ids(home_of(model), tokenizer)
        config = SampleConfig(temperature=temperature, max_tokens=tokens, stop=tuple(stop or ()), end_ids=ends, **filters)
        pieces = stream_text(opened, tokenizer, prompt, config, seed)
        if as_json:
            _print_all(pieces, {"model": str(model), "prompt": prompt, "seed": seed})
        else:
            _stream(prompt, pieces)


def _stream(prompt: str, pieces: Iterator[str]) -> None:
    """Each piece at once; the line is ended even when it is interrupted."""
    sys.stdout.write(prompt)
    try:
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")


def _print_all(pieces: Iterator[str], facts: dict[str, Any]) -> None:
    import time

    from underhood.cli.console import print_json

    start = time.perf_counter()
    text = "".join(pieces)
    print_json({**facts, "text": text, "seconds": round(time.perf_counter() - start, 3)})
