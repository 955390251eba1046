"""``underhood tokenizer``: train one, encode, decode, and see what its merges glue."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from underhood.cli.console import note, print_json

if TYPE_CHECKING:
    from underhood.text.bpe_fast import FastBPE

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Train a tokenizer, encode, decode, see what merges glue.")
TokenizerFile = Annotated[Path, typer.Option("--tokenizer", "-t", help="A tokenizer.json, or the folder of a run.")]
TextFile = Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from this file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TOKENIZER = Path("tokenizer.json")


@app.command()
def train(
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="Files, folders, or a corpus by name (tales, pydoc, stdlib).")],
    vocab: Annotated[int, typer.Option("--vocab", help="Ids in all: 256 bytes, special tokens, and merges.")] = 4096,
    pattern: Annotated[str, typer.Option("--pattern", help="How text is cut into words: gpt2 or gpt4.")] = "gpt4",
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = TOKENIZER,
    special: Annotated[list[str] | None, typer.Option("--special", help="A special token; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Learn a byte-level BPE vocabulary and write a tokenizer.json."""
    import time

    from underhood.data.corpora import load_corpus
    from underhood.text.bpe_fast import FastBPE
    from underhood.text.special import END_OF_TEXT
    from underhood.text.split import expression
    from underhood.text.vocabulary import merges_wanted

    special = special or [END_OF_TEXT]
    expression(pattern)
    merges_wanted(vocab, special)
    _require_writable(out)
    start = time.perf_counter()
    corpora = [load_corpus(path) for path in paths]
    texts = [text for corpus in corpora for text in (*corpus.train, *corpus.val)]
    n_bytes = sum(len(text.encode(errors="replace")) for text in texts)
    note(f"read {n_bytes / 1e6:.1f} MB in {len(texts)} documents")
    with _Progress() as progress:
        tokenizer = FastBPE.train(texts, vocab, pattern, special, progress=progress)
    tokenizer.save(out)
    seconds = time.perf_counter() - start
    if as_json:
        print_json({"out": str(out), "vocab_size": tokenizer.vocab_size, "bytes": n_bytes, "documents": len(texts), "pattern": pattern, "seconds": seconds})
    else:
        print(f"{out}: {tokenizer.vocab_size} tokens from {n_bytes / 1e6:.1f} MB in {seconds:.1f} s")
        print(f"Next: underhood tokenizer show -t {out} 'some text'")


@app.command()
def encode(text: Annotated[str | None, typer.Argument(help="The text; without it, --file or standard input.")] = None,
           tokenizer: TokenizerFile = TOKENIZER, file: TextFile = None,
           allow_special: Annotated[bool, typer.Option(help="Read special tokens in the text as such and not as plain text.")] = False,
           as_json: AsJson = False) -> None:  # fmt: skip
    """Print the ids of a text."""
    bpe = _load(tokenizer)
    given = _text(text, file)
    ids = bpe.encode(given, frozenset(bpe.special) if allow_special else frozenset())
    if as_json:
        print_json({"ids": ids, "tokens": len(ids), "bytes": len(given.encode(errors="replace"))})
    else:
        print(" ".join(map(str, ids)))


@app.command()
def decode(ids: Annotated[list[str] | None, typer.Argument(help="The ids; without them, --file or standard input.")] = None,
           tokenizer: TokenizerFile = TOKENIZER, file: TextFile = None, as_json: AsJson = False) -> None:  # fmt: skip
    """Print the text of ids."""
    from underhood.base.errors import TokenizerError

    words = (" ".join(ids) if ids else _text(None, file)).replace(",", " ").split()
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        wrong = next(word for word in words if not word.lstrip("-").isdecimal())
        raise TokenizerError(f"{wrong!r} is not an id", expected="whole numbers with spaces between them") from None
    text = _load(tokenizer).decode(numbers)
    if as_json:
        print_json({"text": text, "tokens": len(numbers)})
    else:
        print(text, end="" if text.endswith("\n") else "\n")


@app.command()
def show(text: Annotated[str | None, typer.Argument(help="The text; without it, --file or standard input.")] = None,
         tokenizer: TokenizerFile = TOKENIZER, file: TextFile = None,
         tree: Annotated[bool, typer.Option("--tree", help="Draw every merge of every token; for a single word this is the default.")] = False,
         as_json: AsJson = False) -> None:  # fmt: skip
    """Show a text cut into its tokens, and how a word was merged."""
    from rich.console import Console

    from underhood.text import show as seen

    bpe = _load(tokenizer)
    given = _text(text, file)
    found = seen.pieces(bpe, given)
    n_bytes = len(given.encode(errors="replace"))
    if as_json:
        trees = [seen.as_data(seen.tree(bpe, piece.id)) for piece in found]
        print_json({"tokens": [{"id": p.id, "token": p.label, "bytes": list(p.token)} for p in found], "trees": trees, "bytes": n_bytes})
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(seen.coloured(found) if console.color_system else seen.ruled(found), markup=False)
    print(f"{len(found)} tokens, {n_bytes} bytes, {n_bytes / max(len(found), 1):.2f} bytes per token")
    word = len(given.split()) == 1 and len(given) <= 64
    if word:
        for row in seen.steps(bpe, given):
            console.print("  " + " | ".join(row), markup=False)
    if word or tree:
        for piece in found:
            if piece.parts:
                console.print(seen.drawn(seen.tree(bpe, piece.id)))


def _load(path: Path) -> "FastBPE":
    """The byte-level tokenizer at ``path``."""
    from underhood.base.errors import TokenizerError
    from underhood.text.bpe_fast import FastBPE
    from underhood.text.tokenizer import load_tokenizer

    if not path.exists():
        raise TokenizerError("no such file", where=str(path), remedy="Train one with: underhood tokenizer train PATH --out tokenizer.json")
    loaded = load_tokenizer(path)
    if not isinstance(loaded, FastBPE):
        raise TokenizerError("is a tokenizer of characters, which has no merges", where=str(path), expected="byte-level BPE")
    return loaded


def _text(text: str | None, file: Path | None) -> str:
    """The text from the argument, the file, or standard input, as UTF-8."""
    from underhood.base.errors import DataError, UserError

    if text is not None and file is not None:
        raise UserError("both a text and --file are given", expected="one of them")
    if text is not None:
        return text
    if file is None and sys.stdin.isatty():
        raise UserError("no text is given", expected="an argument, --file, or text on standard input")
    where = str(file) if file else "standard input"
    try:
        return (file.read_bytes() if file else sys.stdin.buffer.read()).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is not UTF-8", where=where, remedy="Convert the text to UTF-8 first.") from None
    except OSError as error:
        raise DataError(error.strerror or str(error), where=where) from None


def _require_writable(path: Path) -> None:
    """Fail before the work and not after it when ``path`` cannot be written."""
    import os

    from underhood.base.errors import FileSystemError

    folder = next((parent for parent in path.absolute().parents if parent.exists()), path.absolute().parent)
    if path.is_dir():
        raise FileSystemError("a folder stands where the file is to be written", where=str(path))
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise FileSystemError(
            "no permission to write here; choose another folder" if folder.is_dir() else "a file stands where a folder is needed", where=str(path)
        )


class _Progress:
    """Merges learned so far, on one line of stderr where it is a terminal."""

    def __enter__(self) -> "_Progress":
        return self

    def __call__(self, done: int, wanted: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {wanted} merges", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
