"""What ``patch.Bind`` puts into a seam: where the learner's function or class comes from, whether it fits, and how calls are led to it.

Functions: the healthy function's code is swapped (by ``patch``) for a door that calls theirs. Classes: the name is put anew into every loaded module of the
project. Either way a part that calls the seam from its own file reaches the healthy one.
Standard library only.
"""

import contextlib
import dataclasses
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from underhood.base.errors import PatchError
from underhood.base.names import load

Note = Callable[[], None]  # called each time the bound part runs


@dataclasses.dataclass(frozen=True)
class Bind:
    """The function or class ``target`` is replaced by ``source``: ``"path/to/file.py:name"`` or ``"module:name"``."""

    target: str
    source: str


def load_source(ref: str) -> Any:
    """The object that a ``Bind`` names: ``"file.py:name"`` (the file is run once, as a module of its own) or ``"module:name"``."""
    place, _, name = ref.rpartition(":")
    if not place.endswith(".py"):
        return load(ref)
    module = _load_file(Path(place))
    if not hasattr(module, name):
        raise PatchError(f"the file defines no {name!r}", where=place)
    return getattr(module, name)


def _load_file(path: Path) -> types.ModuleType:
    path = path.resolve()
    name = f"underhood_mine_{abs(hash(str(path))):x}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise PatchError("no such file", where=str(path))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def fitting(bind: Bind) -> tuple[Any, Any]:
    """The healthy function or class and the one that takes its place. Raises ``PatchError`` unless both are of one kind and called alike."""
    healthy, mine = load(bind.target), load_source(bind.source)
    if mine is healthy:
        raise PatchError("the seam is bound to itself: this patch changes nothing", where=bind.target)
    if inspect.isclass(healthy) != inspect.isclass(mine):
        raise PatchError(f"{bind.source} is a {type(mine).__name__}", where=bind.target, expected="a class" if inspect.isclass(healthy) else "a function")
    if not inspect.isclass(mine) and not isinstance(mine, types.FunctionType):
        raise PatchError(f"{bind.source} is a {type(mine).__name__}", where=bind.target, expected="a plain function")
    compare_signatures(healthy, mine, where=bind.source)
    return healthy, mine


def compare_signatures(healthy: Any, mine: Any, *, where: str) -> None:
    """Raise ``PatchError`` unless ``mine`` can be called as ``healthy`` is: same parameters, same kinds, and for classes the same public methods."""
    if inspect.isclass(healthy):
        for name, member in vars(healthy).items():
            if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
                other = getattr(mine, name, None)
                if other is None:
                    raise PatchError(f"the class has no method {name!r}", where=where)
                compare_signatures(member, other, where=f"{where}.{name}")
        return
    wanted = [(p.name, p.kind) for p in inspect.signature(healthy).parameters.values()]
    given = [(p.name, p.kind) for p in inspect.signature(mine).parameters.values()]
    if wanted != given:
        raise PatchError(f"its signature is {inspect.signature(mine)}", where=where, expected=str(inspect.signature(healthy)))


@contextlib.contextmanager
def door(function: types.FunctionType, mine: Any, note: Note) -> Iterator[types.CodeType]:
    """Code for ``function`` that calls ``mine``; ``mine`` itself, calling the seam, gets the healthy function."""
    twin = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    twin.__kwdefaults__ = function.__kwdefaults__

    def enter(*args: Any, **kwargs: Any) -> Any:
        note()
        caller = sys._getframe(2).f_globals
        return (twin if caller is mine.__globals__ else mine)(*args, **kwargs)

    name = f"__underhood_bound_{function.__qualname__.replace('.', '_')}__"
    function.__globals__[name] = enter
    try:
        yield _door_code(function, name)
    finally:
        del function.__globals__[name]


def _door_code(function: types.FunctionType, door: str) -> types.CodeType:
    free = function.__code__.co_freevars
    text = f"def outer({', '.join(free)}):\n def {function.__name__}(*args, **kwargs):\n  {'; '.join(free) or 'pass'}\n  return {door}(*args, **kwargs)\n"
    outer = compile(text, f"<{function.__qualname__}, bound>", "exec").co_consts[0]
    return next(c for c in outer.co_consts if isinstance(c, types.CodeType)).replace(co_qualname=function.__qualname__)


@contextlib.contextmanager
def class_replaced(bind: Bind, healthy: type, mine: type, note: Note) -> Iterator[None]:
    """Replace the class in every loaded module of the project; one that lives on elsewhere is an error."""
    original, own = mine.__init__, "__init__" in vars(mine)  # type: ignore[misc]

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        note()
        original(self, *args, **kwargs)

    places = _references(healthy, mine)
    _put(mine, places)
    try:
        _refuse_leftovers(bind, healthy, mine)
        mine.__init__ = __init__  # type: ignore[misc]
        yield
    finally:
        if own:
            mine.__init__ = original  # type: ignore[misc]
        elif vars(mine).get("__init__") is __init__:
            del mine.__init__  # type: ignore[misc]
        _put(healthy, places)


def _project_modules() -> list[types.ModuleType]:
    return [m for name, m in list(sys.modules.items()) if m is not None and (name == "underhood" or name.startswith("underhood."))]


def _references(healthy: type, mine: type) -> list[tuple[types.ModuleType, str]]:
    """Where the project's modules hold ``healthy`` by name; the module that ``mine`` comes from keeps it, unless it is the healthy one's own home."""
    keeps = {mine.__module__} - {healthy.__module__}
    return [(m, name) for m in _project_modules() if m.__name__ not in keeps for name, value in list(vars(m).items()) if value is healthy]


def _put(thing: type, places: Sequence[tuple[types.ModuleType, str]]) -> None:
    for module, name in places:
        setattr(module, name, thing)


def _refuse_leftovers(bind: Bind, healthy: type, mine: type) -> None:
    for module in _project_modules():
        if module.__name__.endswith("fast") or module.__name__.startswith("underhood.kernels"):
            continue  # a fast twin builds on the healthy class, kernels know it and no other; who binds a part takes the plain path, and is told what ran
        for name, value in list(vars(module).items()):
            inherits = inspect.isclass(value) and value is not healthy and healthy in value.__mro__ and value is not mine
            if inherits or any(v is healthy for v in _held(value)):
                raise PatchError(f"{module.__name__}.{name} still holds the healthy class", where=bind.target, expected="a seam that is looked up by name")


def _held(value: Any) -> list[Any]:
    """What a module-level object keeps hold of: items, defaults of a function, attributes of a class and the defaults of its methods."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, types.FunctionType):
        return [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if inspect.isclass(value):
        members = list(vars(value).values())
        return members + [d for m in members if isinstance(m, types.FunctionType) for d in _held(m)]
    return []
