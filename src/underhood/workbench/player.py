"""The process in which a learner's file runs: it does what the judge asks, on inputs that the judge makes, and knows no expected value.

Started by ``judge.Player`` as ``python -I -c …``; the first message says which file, which modules are hollow and what is refused.
"""

import os
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from underhood.workbench import hollow, sandbox
from underhood.workbench.peer import Peer
from underhood.workbench.wire import Lost, Pipe


def main(read: int, write: int) -> None:
    """Set up, lock, load the learner's file, and serve."""
    pipe = Pipe(read, write)
    header, _ = pipe.receive()
    finder = hollow.Hollow(header["hollow"], header["refused"])
    sys.meta_path.insert(0, finder)
    if header["torch"]:
        import torch

        torch.set_num_threads(1)
    if header["numpy"]:
        import numpy  # noqa: F401
    for name in header["warm"]:
        __import__(name)
    _borrow(header["borrowed"])
    strength = sandbox.lock(Path(header["folder"]), header["hidden"])
    finder.guarding = True
    pipe.send({"ready": strength, **_load(header)}, [])
    try:
        Peer(pipe, trusting=True).serve()
    except Lost:
        os._exit(0)


def _load(header: dict[str, Any]) -> dict[str, Any]:
    """Run the learner's file as a module; which seams it has, or what went wrong."""
    module = types.ModuleType(hollow.MINE)
    module.__file__ = header["file"]
    sys.modules[hollow.MINE] = module
    try:
        exec(compile(header["text"], header["file"], "exec"), module.__dict__)
    except BaseException as error:
        rows = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == header["file"]]
        line = rows[-1].lineno if rows else getattr(error, "lineno", None)
        return {"wrong": f"{type(error).__name__}: {error}", "line": line, "borrowed": isinstance(error, hollow.Borrowed)}
    found = vars(module)
    borrowed = [name for name in header["seams"] if name in found and getattr(found[name], "__module__", None) != hollow.MINE]
    return {"seams": [name for name in header["seams"] if name in found], "imported": borrowed}


def _borrow(names: list[str]) -> None:
    """Make calls that would be the answer say so: attributes of modules that are loaded are replaced, in every module of torch that holds them."""
    for name in names:
        module, _, attribute = name.rpartition(".")
        healthy = getattr(sys.modules.get(module), attribute, None)
        if healthy is None:
            continue
        for holder in [m for n, m in list(sys.modules.items()) if n.split(".")[0] == name.split(".")[0] and m is not None]:
            for key, value in list(vars(holder).items()):
                if value is healthy:
                    setattr(holder, key, _Refused(name))


class _Refused:
    """Stands where a borrowed function or class stood."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **options: Any) -> Any:
        raise hollow.Borrowed(f"{self.name} would be the answer: this project is written without it")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise hollow.Borrowed(f"{self.name} would be the answer: this project is written without it")
