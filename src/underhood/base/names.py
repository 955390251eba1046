"""Names of code as plain data: ``"package.module:Qual.name"`` to the object and back."""

import importlib
import inspect
from typing import Any

from underhood.base.errors import UnknownName, UserError


def load(ref: str) -> Any:
    """The object that ``ref`` (``"module:qualname"``) names. Raises ``UnknownName`` with the nearest public name."""
    module_name, _, qualname = ref.partition(":")
    if not qualname:
        raise UserError(f"{ref!r} names no object", expected="module:qualname")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"no module {error.name!r}", where=ref) from error
    for name in qualname.split("."):
        if not hasattr(found, name):
            raise UnknownName("name", name, [n for n in dir(found) if not n.startswith("_")], where=ref)
        found = inspect.getattr_static(found, name) if inspect.isclass(found) else getattr(found, name)
    return found


def name_of(thing: Any) -> str:
    """``"module:qualname"`` of a function or class."""
    return f"{thing.__module__}:{thing.__qualname__}"
