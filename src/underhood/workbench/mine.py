"""Break what you built: a copy of the learner's file is sabotaged by hand, recognised by its fingerprint, and run as the broken arm beside the original."""

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

from underhood.base.errors import DataError, NotReached
from underhood.base.files import named_os_errors, write_atomic
from underhood.lab import baseline as baselines
from underhood.lab.experiment import Result, trial
from underhood.lab.patch import Bind, Edit, Patch, Set
from underhood.lab.run import ArmStore, Job, Listener, run_jobs
from underhood.lab.sabotage import Sabotage
from underhood.lab.wording import number
from underhood.projects.registry import Project
from underhood.workbench import course, fingerprint
from underhood.workbench.checking import check_file, digest
from underhood.workbench.hollow import name_of_seam
from underhood.workbench.judge import Outcome, Unusable
from underhood.workbench.plug import binds
from underhood.workbench.steps import parts_used

BROKEN = "broken"
SHOWN = 80  # characters of what was found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recognised:
    """What a sabotaged copy behaves like."""

    as_declared: bool
    says: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copy:
    """The copy to sabotage: whether it was made just now, when it last changed, for which break it was made ("" where that is not known), whether the
    original has changed since."""

    path: Path
    new: bool
    changed: datetime.datetime
    made_for: str
    older: bool


def by_setting(sabotage: Sabotage) -> bool:
    """Whether the break needs no edit: it only sets something, and runs unchanged on a plugged part."""
    return all(isinstance(p, Set) for p in sabotage.patches)


def copy_of(file: Path, name: str) -> Copy:
    """``my/broken/FILE``, made from ``file`` for the break ``name`` unless it is there already. A course's ``progress.toml`` notes what it was made from."""
    path, folder = file.parent / BROKEN / file.name, course.find_course(file.parent)
    new = not path.exists()
    if new:
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, file.read_text(encoding="utf-8"))
        if folder is not None:
            course.update(folder, lambda state: state.setdefault("copies", {}).update({file.stem: {"of": digest(file), "for": name}}))
    noted = course.read_state(folder).get("copies", {}).get(file.stem, {}) if folder is not None else {}
    written = path.stat().st_mtime
    older = noted["of"] != digest(file) if noted else written < file.stat().st_mtime
    changed = datetime.datetime.fromtimestamp(written).astimezone()
    return Copy(path=path, new=new, changed=changed, made_for=noted.get("for", ""), older=older and not new)


def begin_afresh(file: Path, name: str) -> Copy:
    """A new copy; the old one is kept beside it, dated."""
    path = file.parent / BROKEN / file.name
    stamp = datetime.datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    with named_os_errors(path):
        path.rename(path.with_name(f"{path.stem}-{stamp}.py"))
    return copy_of(file, name)


def places(sabotage: Sabotage) -> list[str]:
    """The functions to sabotage, by the names that they have in the learner's file."""
    return [p.target.rpartition(":")[2] for p in sabotage.patches if isinstance(p, Edit)]


def recognise(project: Project, sabotage: Sabotage, file: Path) -> Recognised:
    """Compare the copy with the declared break, check by check, within tolerance in what was found.

    The checks that use the broken seam decide: they must do as under the break. Of the others none may fail that should hold; one that should
    fail may hold, or fail otherwise, for a learner's other seams need not go through the broken one. That is said.
    """
    try:
        report = check_file(project, file, everything=True)
    except Unusable as error:
        return Recognised(as_declared=False, says=f"{error.of(file)}.")
    except DataError as error:
        return Recognised(as_declared=False, says=f"{error}.")
    if report.good:
        return Recognised(as_declared=False, says="Every check still holds: nothing is broken yet.")
    if unfinished := [o for o in report.outcomes if o.state not in ("holds", "wrong")]:
        return Recognised(as_declared=False, says=_incomparable(unfinished))
    mine, theirs = fingerprint.of_outcomes(report.outcomes), fingerprint.of_break(project.slug, sabotage.name)
    if fingerprint.agree(mine, theirs):
        return Recognised(as_declared=True, says=f"It behaves exactly like {sabotage.name}.")
    if report.matches:
        return Recognised(as_declared=False, says=f"It behaves like {' or '.join(report.matches)}, not like {sabotage.name}.")
    apart = [name for name in mine if not fingerprint.same(mine[name], theirs[name])]
    own = _own_checks(project, sabotage, theirs)
    strays = [name for name in apart if name in own or theirs[name] is None]
    if not strays:
        return Recognised(as_declared=True, says=_elsewhere(sabotage, project, apart, mine))
    if raised := [o for o in report.outcomes if o.check.name in strays and o.place and fingerprint.EXCEPTION.match(str(o.found))]:
        return Recognised(as_declared=False, says=_raised(raised))
    differs = _differs({n: mine[n] for n in strays}, {n: theirs[n] for n in strays})
    return Recognised(as_declared=False, says=f"It is broken in a way that is not one we know, and differs from {sabotage.name}: {differs}.")


