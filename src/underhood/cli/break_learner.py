"""The learner's ways to break: predict first (``--predict``), and sabotage what one has built (``--mine``)."""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from underhood.cli.console import note, paragraph

if TYPE_CHECKING:
    from underhood.lab.sabotage import Sabotage
    from underhood.projects.registry import Project
    from underhood.workbench.mine import Copy

POLL_SECONDS = 0.5
SAMPLE = 300  # characters of a text


def ask(text: str) -> str:
    """One typed line; "" where nobody types."""
    print(text, end=" ", flush=True)
    line = sys.stdin.readline()
    if not sys.stdin.isatty():
        print(line.rstrip())
    return line.strip()


def predict(target: str, seeds: int, records: Path) -> None:
    """Show the healthy value, floor and ceiling, ask, then show what was measured."""
    from underhood.lab.table import print_results
    from underhood.lab.wording import measured
    from underhood.workbench import predict as asking

    project, sabotage = _one(target)
    stored = _stored(f"{project.slug}.{sabotage.name}", sabotage, records)
    if stored is None:
        stored = _measured(f"{project.slug}.{sabotage.name}", sabotage, seeds, target)
    else:
        note(f"What you will see was measured on {stored['date']}, and is a committed record.")
    asked = asking.question(stored)
    _show(project, sabotage, asked)
    guess = _guess(asking)
    found = asking.truth(asked, stored)
    print()
    print(paragraph(f"Measured: {found}; {asked.metric or 'the end'}: {measured(asked.judgement)}. {asking.verdict(asked, guess, found)}".rstrip()))
    print(paragraph(f"To be seen: {sabotage.look}" + (f" You said: «{guess.sees}»." if guess.sees else "")))
    print("\nWhat we had predicted, before it was measured:")
    print_results([stored])
    score = _score(project.slug, sabotage.name, asking.right(guess, found) if guess.direction else None)
    if score:
        print(paragraph(score))
    _keep(asking.entry(asked, guess, found, ask("What surprised you?")))


def _measured(name: str, sabotage: "Sabotage", seeds: int, target: str) -> dict[str, Any]:
    """The break measured now, or as far as arms are stored by an earlier run."""
    from underhood.cli.break_ import RUNS, measure, watcher_of
    from underhood.lab.record import to_plain

    watcher = watcher_of([(name, sabotage)], range(seeds), store=RUNS, claims=False)
    if watcher.done < watcher.total:
        note("There is no record of it that still counts, so it is measured first; the result is shown after your prediction.")
    return to_plain(measure([(name, sabotage)], range(seeds), store=RUNS, claims=False, again=f"underhood break {target} --predict")[0])


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
    said = _answer(f"What will it do? ({words}; Enter skips)", asking.direction, "One of the five, or its number")
    sees = ask("What will you see in the text, or in the curve? (Enter skips)")
    value = _answer("A number, if you like: by how much does it change? (Enter skips)", _number, "A number, as in 0.3")
    return asking.Guess(direction=said or "", sees=sees, number=value)


def _answer(question: str, read: Callable[[str], Any], expected: str) -> Any:
    """What ``read`` makes of a typed line; asked again while that is nothing, None for an empty line."""
    while text := ask(question):
        value = read(text)
        if value not in (None, ""):
            return value
        print(paragraph(f"«{text}» is no answer to this. {expected}."))
    return None


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", ".").replace("−", "-"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _score(slug: str, name: str, right: bool | None) -> str:
    """Count the prediction in the course's progress, and say the share of directions that were right so far."""
    from underhood.workbench import course

    folder = course.find_course()
    if folder is None or right is None:
        return ""
    kept: dict[str, Any] = {}

    def change(state: dict[str, Any]) -> None:
        before = state["predictions"]
        kept.update(before, asked=before.get("asked", 0) + 1, right=before.get("right", 0) + int(right))
        kept["breaks"] = sorted({*before.get("breaks", []), f"{slug}.{name}"})
        state["predictions"] = kept

    course.update(folder, change)
    return f"{kept['right']} of {kept['asked']} directions right so far."


def _keep(text: str) -> None:
    from underhood.workbench import course

    folder = course.find_course()
    if folder is None:
        note("Outside a course folder nothing is kept: underhood init course")
        return
    print(paragraph(f"Kept in {course.write_note(folder, text)}"))


