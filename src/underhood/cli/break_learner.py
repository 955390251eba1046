"""The learner's ways to break: predict first (``--predict``), and sabotage what one has built (``--mine``)."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from underhood.cli.console import note, paragraph

if TYPE_CHECKING:
    from underhood.lab.sabotage import Sabotage
    from underhood.projects.registry import Project

POLL_SECONDS = 0.5


def ask(text: str) -> str:
    """One typed line; "" where nobody types."""
    print(text, end=" ", flush=True)
    line = sys.stdin.readline()
    if not sys.stdin.isatty():
        print(line.rstrip())
    return line.strip()


def predict(target: str, seeds: int, records: Path) -> None:
    """Show the healthy value, floor and ceiling, ask, then show what was measured."""
    from underhood.cli.break_ import RUNS, measure
    from underhood.lab import record as ledger
    from underhood.lab.table import print_results
    from underhood.workbench import predict as asking

    project, sabotage = _one(target)
    name = f"{project.slug}.{sabotage.name}"
    stored = _stored(name, sabotage, records)
    if stored is None:
        note("There is no record of it that still counts, so it is measured first; the result is shown after your prediction.")
        stored = ledger.to_plain(measure([(name, sabotage)], range(seeds), store=RUNS, claims=False, again=f"underhood break {target} --predict")[0])
    asked = asking.question(stored)
    _show(project, sabotage, asked)
    guess = _guess(asking)
    found = asking.truth(asked, stored)
    print()
    print_results([stored])
    print(
        paragraph(f"Measured: {found}." + (f" You said {guess.direction}: {'right' if asking.right(guess, found) else 'not so'}." if guess.direction else ""))
    )
    print(paragraph(f"To be seen: {sabotage.look}"))
    score = _score(project.slug, sabotage.name, asking.right(guess, found) if guess.direction else None)
    if score:
        print(paragraph(score))
    _keep(asking.entry(asked, guess, found, ask("What surprised you?")))


def _one(target: str) -> "tuple[Project, Sabotage]":
    """The break that ``target`` names; of a project the first that nobody has predicted yet here."""
    from underhood.projects.registry import find_break, find_project
    from underhood.workbench import course

    if "." in target:
        return find_break(target)
    project = find_project(target)
    folder = course.find_course()
    asked = course.read_state(folder)["predictions"].get("breaks", []) if folder else []
    breaks = project.breaks()
    return project, next((b for b in breaks if f"{project.slug}.{b.name}" not in asked), breaks[0])


def _stored(name: str, sabotage: "Sabotage", records: Path) -> dict[str, Any] | None:
    """The committed record, when it still counts; that of the checkout where the working folder has none."""
    from underhood.base.files import read_json
    from underhood.lab import record
    from underhood.workbench.macros import records_folder

    for folder in (records, records_folder()):
        if folder.is_dir() and record.standing(name, sabotage, folder).state in ("fresh", "moved"):
            found: dict[str, Any] = read_json(record.path_of(folder, name))
            return found
    return None


def _show(project: "Project", sabotage: "Sabotage", asked: Any) -> None:
    from underhood.lab.patch import Edit, diff
    from underhood.lab.wording import number

    print(paragraph(f"{project.slug}.{sabotage.name}: {sabotage.says}"))
    for patch in sabotage.patches:
        print(diff(patch) if isinstance(patch, Edit) else f"  {patch}")
    facts = [f"healthy {number(asked.healthy)}"] if asked.healthy is not None else []
    facts += [f"best {number(asked.floor)}"] if asked.floor is not None else []
    facts += [f"knowing nothing {number(asked.ceiling)}"] if asked.ceiling is not None else []
    print(paragraph(f"{asked.says}: {', '.join(facts) or 'a property that holds, or does not'}."))


def _guess(asking: Any) -> Any:
    words = ", ".join(f"{i} {d}" for i, d in enumerate(asking.DIRECTIONS, 1))
    said = asking.direction(ask(f"What will it do? ({words}; Enter skips)"))
    sees = ask("What will you see in the text, or in the curve? (Enter skips)")
    figure = ask("A number, if you like: by how much does it change? (Enter skips)")
    try:
        value = float(figure.replace(",", ".").replace("−", "-")) if figure else None
    except ValueError:
        value = None
    return asking.Guess(direction=said, sees=sees, number=value)


def _score(slug: str, name: str, right: bool | None) -> str:
    """Count the prediction in the course's progress, and say the share of directions that were right so far."""
    from underhood.workbench import course

    folder = course.find_course()
    if folder is None or right is None:
        return ""
    state = course.read_state(folder)
    kept = state["predictions"]
    kept["asked"], kept["right"] = kept.get("asked", 0) + 1, kept.get("right", 0) + int(right)
    kept["breaks"] = sorted({*kept.get("breaks", []), f"{slug}.{name}"})
    course.keep_state(folder, state)
    return f"{kept['right']} of {kept['asked']} directions right so far."


def _keep(text: str) -> None:
    from underhood.workbench import course

    folder = course.find_course()
    if folder is None:
        note("Outside a course folder nothing is kept: underhood init course")
        return
    print(paragraph(f"Kept in {course.write_note(folder, text)}"))


def mine(target: str, seeds: int, workers: int) -> None:
    """Copy the learner's file, wait until the copy is sabotaged as declared, and run both."""
    from underhood.base.errors import UserError
    from underhood.cli.break_progress import Watcher
    from underhood.lab import baseline as baselines
    from underhood.lab import record as ledger
    from underhood.lab.run import Job
    from underhood.lab.table import print_results
    from underhood.workbench import mine as own
    from underhood.workbench.course import need_mine
    from underhood.workbench.plug import require_good

    if "." not in target:
        raise UserError(f"{target!r} names a project", where="--mine", expected="one break, as in attention.no_scale")
    project, sabotage = _one(target)
    file = need_mine(project.slug).resolve()
    require_good(project, file)
    broken = None if own.by_setting(sabotage) else _sabotaged(project, sabotage, file)
    baseline = baselines.get(sabotage.baseline)
    watcher = Watcher([Job(label=label, baseline=baseline, seeds=tuple(range(seeds))) for label in ("healthy", target)], {}, workers or 2)
    note(watcher.estimate())
    with watcher:
        result = own.run_mine(project, sabotage, file, broken, range(seeds), Path("runs") / f"mine-{target}", workers=workers, listen=watcher.listen)
    print(paragraph("Healthy is your own part, broken is your sabotage of it:" if broken else "Your own part, healthy and under the setting:"))
    print_results([ledger.to_plain(result)])


def _sabotaged(project: "Project", sabotage: "Sabotage", file: Path) -> Path:
    """Wait until the copy behaves as the declared break."""
    from underhood.base.errors import UserError
    from underhood.workbench import mine as own

    path, new = own.copy_of(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    print(paragraph(f"{'Copied to' if new else 'Found'} {shown}. Sabotage it: {sabotage.says}"))
    print(paragraph(f"Where: {', '.join(own.places(sabotage))}. Your own file stays as it is."))
    while True:
        found = own.recognise(project, sabotage, path)
        print(paragraph(found.says))
        if found.as_declared:
            return path
        if not sys.stdin.isatty():
            raise UserError(f"the copy is not {sabotage.name} yet", where=str(path), remedy="Edit it, then run the same command again.")
        print(paragraph("Edit and save it; I look again. (Ctrl-C leaves, the copy stays.)"))
        before = path.stat().st_mtime
        while path.stat().st_mtime == before:
            time.sleep(POLL_SECONDS)
