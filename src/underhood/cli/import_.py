"""``underhood import``: a model folder of somebody else's as a run folder of ours."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder with config.json, safetensors and a tokenizer.")],
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="The run folder to write (default: runs/NAME of the model).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a model through and through (config, headers, finite tensors and logits, tokenizer, chat template) and write it as a checkpoint of ours.

    Every command opens a model folder as it is, too; a run of ours has checksums and can be written to. Nothing is written when something is wrong.
    """
    import torch

    from underhood.base.config import to_plain
    from underhood.base.errors import NonFinite, UserError
    from underhood.cli.console import print_json
    from underhood.interop.beside import read_beside, write_beside
    from underhood.interop.models import model_type, open_model, place_of
    from underhood.train.checkpoint import Checkpoint, model_tensors, save_checkpoint

    model = place_of(model)
    target = folder or Path("runs") / model.resolve().name
    if (target / "step-000000").exists():
        raise UserError("is there already", where=str(target / "step-000000"), remedy="Name another folder.")
    opened, tokenizer, config = open_model(model)
    with torch.no_grad():
        if not torch.isfinite(opened(torch.arange(min(8, config.vocab_size, config.context))[None])).all():
            raise NonFinite(f"{model}: a logit of the first tokens")
    beside = read_beside(model)
    _require_template(model)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(target / "tokenizer.json")
    write_beside(target, beside)
    facts = {"config": {"model": to_plain(config)}, "imported": str(model_type(model))}
    path = save_checkpoint(target, 0, Checkpoint(model=model_tensors(opened), state={"none": torch.zeros(1)}, facts=facts))
    if as_json:
        print_json({"folder": str(target), "checkpoint": str(path), "parameters": config.n_params})
        return
    print(f"{path}: {config.n_params / 1e6:.2f} M parameters")
    print(f"Next: underhood sample {target}")


def _require_template(model: Path) -> None:
    """A chat template of the model's own writes a conversation, and one with tools where it has another for them. It may refuse either."""
    from underhood.text.chat import ChatTemplate
    from underhood.text.chat_process import ChatRefused, ChatTemplateError

    template = ChatTemplate.read(model)
    if template.origin == "default":
        return
    tool = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}}
    try:
        for tools in [None, [tool]] if "tool_use" in template.sources else [None]:
            with contextlib.suppress(ChatRefused):
                template.render([{"role": "user", "content": "Hi"}], tools)
    except ChatTemplateError as error:
        raise ChatTemplateError(error.problem, where=template.origin, expected=error.expected) from error
    finally:
        template.process.close()