def broken_seams(project: Project, sabotage: Sabotage) -> list[str]:
    """The seams that the break edits, as ``"module:name"``: of a method its class."""
    targets = [p.target.partition(":") for p in sabotage.patches if isinstance(p, Edit)]
    edited = {f"{module}:{name.partition('.')[0]}" for module, _, name in targets}
    return [seam for seam in project.seams if seam in edited]


def _own_checks(project: Project, sabotage: Sabotage, theirs: fingerprint.Fingerprint) -> set[str]:
    """The checks that use a broken seam; all of them where none of those fails, as when a helper is broken."""
    seams = {name_of_seam(seam) for seam in broken_seams(project, sabotage)}
    own = {check.name for check in project.checks() if seams & set(parts_used(check))}
    return own if any(theirs[name] is not None for name in own) else set(theirs)


def _elsewhere(sabotage: Sabotage, project: Project, apart: Sequence[str], mine: fingerprint.Fingerprint) -> str:
    """What else differs in a copy that shows the break where the break is."""
    where = ", ".join(name_of_seam(seam) for seam in broken_seams(project, sabotage))
    held, other = ([n for n in apart if (mine[n] is None) is holds] for holds in (True, False))
    lines = [f"In {where} it behaves exactly like {sabotage.name}."]
    if held:
        lines.append(f"{_listed(held).capitalize()} {_verb(held, 'holds', 'hold')} all the same: your file does not go through {where} there.")
    if other:
        lines.append(f"{_listed(other).capitalize()} {_verb(other, 'fails', 'fail')} in another way than with us.")
    return " ".join(lines)


def _incomparable(unfinished: Sequence[Outcome]) -> str:
    """Which check could not be run, and how many more."""
    first, more = unfinished[0], len(unfinished) - 1
    why = str(first.found or first.says) if first.state == "not written" else first.says
    also = f", and {more} more {'check' if more == 1 else 'checks'}" if more else ""
    return f"It cannot be compared: {_plain(first.check.name)} is {first.state} ({why.removeprefix('NotWritten: ')}){also}."


def _raised(outcomes: Sequence[Outcome]) -> str:
    """The error that a copy stops with, and where."""
    first, more = outcomes[0], len(outcomes) - 1
    also = f" (and so in {more} more)" if more else ""
    return f"It does not run: {_plain(first.check.name)} ends with {first.found} at {first.place}{also}."


def _differs(mine: fingerprint.Fingerprint, theirs: fingerprint.Fingerprint) -> str:
    """In which respects, of checks that differ: those that only one of them fails, else what was found."""
    parts = []
    if held := [name for name in mine if mine[name] is None]:
        parts.append(f"{_listed(held)} should fail too and {_verb(held, 'holds', 'hold')} (does what you changed stand in your file a second time?)")
    if more := [name for name in mine if theirs[name] is None]:
        parts.append(f"{_listed(more)} {_verb(more, 'fails', 'fail')} and should hold")
    if parts:
        return "; ".join(parts)
    first, *others = mine
    return _at(first, mine[first], theirs[first]) + (f" (and so {_verb(others, 'does', 'do')} {_listed(others)})" if others else "")


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


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_plain(name) for name in names)


def _verb(names: Sequence[str], one: str, many: str) -> str:
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
    edited = set(broken_seams(project, sabotage)) & {p.target for p in bad if isinstance(p, Bind)}
    if broken is not None and edited and all(edited <= set(a.unreached) for a in arms if a.label == name):
        raise NotReached("this run never calls what you sabotaged, so nothing was tested", where=", ".join(sorted(map(name_of_seam, edited))))
    return Result(name=name, sabotage=sabotage, trial=trial(arms, first, second, sabotage.expect))
