"""Plain text for a terminal of any width: no colour, no colour to switch off, nothing but JSON on stdout under ``--json``."""

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

GAP = "  "
MIN_TEXT = 20  # columns; below this, running text gets a line of its own


def width() -> int:
    """Columns of the terminal: ``COLUMNS`` where it is set, 80 where there is no terminal."""
    return max(shutil.get_terminal_size((80, 24)).columns, 20)


def note(text: str) -> None:
    """Print for the person and not for the program that reads our stdout."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print ``value`` as JSON on stdout; NaN and infinity are refused."""
    print(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False))


def paragraph(text: str, *, indent: str = "") -> str:
    """``text`` wrapped to the terminal; words longer than a line stay whole."""
    return textwrap.fill(text, width(), initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Rows in aligned columns, the last wrapped under itself, or under the row's first cells where the terminal leaves it too little room."""
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    margin = len(indent) + sum(w + len(GAP) for w in widths)
    cramped = width() - margin < MIN_TEXT
    lines = []
    for *cells, text in rows:
        head = indent + "".join(cell.ljust(w) + GAP for cell, w in zip(cells, widths, strict=True))
        if cramped:
            lines += [head.rstrip(), paragraph(text, indent=indent + GAP * 2)]
        else:
            lines.append(head + paragraph(text, indent=" " * margin).lstrip())
    return "\n".join(line.rstrip() for line in lines if line)
