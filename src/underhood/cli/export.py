"""``underhood export``: a model in the layout of transformers."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run, a checkpoint, a model folder, or a pulled model's name.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; must not exist yet.")],
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; as it is stored when not given.")] = None,
    shard_mb: Annotated[float, typer.Option(help="Cut the weights into files of at most so many MB.")] = 5000.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write weights, config, tokenizer and template so that transformers' from_pretrained reads the folder, then read it again and compare the logits."""
    import torch

    from underhood.base.errors import UnderhoodError, UserError
    from underhood.cli.console import print_json
    from underhood.interop.beside import read_beside
    from underhood.interop.export import DTYPES, save_model
    from underhood.interop.models import home_of, load_weights, model_type, open_model, place_of, stored_dtype

    if shard_mb <= 0:
        raise UserError(f"found {shard_mb:g}", where="--shard-mb", expected="more than 0")
    model = place_of(model)
    kept = DTYPES[stored_dtype(model)]
    opened, tokenizer, config = open_model(model, dtype=kept)
    save_model(opened, folder, tokenizer, dtype=dtype, beside=read_beside(home_of(model)), shard_bytes=int(shard_mb * 2**20))
    again = load_weights(folder, kept)
    ids = torch.arange(min(config.context, config.vocab_size, 16))[None]
    with torch.no_grad():
        expected = opened(ids)
        apart = float((again(ids) - expected).float().abs().max())
    if dtype in (None, "float32") and apart > 1e-4 * max(1.0, float(expected.abs().max())):
        raise UnderhoodError(f"{folder}: read again, its logits differ by {apart:.3g}")
    facts = {"folder": str(folder), "family": model_type(folder), "parameters": config.n_params, "logits_apart": apart}
    if as_json:
        print_json(facts)
        return
    print(f"{folder}: {facts['family']}, {config.n_params / 1e6:.2f} M parameters; read again, the logits differ by at most {apart:.1e}")
    print(f'Next: AutoModelForCausalLM.from_pretrained("{folder}") in Python, or underhood serve {folder}')
