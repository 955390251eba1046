"""Break what you built: a copy of the learner's file is sabotaged by hand, recognised by its fingerprint, and run as the broken arm beside the original."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from underhood.base.files import write_atomic
from underhood.lab import baseline as baselines
from underhood.lab.experiment import Result, trial
from underhood.lab.patch import Edit, Patch, Set
from underhood.lab.run import ArmStore, Job, Listener, run_jobs
from underhood.lab.sabotage import Sabotage
from underhood.lab.wording import number
from underhood.projects.registry import Project
from underhood.workbench import fingerprint
from underhood.workbench.checking import check_file
from underhood.workbench.plug import binds

BROKEN = "broken"
SHOWN = 80  # characters of what was found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recognised:
    """What a sabotaged copy behaves like."""

    as_declared: bool
    says: str


def by_setting(sabotage: Sabotage) -> bool:
    """Whether the break needs no edit: it only sets something, and runs unchanged on a plugged part."""
    return all(isinstance(p, Set) for p in sabotage.patches)


def copy_of(file: Path) -> tuple[Path, bool]:
    """``my/broken/NAME.py``, made from ``file`` unless it is there already; whether it is new."""
    path = file.parent / BROKEN / file.name
    if path.exists():
        return path, False
    path.parent.mkdir(exist_ok=True)
    return write_atomic(path, file.read_text(encoding="utf-8")), True


def places(sabotage: Sabotage) -> list[str]:
    """The functions to sabotage, by the names that they have in the learner's file."""
    return [p.target.rpartition(":")[2] for p in sabotage.patches if isinstance(p, Edit)]


def recognise(project: Project, sabotage: Sabotage, file: Path) -> Recognised:
    """Compare the copy with the declared break: it shows the break when the same checks fail and agree, within tolerance, in what was found."""
    report = check_file(project, file, everything=True)
    if report.good:
        return Recognised(as_declared=False, says="Every check still holds: nothing is broken yet.")
    if unfinished := [o for o in report.outcomes if o.state not in ("holds", "wrong")]:
        return Recognised(as_declared=False, says=f"It cannot be compared: {'; '.join(f'{_plain(o.check.name)}: {o.state}, {o.says}' for o in unfinished)}.")
    mine, theirs = fingerprint.of_outcomes(report.outcomes), fingerprint.of_breaks(project.slug)[sabotage.name]
    if fingerprint.agree(mine, theirs):
        return Recognised(as_declared=True, says=f"It behaves exactly like {sabotage.name}.")
    if report.matches:
        return Recognised(as_declared=False, says=f"It behaves like {' or '.join(report.matches)}, not like {sabotage.name}.")
    return Recognised(as_declared=False, says=f"It is broken in a way that is not one we know, and differs from {sabotage.name}: {_differs(mine, theirs)}.")


def _differs(mine: fingerprint.Fingerprint, theirs: fingerprint.Fingerprint) -> str:
    """In which respects: checks that only one of them fails, and figures that are not the same."""
    wrong = {name for name, mark in mine.items() if mark is not None}
    declared = {name for name, mark in theirs.items() if mark is not None}
    parts = []
    if held := declared - wrong:
        parts.append(f"{_listed(held)} should fail too and {_verb(held, 'holds', 'hold')} (does what you changed stand in your file a second time?)")
    if more := wrong - declared:
        parts.append(f"{_listed(more)} {_verb(more, 'fails', 'fail')} and should hold")
    if parts:
        return "; ".join(parts)
    first, *others = [name for name in mine if not fingerprint.same(mine[name], theirs[name])]
    return _at(first, mine[first], theirs[first]) + (f" (and so {_verb(set(others), 'does', 'do')} {_listed(set(others))})" if others else "")


def _at(name: str, mine: fingerprint.Mark | None, theirs: fingerprint.Mark | None) -> str:
    """How two failures of one check differ."""
    assert mine is not None
    assert theirs is not None
    if mine.says != theirs.says:
        return f"{_plain(name)} fails at «{mine.says}», where the break fails at «{theirs.says}»"
    if len(mine.found) != len(theirs.found):
        return f"{_plain(name)} finds something of another size"
    pairs = zip(mine.found, theirs.found, strict=True)
    a, b = next(pair for pair in pairs if not fingerprint.near(*pair))
    return f"{_plain(name)} finds {_shown(a)}, where the break gives {_shown(b)}"


def _shown(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)[:SHOWN]


def _listed(names: set[str]) -> str:
    return ", ".join(_plain(name) for name in sorted(names))


def _verb(names: set[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def _plain(name: str) -> str:
    return name.replace("_", " ")


def run_mine(
    project: Project,
    sabotage: Sabotage,
    healthy: Path,
    broken: Path | None,
    seeds: Sequence[int],
    folder: Path,
    *,
    workers: int = 0,
    listen: Listener | None = None,
) -> Result:
    """The declared experiment with the learner's part as healthy arm and their sabotage (or the setting) as broken arm."""
    baseline = baselines.get(sabotage.baseline)
    good: tuple[Patch, ...] = binds(project, healthy)
    bad: tuple[Patch, ...] = (*good, *sabotage.patches) if broken is None else binds(project, broken)
    name = f"{project.slug}.{sabotage.name}"
    first = Job(label="healthy", baseline=baseline, patches=good, seeds=tuple(seeds))
    second = Job(label=name, baseline=baseline, patches=bad, seeds=tuple(seeds))
    store = ArmStore(folder / "arms.jsonl")
    store.arms.clear()  # the files may have changed under their names
    arms = run_jobs([first, second], store, workers=workers, listen=listen)
    return Result(name=name, sabotage=sabotage, trial=trial(arms, first, second, sabotage.expect))