def mine(target: str, seeds: int, workers: int, fresh: bool = False) -> None:
    """Copy the learner's file (anew if ``fresh``), wait until the copy is sabotaged as declared, run both, and say where the result is."""
    from underhood.base.errors import UserError
    from underhood.cli.break_ import RUNS, save
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
    note(f"Running the {len(project.checks())} checks on {_short(file)} …")
    require_good(project, file)
    broken = None if own.by_setting(sabotage) else _sabotaged(project, sabotage, file, fresh)
    baseline = baselines.get(sabotage.baseline)
    watcher = Watcher([Job(label=label, baseline=baseline, seeds=tuple(range(seeds))) for label in ("healthy", target)], {}, workers or 2)
    note(watcher.estimate())
    folder = RUNS / f"mine-{target}"
    with watcher:
        result = own.run_mine(project, sabotage, file, broken, range(seeds), folder, workers=workers, listen=watcher.listen)
    plain = ledger.to_plain(result)
    page = save(folder, [plain], title=f"{target}, by hand", command=f"underhood break {target} --mine --seeds {seeds}")
    print(paragraph("Healthy is your own part, broken is your sabotage of it:" if broken else "Your own part, healthy and under the setting:"))
    print_results([plain])
    _wrote(result.trial.healthy[0].texts, result.trial.broken[0].texts)
    print(paragraph(f"To be seen: {sabotage.look}"))
    print(f"Report: {page}")
    print(paragraph(_next(project, sabotage)))


def _wrote(healthy: dict[str, str], broken: dict[str, str]) -> None:
    """The first text that both runs wrote."""
    name = next((name for name in healthy if name in broken), None)
    if name is not None:
        for words, text in (("healthy", healthy[name]), ("broken", broken[name])):
            print(f"\n{name.replace('_', ' ')}, {words} (seed 0):\n\n{text[:SAMPLE].strip()}\n")


def _next(project: "Project", sabotage: "Sabotage") -> str:
    """What to break after this."""
    from underhood.workbench import mine as own

    names = [b.name for b in project.breaks() if b.kind == "part" and not own.by_setting(b)]
    later = names[names.index(sabotage.name) + 1 :] if sabotage.name in names else names
    if later:
        return f"Next: underhood break {project.slug}.{later[0]} --mine"
    return f"That was the last break by hand of {project.slug}. Next, a break that you do not know: underhood incident --project {project.slug}"


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _sabotaged(project: "Project", sabotage: "Sabotage", file: Path, fresh: bool) -> Path:
    """Wait until the copy behaves as the declared break."""
    from underhood.base.errors import UserError
    from underhood.workbench import mine as own

    copy = own.copy_of(file, sabotage.name)
    if not copy.new and fresh:
        copy = own.begin_afresh(file, sabotage.name)
    elif not copy.new:
        copy = _kept(copy, file, sabotage.name)
    path = copy.path
    print(paragraph(f"{'Copied to' if copy.new else 'To be sabotaged:'} {_short(path)}. {'Sabotage it: ' if copy.new else ''}{sabotage.says}"))
    print(paragraph(f"Where: {', '.join(own.places(sabotage))}. Your own file stays as it is."))
    while True:
        before = _stamp(path)
        note(f"Running the checks on {_short(path)} …")
        found = own.recognise(project, sabotage, path)
        print(paragraph(found.says))
        if found.as_declared:
            return path
        if not sys.stdin.isatty():
            raise UserError(f"the copy is not {sabotage.name} yet", where=str(path), remedy="Edit it, then run the same command again.")
        print(paragraph("Edit and save it; I look again. (Ctrl-C leaves, the copy stays.)"))
        while _stamp(path) == before:
            time.sleep(POLL_SECONDS)


def _kept(copy: "Copy", file: Path, name: str) -> "Copy":
    """Say that an earlier copy is there; ask whether to begin afresh where it was made for something else."""
    from underhood.workbench import mine as own

    shown = _short(copy.path)
    made = f", made for {copy.made_for}" if copy.made_for else ""
    print(paragraph(f"{shown} is there already{made}, last changed {copy.changed:%Y-%m-%d %H:%M}; it is kept."))
    if copy.older:
        print(paragraph(f"{_short(file)} has changed since it was copied: the copy is the older one."))
    if sys.stdin.isatty() and (copy.older or copy.made_for != name):
        if ask(f"Begin afresh from {_short(file)}? What is there is kept, dated. [y/N]").lower() in ("y", "yes"):
            return own.begin_afresh(file, name)
    else:
        print(paragraph("To begin with a new copy, the old one kept and dated: the same command with --fresh."))
    return copy


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is saved; an editor may take it away for a moment."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
