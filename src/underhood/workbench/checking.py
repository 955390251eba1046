"""A learner's file put through its project's checks, step by step, and what is noted of it."""

import dataclasses
import datetime
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from underhood.lab.check import Check
from underhood.projects.registry import Project
from underhood.workbench import course, fingerprint
from underhood.workbench.judge import Outcome, Player, run_one
from underhood.workbench.starter import changed_since
from underhood.workbench.steps import plain_step, step_titles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the build and what became of its checks; ``number`` counts from 1."""

    number: int
    title: str
    outcomes: tuple[Outcome, ...]

    @property
    def open(self) -> bool:
        """Whether something in it does not hold yet."""
        return any(o.state != "holds" for o in self.outcomes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of a learner's file. ``steps`` ends with the first open one, unless all were asked for."""

    project: Project
    file: Path
    steps: tuple[Step, ...]
    total: int  # checks of the project
    strength: str  # "kernel" or "guard": how the learner's process is held
    changed: tuple[str, ...]  # seams whose contract is newer than the file
    matches: tuple[str, ...]  # breaks that behave exactly like it
    again: int | None = None  # the seed of the second round, when everything held in the first

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """All checks that were run."""
        return tuple(o for s in self.steps for o in s.outcomes)

    @property
    def held(self) -> int:
        """How many checks hold."""
        return sum(o.state == "holds" for o in self.outcomes)

    @property
    def good(self) -> bool:
        """Whether every check of the project holds."""
        return self.held == self.total

    @property
    def next(self) -> Outcome | None:
        """The first check that does not hold."""
        return next((o for o in self.outcomes if o.state != "holds"), None)

    @property
    def next_step(self) -> Step | None:
        """The step that it belongs to."""
        return next((s for s in self.steps if s.open), None)


def check_file(project: Project, file: Path, *, everything: bool = False, listen: Callable[[Outcome], None] | None = None) -> Report:
    """Run the checks of ``project`` on ``file``, in order; stop after the first open step unless ``everything`` is asked for.

    When all hold on the fixed inputs they are run once more on inputs of a fresh seed. Raises ``Unusable`` when the file cannot be run.
    """
    steps: list[Step] = []
    with Player(project, file) as player:
        for step in _steps(project, player, 0, listen):
            steps.append(step)
            if step.open and not everything:
                break
        again = None
        total = len(project.checks())
        if sum(o.state == "holds" for s in steps for o in s.outcomes) == total:
            again = secrets.randbelow(2**31)
            steps = list(_steps(project, player, again, None))
        outcomes = [o for s in steps for o in s.outcomes]
        wrong = again is None and next((o.state for o in outcomes if o.state != "holds"), "") == "wrong"  # what is not written yet is nobody's fault
        return Report(
            project=project,
            file=file,
            steps=tuple(steps),
            total=total,
            strength=player.strength,
            changed=tuple(changed_since(project, player.text)),
            matches=tuple(fingerprint.matches(fingerprint.of_outcomes(outcomes), project.slug)) if wrong else (),
            again=again,
        )


def _steps(project: Project, player: Player, seed: int, listen: Callable[[Outcome], None] | None) -> Iterator[Step]:
    for number, title in enumerate(step_titles(project), 1):
        outcomes = []
        for check in _of_step(project, title):
            outcome = run_one(player, check, seed=seed)
            outcomes.append(outcome)
            if listen:
                listen(outcome)
        yield Step(number=number, title=title, outcomes=tuple(outcomes))


def _of_step(project: Project, title: str) -> list[Check]:
    return [c for c in project.checks() if plain_step(c) == title.split(" · ", 1)[1]]


def note(report: Report) -> course.State:
    """Write what a check found into the course's ``progress.toml``, and return what is known of the project now; nothing for a file that is not the course's.

    Hints are counted anew when another check is open, or when it fails in another way.
    """
    folder = course.find_course(report.file.parent)
    slug = report.project.slug
    if folder is None or report.file.resolve() != course.mine(folder, slug).resolve():
        return {}
    now: course.State = {"held": report.held, "of": report.total, "file": digest(report.file)}
    if report.next is not None:
        now |= {"open": report.next.check.name, "failure": failure(report.next), "matches": list(report.matches)}

    def change(state: course.State) -> None:
        before = state["checks"].get(slug, {})
        if report.next is not None:
            now["hints"] = before.get("hints", 0) if all(before.get(k) == now[k] for k in ("open", "failure")) else 0
        state["checks"][slug] = now
        if report.good:
            state["projects"].setdefault(slug, datetime.datetime.now().astimezone().date())

    course.update(folder, change)
    return now


def failure(outcome: Outcome) -> str:
    """What tells one failure of a check from another: its kind, the assertion, an exception's type, and the learner's line that raised it."""
    raised = fingerprint.EXCEPTION.match(str(outcome.found)) if outcome.place else None
    line = outcome.place.partition(": ")[2]  # the line's text: its number changes with every line above it
    words = [outcome.state, outcome.says if outcome.state == "wrong" else "", raised[1] if raised else "", line]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]


def digest(file: Path) -> str:
    """Tells whether a file has changed since it was checked."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
