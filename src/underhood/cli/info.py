"""``underhood info``: what a model is, and what it needs, before anything of it is loaded."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}


def command(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run, a checkpoint, a model folder, or a pulled model's name.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor with its shape.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Parts, shapes, parameters, and the memory of weights and cache at each precision and length. Only headers are read, no weights.

    A field of config.json that may change what is computed and that is not known is an error, here as everywhere.
    """
    from underhood.cli.console import columns, print_json
    from underhood.interop.models import place_of

    facts = describe(place_of(model))
    shapes = facts.pop("tensors")
    if as_json:
        print_json({**facts, **({"tensors": shapes} if tensors else {})})
        return
    print(columns([(name, str(value)) for name, value in facts.items() if not isinstance(value, dict)]))
    print("\nMemory of the weights")
    print(columns([(dtype, _size(b)) for dtype, b in facts["weights_bytes"].items()], indent="  "))
    print("\nMemory of keys and values, for one text of so many tokens (float32, whatever the weights are in)")
    print(columns([(f"{n} tokens", _kept(facts, n)) for n in facts["cache_bytes"]], indent="  "))
    if tensors:
        print("\nTensors")
        print(columns([(name, " × ".join(map(str, shape))) for name, shape in shapes.items()], indent="  "))


def _kept(facts: dict[str, Any], length: int) -> str:
    """What all positions take, for all are kept in serving, and how much of it the windows still see."""
    whole, seen = facts["cache_bytes"][length], facts["seen_bytes"][length]
    return _size(whole) + (f", of which windows leave {_size(seen)} in sight" if seen < whole else "")


def describe(model: Path) -> dict[str, Any]:
    """What there is to know of a model from its config and its tensors' headers."""
    import torch

    from underhood.infer.cache import cache_bytes
    from underhood.infer.sample import context_of
    from underhood.nn.gpt import GPT

    config, family, stored = _config(model)
    with torch.device("meta"):
        skeleton = GPT(config)
    shapes = {name: tuple(p.shape) for name, p in skeleton.named_parameters()}
    count = sum(p.numel() for p in skeleton.parameters())
    head = config.n_kv_head or config.n_head
    context = context_of(skeleton)
    lengths = sorted({n for n in (256, 1024, 4096, 16_384, 65_536, context) if n <= context})
    beyond = {} if context == config.context else {"beyond it": f"up to {config.context}, without a cache: the rotation changes with the length"}
    every = dataclasses.replace(config, window=None, window_from=0)  # the pages of the server keep what a window no longer sees
    return {
        "model": str(model),
        "family": family,
        "parameters": count,
        "stored as": stored,
        "blocks": config.n_layer,
        "width": config.width,
        "hidden": config.hidden_width,
        "heads": f"{config.n_head} of {config.head_width}" + (f", {head} of keys and values" if head != config.n_head else ""),
        "vocabulary": config.vocab_size,
        "context": context,
        **beyond,
        "window": "none" if config.window is None else f"{config.window}, from block {config.window_from} on",
        "parts": ", ".join(p.rpartition(":")[2] for p in (config.norm, config.positions, config.attention, config.feedforward, config.activation)),
        "rotation": "none" if config.rope is None else f"{config.rope.kind}, base {config.rope.base:g}, factor {config.rope.factor:g}",
        "head": "the token embedding" if config.tie else "of its own",
        "weights_bytes": {dtype: int(count * size) for dtype, size in BYTES.items()},
        "cache_bytes": {n: cache_bytes(every, n) for n in lengths},
        "seen_bytes": {n: cache_bytes(config, n) for n in lengths},
        "tensors": shapes,
    }


def _config(model: Path) -> tuple[Any, str, str]:
    """The config, the family, and the dtype of the stored weights."""
    from underhood.base.config import from_plain
    from underhood.base.errors import CheckpointError
    from underhood.base.files import read_json
    from underhood.interop.gpt2 import check_gpt2
    from underhood.interop.llama import check_llama
    from underhood.interop.models import KNOWN, model_type
    from underhood.interop.weights import open_weights
    from underhood.nn.gpt import GPTConfig
    from underhood.train.checkpoint import checkpoints

    runs = [model] if model.name.startswith("step-") else checkpoints(model) if model.is_dir() else []
    if runs:
        facts = read_json(runs[-1] / "state.json")
        return from_plain(GPTConfig, facts["config"]["model"], where="model"), "a run of ours", "float32"
    if not (model / "config.json").is_file():
        raise CheckpointError("neither a run nor a model", where=str(model), expected="step-NNNNNN folders, or config.json with safetensors")
    kind = model_type(model)
    if kind not in KNOWN:
        raise CheckpointError(f"found {kind!r}", where=f"{model / 'config.json'}: model_type", expected=", ".join(KNOWN))
    config = (check_gpt2 if kind == "gpt2" else check_llama)(model)
    return config, str(kind), ", ".join(sorted({i.dtype for i in open_weights(model).infos.values()}))


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit != "MB" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.2f} GB"
