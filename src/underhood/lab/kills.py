"""The kill matrix: which checks fail under which break of code. No row and no column may be empty."""

import dataclasses
import random
from collections.abc import Callable, Sequence

from underhood.base.rng import stream_seed
from underhood.lab.check import Check, CheckFailed, Part
from underhood.lab.patch import applied
from underhood.lab.sabotage import Sabotage


@dataclasses.dataclass(frozen=True)
class KillMatrix:
    """Rows are breaks of code, columns are checks; ``kills[break][check]`` is the message of the failed assertion."""

    project: str
    checks: tuple[str, ...]
    kills: dict[str, dict[str, str]]

    @property
    def empty_rows(self) -> list[str]:
        """Breaks that no check sees."""
        return [name for name, row in self.kills.items() if not row]

    @property
    def empty_columns(self) -> list[str]:
        """Checks that no break fails."""
        return [check for check in self.checks if not any(check in row for row in self.kills.values())]


def run_check(check: Check, part: Part) -> str | None:
    """None when ``check`` holds for ``part``, else the message of its assertion; any other exception is the check's own fault and passes through."""
    try:
        check.run(part, random.Random(stream_seed(0, f"check/{check.name}")))
    except CheckFailed as failure:
        return str(failure)
    return None


def kill_matrix(project: str, checks: Sequence[Check], breaks: Sequence[Sabotage], part_now: Callable[[], Part]) -> KillMatrix:
    """Run every check under every break of code. ``part_now`` gives the seams as they are under the patch that is applied."""
    kills: dict[str, dict[str, str]] = {}
    for sabotage in breaks:
        if sabotage.kind == "part":
            with applied(sabotage.patches):
                messages = {check.name: run_check(check, part_now()) for check in checks}
            kills[sabotage.name] = {name: text for name, text in messages.items() if text is not None}
    return KillMatrix(project, tuple(c.name for c in checks), kills)
