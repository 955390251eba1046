"""A learner's part in the real stack: bound behind its checks, run beside the reference with the same seed."""

import ast
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from underhood.base.errors import UserError
from underhood.lab import baseline as baselines
from underhood.lab.patch import Bind
from underhood.lab.run import Arm, ArmStore, Job, Listener, run_jobs
from underhood.projects.registry import Project, find_project
from underhood.workbench import course
from underhood.workbench.checking import Report, check_file, note
from underhood.workbench.hollow import name_of_seam
from underhood.workbench.judge import Unusable

ROUNDS = 3  # of both runs, in turn: what else the machine does is in both times
START_TOLERANCE = 1e-4  # relative, of the first loss: more than another order of adding up gives
LONGER, SPARE = 12, 60.0  # a run may take so many times what it states, and so many seconds more


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plugged:
    """The reference's arm and the learner's, the seams that the run really used and those that it did not reach, and both times of every round."""

    baseline: baselines.Baseline
    reference: Arm
    mine: Arm
    used: tuple[str, ...]
    unused: tuple[str, ...] = ()
    times: tuple[tuple[float, float], ...] = ()

    @property
    def ratios(self) -> tuple[float, ...]:
        """The learner's time over the reference's, a round each, smallest first."""
        return tuple(sorted(mine / max(reference, 1e-9) for reference, mine in self.times))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of both runs; ``agrees`` is whether they differ by less than what the baseline finds of interest, None for time and memory."""

    says: str
    reference: float | bool
    mine: float | bool
    smallest: float = 0.0
    agrees: bool | None = None


def arena(project: Project) -> baselines.Baseline:
    """The healthy run that a project's part is plugged into. Raises ``UserError`` when it has none yet."""
    if not project.arena:
        raise UserError("this project has no run to plug into yet", where=project.slug)
    return baselines.get(project.arena)


def patience(baseline: baselines.Baseline) -> float:
    """After how many seconds a run is stopped."""
    return LONGER * baseline.seconds + SPARE


def binds(project: Project, file: Path, names: Sequence[str] | None = None) -> tuple[Bind, ...]:
    """What puts the seams that ``file`` writes into our stack: one ``Bind`` each."""
    text = file.read_text(encoding="utf-8")
    wanted = [s for s in project.seams if names is None or name_of_seam(s) in names]
    return tuple(Bind(seam, f"{file}:{name_of_seam(seam)}") for seam in wanted if _defines(text, name_of_seam(seam)))


def _defines(text: str, name: str) -> bool:
    return any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name for node in ast.parse(text).body)


def require_good(project: Project, file: Path) -> Report:
    """The report of a file whose checks all hold. Raises ``UserError`` when one does not, or the file cannot be run."""
    remedy = f"See: underhood check {project.slug}" + ("" if _is_mine(project, file) else f" --file {file}")
    try:
        report = check_file(project, file)
    except Unusable as error:
        raise UserError(f"the file cannot be run: {error}", where=f"{file}, line {error.line}" if error.line else str(file), remedy=remedy) from error
    note(report)
    if not report.good:
        step = report.next_step
        where = f"; next: {step.title.split(' · ', 1)[1]} (step {step.number})" if step else ""
        raise UserError(f"{report.held} of {report.total} checks hold{where}", where=str(file), remedy=remedy)
    return report


def _is_mine(project: Project, file: Path) -> bool:
    folder = course.find_course()
    return folder is not None and course.mine(folder, project.slug) == file.resolve()


def plug(project: Project, file: Path, folder: Path, *, seed: int = 0, listen: Listener | None = None) -> Plugged:
    """Run the project's arena with ``seed``, healthy and with the learner's part bound, in turn, ``ROUNDS`` times. The checks must hold first."""
    require_good(project, file)
    baseline, patches = arena(project), binds(project, file)
    jobs = [Job(label="healthy", baseline=baseline, seeds=(seed,)), Job(label="mine", baseline=baseline, patches=patches, seeds=(seed,))]
    pairs: list[tuple[Arm, Arm]] = []
    for _ in range(ROUNDS):
        store = ArmStore(folder / "arms.jsonl")
        store.arms.clear()  # a learner's file may have changed under its name, and a time of another hour is none to compare with
        arms = run_jobs(jobs, store, listen=listen, workers=1, timeout_s=patience(baseline))
        healthy, mine = (next(a for a in arms if a.label == label) for label in ("healthy", "mine"))
        pairs.append((healthy, mine))
        if mine.how != "done":
            break
    healthy, mine = pairs[-1]
    names = {name_of_seam(p.target): p.target not in mine.unreached for p in patches}
    return Plugged(
        baseline=baseline,
        reference=healthy,
        mine=mine,
        used=tuple(name for name, ran in names.items() if ran),
        unused=tuple(name for name, ran in names.items() if not ran),
        times=tuple((a.seconds, b.seconds) for a, b in pairs),
    )


def named_parts(given: Sequence[str]) -> dict[str, Path]:
    """``["attention=my/attention.py"]`` as project → file. Raises ``UserError`` for another form, a missing file, and one whose checks do not hold."""
    found = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or not file:
            raise UserError(f"found {text!r}", where="--with", expected="PROJECT=FILE, as in attention=my/attention.py")
        path = Path(file)
        if not path.is_file():
            raise UserError("no such file", where=file)
        found[find_project(name).slug] = path.resolve()
    for slug, path in found.items():
        require_good(find_project(slug), path)
    return found


def all_binds(parts: Mapping[str, Path]) -> tuple[Bind, ...]:
    """The binds of several parts together."""
    return tuple(bind for slug, file in parts.items() for bind in binds(find_project(slug), file))


def figures(plugged: Plugged) -> list[Row]:
    """Every figure that both arms have, those of the start first, then time and memory."""
    rows = []
    for name, metric in sorted(plugged.baseline.metrics.items(), key=lambda m: not m[0].startswith("first_")):
        if name in plugged.reference.figures and name in plugged.mine.figures:
            a, b = plugged.reference.figures[name], plugged.mine.figures[name]
            near = max(metric.smallest, metric.tolerance * abs(a))
            rows.append(Row(says=metric.says, reference=a, mine=b, smallest=near, agrees=a == b if isinstance(a, bool) else abs(a - b) <= near))
    seconds = [statistics.median(times) for times in zip(*plugged.times, strict=True)]
    rows.append(Row(says=f"seconds a run, without its start (median of {len(plugged.times)})", reference=seconds[0], mine=seconds[1]))
    if (tokens := tokens_of(plugged.baseline.config)) is not None:
        speeds = [tokens / max(s, 1e-9) for s in seconds]
        rows.append(Row(says="trained tokens a second, of the whole run", reference=speeds[0], mine=speeds[1]))
    return [*rows, Row(says="peak memory of the process (MB)", reference=plugged.reference.peak_mb, mine=plugged.mine.peak_mb)]


def starts(plugged: Plugged) -> tuple[float, float] | None:
    """The first loss of both curves, where they have one and it differs by more than rounding."""
    first = [next((v for point in arm.curve[:1] for k, v in point.items() if "loss" in k), None) for arm in (plugged.reference, plugged.mine)]
    if first[0] is None or first[1] is None or math.isclose(first[0], first[1], rel_tol=START_TOLERANCE):
        return None
    return first[0], first[1]


def tokens_of(config: Any) -> int | None:
    """How many tokens a run of this config trains on, where it says so."""
    try:
        return int(config.train.steps * config.batch_size * config.model.context)
    except AttributeError:
        return None
