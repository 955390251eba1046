"""Values of a failed check for a person: short ones whole, of long lists, arrays and texts the first place where found and expected differ."""

import math
from collections.abc import Iterator
from typing import Any

WHOLE = 240  # characters of a value that are shown whole
HEAD = 6  # items of a long list
AROUND = 40  # characters of a long text before and after the first difference
NEAR = 1e-6  # relative; numbers nearer than this are not what a check stopped at
Leaf = tuple[str, Any]  # "[3][17]" and what stands there


def shown(expected: Any, found: Any) -> tuple[str, str]:
    """The two as text. Where one is too long to be read, both are cut to the first difference, with its index and how many there are."""
    left, right = plain(expected), plain(found)
    if max(len(whole(left)), len(whole(right))) <= WHOLE:
        return whole(left), whole(right)
    if isinstance(left, str) and isinstance(right, str):
        return _texts(left, right)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return _lists(left, right)
    return cut(left), cut(right)


def cut(value: Any) -> str:
    """A value as text of at most about ``WHOLE`` characters: of a list its size and first items."""
    value = plain(value)
    if isinstance(value, dict):
        return ", ".join(f"{k} = {cut(v)}" for k, v in value.items()) if len(value) <= HEAD else f"{len(value)} entries, the first {cut(_first(value))}"
    if isinstance(value, (list, tuple)) and len(whole(value)) > WHOLE:
        leaves = [whole(v) for _, v in _leaves(value)]
        head = ", ".join(leaves[:HEAD])
        return f"{size(value)}, beginning {head if len(head) <= WHOLE else head[:WHOLE] + ' …'}, …"
    text = whole(value)
    return text if len(text) <= WHOLE else f"{text[:WHOLE]} … ({len(text):,} characters)"


def size(value: Any) -> str:
    """``32 × 64`` for a list of 32 lists of 64, ``12 items`` for a flat or a ragged one."""
    shape = _shape(value)
    return " × ".join(f"{n:,}" for n in shape) if len(shape) > 1 else f"{len(value):,} items"


def plain(value: Any) -> Any:
    """Tensors and arrays as nested lists, numbers of them to six digits."""
    if hasattr(value, "detach"):
        value = value.detach()
    if hasattr(value, "tolist"):
        return _rounded(value.tolist())
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(v) for v in value]
        return tuple(items) if type(value) is tuple else items
    return value


def whole(value: Any) -> str:
    """All of a plain value."""
    return ", ".join(f"{k} = {whole(v)}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _first(value: dict[Any, Any]) -> dict[Any, Any]:
    return dict([next(iter(value.items()))])


def _lists(left: Any, right: Any) -> tuple[str, str]:
    if _shape(left) != _shape(right):
        return f"{size(left)}{_beginning(left)}", f"{size(right)}{_beginning(right)}"
    pairs = list(zip(_leaves(left), _leaves(right), strict=False))
    apart = [(a, b) for a, b in pairs if not _near(a[1], b[1])] or [(a, b) for a, b in pairs if a[1] != b[1]]
    if not apart:
        return cut(left), cut(right)
    (place, a), (_, b) = apart[0]
    return f"{cut(a)} at {place}", f"{cut(b)} at {place}, and so in {len(apart):,} of {len(pairs):,} places ({size(left)})"


def _beginning(value: Any) -> str:
    head = ", ".join(whole(v) for _, v in [*_leaves(value)][:HEAD])
    return f", beginning {head[:WHOLE]}" if head else ""


def _texts(left: str, right: str) -> tuple[str, str]:
    at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    start = max(0, at - AROUND)

    def around(text: str) -> str:
        return ("…" if start else "") + repr(text[start : at + AROUND]) + ("…" if at + AROUND < len(text) else "")

    return f"{around(left)} at character {at:,}", f"{around(right)} at character {at:,}"


def _near(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= NEAR * max(abs(a), abs(b))
    return bool(a == b)


def _leaves(value: Any, place: str = "") -> Iterator[Leaf]:
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{place}[{i}]")
    else:
        yield place, value


def _shape(value: Any) -> tuple[int, ...]:
    """The sizes of nested lists as far as they are regular."""
    if not isinstance(value, (list, tuple)):
        return ()
    below = {_shape(v) for v in value}
    return (len(value), *(below.pop() if len(below) == 1 else ()))
