"""Special tokens: ids that stand for no text, such as the end of a document, and that text itself must not be able to produce.

A user who types ``<|endoftext|>`` has typed thirteen characters. They become the control id only where the caller allows it by name:
otherwise whoever writes a message could end the document, or open one in the system's name (transformers issues 29279, 47822).
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from underhood.base.errors import ConfigError, UnknownName

END_OF_TEXT = "<|endoftext|>"


def split_special(text: str, special: Mapping[str, int], allowed: Iterable[str]) -> list[str | int]:
    """``text`` cut at the ``allowed`` special tokens: pieces of plain text, and ids where one stood.

    ``special`` maps each special token to its id. The longest wins where two start at the same place. Raises ``UnknownName`` for an allowed
    name that is no special token.
    """
    names = sorted(set(allowed), key=len, reverse=True)
    for name in names:
        if name not in special:
            raise UnknownName("special token", name, special)
    if not names:
        return [text] if text else []
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", text)
    return [special[piece] if k % 2 else piece for k, piece in enumerate(pieces) if piece]


def number_special(special: Mapping[str, int] | Sequence[str], first: int) -> dict[str, int]:
    """Special tokens with their ids: those given, or ``first``, ``first + 1`` … in order. Raises ``ConfigError`` for a name or an id that is taken."""
    names = [special] if isinstance(special, str) else list(special)
    numbered = dict(special) if isinstance(special, Mapping) else {name: first + k for k, name in enumerate(names)}
    if "" in numbered:
        raise ConfigError("a special token is the empty string", where="special")
    if len(numbered) != len(names) or len(set(numbered.values())) != len(numbered):
        raise ConfigError(f"a special token or its id stands twice: {names}", where="special")
    taken = [name for name, number in numbered.items() if number < first]
    if taken:
        raise ConfigError(f"{taken[0]!r} has the id {numbered[taken[0]]} of an ordinary token", where="special", expected=f"ids from {first} on")
    return numbered
