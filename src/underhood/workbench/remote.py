"""What one process sees of an object that stays in the other: attributes, calls and operators are messages."""

from collections.abc import Callable
from typing import Any, Protocol

OPERATORS = (
    *["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"],
    *["radd", "rsub", "rmul", "rtruediv", "rfloordiv", "rmod", "rpow", "rmatmul"],
    *["neg", "pos", "abs", "invert", "getitem", "setitem", "len", "iter", "next", "call", "float", "int", "index", "repr", "str", "enter", "exit"],
)  # no comparison and no truth value: what an object of the player's says of itself is no evidence
DUNDERS = tuple(f"__{name}__" for name in OPERATORS)


class Asks(Protocol):
    """Whoever carries the messages."""

    def request(self, verb: str, **fields: Any) -> Any:
        """Ask the other end."""


class Remote:
    """An object of the other process's: attributes, calls and operators go there."""

    __array_ufunc__ = None  # so that numpy leaves operators with arrays on the left to us
    __slots__ = ("__weakref__", "_key", "_peer")

    def __init__(self, peer: Asks, key: str) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_key", key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._peer.request("get", thing=self, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.request("set", thing=self, name=name, value=value)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._peer.request("call", thing=self, name="", args=list(args), options=options)


class RemoteMethods(Remote):
    """For the player: an object of the judge's, whose methods can be called and nothing else."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **options: self._peer.request("call", thing=self, name=name, args=list(args), options=options)


def operator(name: str) -> Callable[..., Any]:
    def operate(self: Remote, *args: Any) -> Any:
        return self._peer.request("operate", thing=self, name=name, args=list(args))

    def call(self: Remote, *args: Any, **options: Any) -> Any:
        return self._peer.request("call", thing=self, name="", args=list(args), options=options)

    def text(self: Remote) -> str:
        try:
            return str(operate(self))
        except Exception as error:
            return f"{type(self).__name__}, which cannot be shown ({type(error).__name__})"

    return call if name == "__call__" else text if name in ("__repr__", "__str__") else operate
