"""``underhood pull``: fetch a data set or weights into the cache, with progress, resuming what broke off."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


def command(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="What to fetch, or a model as OWNER/MODEL; without it, what there is.")] = None,
    folder: Annotated[Path | None, typer.Option("--folder", help="Put it here instead of the cache.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch a data set or weights. Run it again after an interruption: it goes on where it stopped.

    OWNER/MODEL is a model on the Hugging Face hub; only its config, safetensors, tokenizer and chat templates are fetched, the weights last: a model that
    could not be opened is refused before. A gated one needs a token in $HF_TOKEN.
    """
    from underhood.cli.console import columns, print_json
    from underhood.data.pull import SOURCES, pull

    if name is None:
        says = {name: source.says for name, source in SOURCES.items()}
        print_json(says) if as_json else print(columns(list(says.items())))
        return
    if "/" in name:
        _pull_model(name, folder, as_json)
        return
    with _Bars() as bars:
        files = pull(name, folder, bars)
    if as_json:
        print_json({"name": name, "files": [str(file) for file in files]})
        return
    for file in files:
        print(file)
    print(f"Next: underhood sample {files[0].parent}" if name == "gpt2" else f"Next: underhood train {name if folder is None else files[0]}")


def _pull_model(name: str, folder: Path | None, as_json: bool) -> None:
    from underhood.cli.console import print_json
    from underhood.data.pull_model import pull_model

    with _Bars() as bars:
        home = pull_model(name, folder, bars, check=functools.partial(require_usable, name))
    if as_json:
        print_json({"name": name, "folder": str(home)})
        return
    print(home)
    print(f"Next: underhood info {home}")


def require_usable(name: str, folder: Path, listed: Sequence[str]) -> None:
    """The config and the tokenizer in ``folder`` are of kinds that are read; ``listed`` are the files of the model ``name`` on the hub.

    Raises ``CheckpointError`` or ``TokenizerError``.
    """
    from underhood.base.errors import CheckpointError
    from underhood.interop import gpt2, llama
    from underhood.interop.models import KNOWN, load_their_tokenizer, model_type

    kind = model_type(folder)
    if kind not in KNOWN:
        raise CheckpointError(f"found {repr(kind)[:200]}", where=f"{folder / 'config.json'}: model_type", expected=", ".join(KNOWN))
    (gpt2 if kind == "gpt2" else llama).read_config(folder / "config.json")
    if "tokenizer.model" in listed and not any((folder / file).is_file() for file in ("tokenizer.json", "merges.txt")):
        problem, expected = "its tokenizer is there as tokenizer.model alone", "tokenizer.json, or vocab.json with merges.txt"
        remedy = f'Let transformers convert it: AutoTokenizer.from_pretrained("{name}").save_pretrained("{folder}"), and pull again.'
        raise CheckpointError(problem, where=str(folder), expected=expected, remedy=remedy)
    load_their_tokenizer(folder)


class _Bars:
    """A bar for each file on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console, disable=not console.is_terminal
        )
        self.tasks: dict[str, int] = {}

    def __enter__(self) -> "_Bars":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, file: str, done: int, total: int) -> None:
        if file not in self.tasks:
            self.tasks[file] = self.bars.add_task(file)
        self.bars.update(self.tasks[file], completed=done, total=total or None)  # type: ignore[arg-type]
