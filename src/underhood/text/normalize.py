"""What a tokenizer does to text before it cuts it: nothing for most, NFC for Qwen, and ``▁`` for each space in the sentencepiece families."""

import functools
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import regex  # type: ignore[import-untyped]

from underhood.base.errors import TokenizerError
from underhood.text.fields import OBJECT, TEXT, Kinds, read_components, read_pattern

KINDS: Kinds = {"NFC": {}, "Prepend": {"prepend": TEXT}, "Replace": {"pattern": OBJECT, "content": TEXT}}
GROWTH = 32  # no normalizer in use makes more than a few characters of one
LONG_RUN = regex.compile(r"[[\P{ccc=0}]\u0F73\u0F75\u0F81]{32,}", regex.VERSION1)
Step = Callable[[str], str]


def read_normalizer(stage: Any, where: str) -> Step | None:
    """The function that a ``normalizer`` stands for, or None where it changes nothing. Raises ``TokenizerError`` naming what is not supported."""
    steps: list[Step] = []
    for here, kind, fields in read_components(stage, where, "normalizers", KINDS):
        if kind == "NFC":
            steps.append(nfc)
        elif kind == "Prepend":
            steps.append(functools.partial(_prepend, fields["prepend"]))
        else:
            steps.append(functools.partial(_replace, read_pattern(fields["pattern"], f"{here}.pattern", "String"), fields["content"]))
    return functools.partial(_in_turn, steps) if steps else None


def nfc(text: str) -> str:
    """``text`` in Unicode's normal form C: letters and marks composed where a composed character exists.

    subtle: Python sorts the marks of one letter by insertion, so a run of marks in the wrong order takes time quadratic in its length. Long runs
    are taken apart and sorted here first, which is the same order: it is defined as a stable sort by combining class.
    """
    return unicodedata.normalize("NFC", LONG_RUN.sub(_sorted_marks, text))


def _sorted_marks(run: "regex.Match[str]") -> str:
    marks = "".join(unicodedata.normalize("NFD", mark) for mark in run.group())
    return "".join(sorted(marks, key=unicodedata.combining))


def _prepend(prefix: str, text: str) -> str:
    return prefix + text if text else text


def _replace(old: str, new: str, text: str) -> str:
    _require_room(text.count(old) * len(new), text)
    return text.replace(old, new)


def _in_turn(steps: Sequence[Step], text: str) -> str:
    original = text
    for step in steps:
        text = step(text)
        _require_room(len(text), original)
    return text


def _require_room(length: int, text: str) -> None:
    """A few replacements, each many times as long as what it replaces, could fill any memory."""
    if length > GROWTH * len(text) + 4096:
        raise TokenizerError(f"makes {length} characters of {len(text)}", where="normalizer", expected=f"at most {GROWTH} times as many")
