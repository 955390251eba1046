"""Typed errors: every failure a person can cause names the place, what was found, what was expected and the remedy.

The command line prints the message alone (a traceback only with ``--debug``) and exits with ``exit_code``:
2 for a mistake of the user's, 1 for ours, 130 for an interruption.
"""

import difflib
from collections.abc import Iterable


class UnderhoodError(Exception):
    """The root of all our errors; raised directly it means a fault of ours."""

    exit_code = 1


class UserError(UnderhoodError, ValueError):
    """Something that a person wrote, gave or chose cannot be used."""

    exit_code = 2

    def __init__(self, problem: str, *, where: str = "", expected: str = "", remedy: str = "") -> None:
        self.problem, self.where, self.expected, self.remedy = problem, where, expected, remedy
        text = f"{where}: {problem}" if where else problem
        text += f"; expected {expected}" if expected else ""
        super().__init__(f"{text}. {remedy}" if remedy else text)


class ConfigError(UserError):
    """A configuration contradicts itself or holds a value of the wrong type or range."""


class UnknownName(UserError):
    """A name that is not among those known; the message gives the nearest one."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        self.name, self.known = name, sorted(known)
        near = nearest(name, self.known)
        remedy = f"Did you mean {near!r}?" if near else f"Known: {', '.join(self.known) or 'none'}."
        super().__init__(f"unknown {kind} {name!r}", where=where, remedy=remedy)


class DataError(UserError):
    """A text or data file is missing, empty, damaged or too small for what is asked of it."""


class VocabularyTooLarge(DataError):
    """A text gives fewer tokens than were asked for; ``largest`` is how many it gives."""

    def __init__(self, wanted: int, largest: int) -> None:
        self.largest = largest
        problem = f"the text allows {largest} tokens and {wanted} were asked for: every word is a single token by then"
        super().__init__(problem, where="vocab_size", remedy=f"Give more text, or a vocabulary of at most {largest}.")


class TokenizerError(UserError):
    """A tokenizer file is damaged, or an id or token lies outside its vocabulary."""


class CheckpointError(UserError):
    """A checkpoint is damaged, incomplete, of another configuration, or not in a format that is read."""


class FileSystemError(UserError):
    """The disk is full, or a place cannot be written."""


class NetworkError(UserError):
    """Something has to be fetched and there is no network."""


class PatchError(UserError):
    """A patch matches nothing, matches more than once, changes nothing, or overlaps another."""


class NotReached(PatchError):
    """An experiment ended without ever running the code that it was to sabotage."""


class ShapeError(UserError):
    """Tensors whose shapes do not fit together, or a length outside what the model can take."""


class NonFinite(UnderhoodError, ArithmeticError):
    """A NaN or an infinity was born; ``module`` names the first place that made one from finite inputs."""

    def __init__(self, what: str, *, step: int | None = None, module: str = "") -> None:
        self.what, self.step, self.module = what, step, module
        place = f" at step {step}" if step is not None else ""
        source = f"; first born in {module}" if module else ""
        super().__init__(f"{what} is not finite{place}{source}")


class NotWritten(UnderhoodError, NotImplementedError):
    """A learner's part whose body is still to be written."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, or None when nothing is near."""
    folded = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.55)
    return folded[found[0]] if found else None
