"""The process in which a learner's file runs: it does what the judge asks, on inputs that the judge makes, and knows no expected value.

Started by ``judge.Player`` as ``python -I -c …``; the first message says which file, which modules are hollow and what is refused.
"""

import linecache
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
    pipe.send({"locked": strength}, [])
    pipe.send(_load(header), [])
    try:
        Watched(pipe, header["borrowed"]).serve()
    except Lost:
        os._exit(0)


class Watched(Peer):
    """Refuses, whatever name they are called by, operators of torch's that would be the answer."""

    def __init__(self, pipe: Pipe, borrowed: list[str]) -> None:
        super().__init__(pipe, trusting=True)
        self.operators = tuple(name for name in map(OPERATORS.get, borrowed) if name)
        self.seen = ""

    def _obey(self, verb: str, **fields: Any) -> Any:
        if not self.operators:
            return super()._obey(verb, **fields)
        with _watching(self):
            found = super()._obey(verb, **fields)
        if self.seen:  # even where the learner's code caught the error
            raise hollow.Borrowed(f"{self.seen} would be the answer: this project is written without it")
        return found


# What borrowed calls come down to in torch: parts of names of operators, and operators that torch takes apart before they can be watched.
OPERATORS = {"torch.nn.functional.scaled_dot_product_attention": "scaled_dot_product", "torch.nn.MultiheadAttention": "native_multi_head_attention"}

COMPOSED = {"torch.nn.functional.scaled_dot_product_attention": ("scaled_dot_product_attention", "_scaled_dot_product_attention_math")}


def _watching(peer: Watched) -> Any:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(name in str(func) for name in peer.operators):
                peer.seen = str(func)
                raise hollow.Borrowed(f"{func} would be the answer: this project is written without it")
            return func(*args, **(kwargs or {}))

    return Mode()  # type: ignore[no-untyped-call]


def _load(header: dict[str, Any]) -> dict[str, Any]:
    """Run the learner's file as a module; which seams it has, or what went wrong."""
    module = types.ModuleType(hollow.MINE)
    module.__file__ = header["file"]
    sys.modules[hollow.MINE] = module
    linecache.cache[header["file"]] = (len(header["text"]), None, header["text"].splitlines(keepends=True), header["file"])  # the file itself may be hidden
    try:
        exec(compile(header["text"], header["file"], "exec"), module.__dict__)
    except BaseException as error:
        rows = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == header["file"]]
        line = rows[-1].lineno if rows else getattr(error, "lineno", None)
        return {"wrong": f"{type(error).__name__}: {error}", "line": line, "borrowed": isinstance(error, hollow.Borrowed)}
    found = vars(module)
    return {"seams": [name for name in header["seams"] if name in found], "imported": [name for name in header["seams"] if _imported(found.get(name), header)]}


def _imported(seam: Any, header: dict[str, Any]) -> bool:
    """Whether the learner's seam is ours, or a class built on ours."""
    if seam is None:
        return False
    ours = [c for c in getattr(seam, "__mro__", [])[1:] if c.__module__ in header["hollow"] and c.__name__ in header["seams"]]
    return bool(ours) or getattr(seam, "__module__", None) != hollow.MINE


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
        for operator in COMPOSED.get(name, ()):
            setattr(sys.modules["torch"].ops.aten, operator, _Refused(name))


class _Refused:
    """Stands where a borrowed function or class stood."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **options: Any) -> Any:
        raise hollow.Borrowed(f"{self.name} would be the answer: this project is written without it")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise hollow.Borrowed(f"{self.name} would be the answer: this project is written without it")
