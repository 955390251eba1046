"""``underhood eval``: how well a model predicts held-out text, and what it has learned of ``tales``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from underhood.eval.perplexity import Prediction
    from underhood.nn.gpt import GPT
    from underhood.text.tokenizer import Tokenizer


def command(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run, a checkpoint, a model folder, or a pulled model's name.")],
    data: Annotated[str, typer.Option("--data", help="Whose held-out part: a corpus by name, a file, a folder. Without it, the run's own.")] = "",
    tales: Annotated[bool, typer.Option("--tales", help="Let it write tales and score them; ask it minimal pairs.")] = False,
    stride: Annotated[int | None, typer.Option(help="Slide the window by so many tokens; without it windows stand side by side.")] = None,
    pairs: Annotated[int, typer.Option(help="Minimal pairs per skill.", min=10)] = 100,
    seed: Annotated[int, typer.Option(help="Of what it writes.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Loss, perplexity and bits per byte on held-out text; with --tales, what a program finds in the model's own stories."""
    from underhood.cli.console import print_json
    from underhood.interop.models import open_model

    opened, tokenizer, config = open_model(model)
    what, prediction, floor = _predict(opened, tokenizer, model, data, stride, config.context)
    result: dict[str, Any] = {"model": str(model), "data": what, **prediction.to_plain(), "floor_bits_per_byte": floor}
    if not as_json:
        _print_prediction(what, prediction, floor)
    if tales:
        result["tales"] = _tales(opened, tokenizer, pairs, seed, config.context, show=not as_json)
    if as_json:
        print_json(result)


def _predict(model: "GPT", tokenizer: "Tokenizer", path: Path, data: str, stride: int | None, context: int) -> "tuple[str, Prediction, float | None]":
    """What was predicted, how well, and the best reachable bits per byte where known."""
    from underhood.base.errors import DataError
    from underhood.data.corpora import load_corpus
    from underhood.data.shards import Shards
    from underhood.data.tokens import end_id, join
    from underhood.eval.perplexity import evaluate, evaluate_documents

    if not data:
        run = path.parent if path.name.startswith("step-") else path
        if not (run / "val").is_dir():
            raise DataError("has no held-out text of its own", where=str(path), remedy="Give one: --data tales, or --data with a file or folder.")
        held_out = Shards(run / "val")
        return f"the run's held-out text ({held_out.meta.source or run})", evaluate(model, held_out, held_out.meta.n_bytes, context, stride=stride), None
    corpus, end = load_corpus(data), end_id(tokenizer)
    n_bytes = sum(len(text.encode()) for text in corpus.val)
    what = f"held-out part of {corpus.name} ({len(corpus.val)} documents, {n_bytes:,} bytes)"
    if corpus.floor is not None and end is not None and stride is None:
        documents = [tokenizer.encode(text) for text in corpus.val]
        return what, evaluate_documents(model, documents, n_bytes + len(documents), context, end), corpus.floor
    return what, evaluate(model, join(corpus.val, tokenizer), n_bytes, context, stride=stride), None


def _print_prediction(what: str, prediction: "Prediction", floor: float | None) -> None:
    bits = "" if prediction.bits_per_byte is None else f", {prediction.bits_per_byte:.4f} bits per byte"
    best = "" if floor is None else f" (the best possible: {floor:.4f})"
    print(f"{what}; windows: {prediction.windows}")
    print(f"loss {prediction.loss:.4f} nats per token over {prediction.tokens:,} tokens, perplexity {prediction.perplexity:.2f}{bits}{best}")


def _tales(model: "GPT", tokenizer: "Tokenizer", pairs: int, seed: int, context: int, *, show: bool) -> dict[str, Any]:
    from underhood.cli.console import columns
    from underhood.data.tales_pairs import minimal_pairs
    from underhood.eval.tales import pair_accuracy, score_model, to_plain

    written = score_model(model, tokenizer, seed=seed)
    accuracy = pair_accuracy(model, tokenizer, minimal_pairs(pairs), context=context)
    if show:
        print(f"\n{written.texts[0]}\n\nIn {written.scores.sentences} sentences of its own:\n{written.scores}\n")
        print("The right word against the wrong one (chance 50 %):")
        print(columns([(name, f"{100 * a.share:.0f} %", f"of {a.total}") for name, a in accuracy.items()]))
    return {"scores": written.scores.to_plain(), "pairs": to_plain(accuracy), "texts": list(written.texts)}
