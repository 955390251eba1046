"""``underhood check``: a learner's file put through its project's checks."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from underhood.projects.registry import Project
    from underhood.workbench.checking import Report
    from underhood.workbench.judge import Outcome

POLL_SECONDS = 0.4
DETAILED = 8  # failures that --all explains; the rest are named
SIGNS = {"holds": "✓", "wrong": "✗", "not written": "·", "borrowed": "✗", "stopped": "✗"}
WORDS = {"wrong": "does not hold", "borrowed": "is borrowed", "stopped": "was stopped"}


def command(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Slug, number or a word of the title.")],
    everything: Annotated[bool, typer.Option("--all", help="Run every check, not only up to the first open step.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Check again whenever the file is saved; Ctrl-C ends it.")] = False,
    tests: Annotated[Path | None, typer.Option(metavar="FILE", help="Grade your own tests: do they pass on the reference and catch the breaks?")] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Another file than my/PROJECT.py.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what holds of my/PROJECT.py and what does not: the failing input, what was expected, what was found.

    The file runs in a process of its own with limits on time and memory. Exit code 1 while something is open.
    """
    from underhood.projects.registry import find_project
    from underhood.workbench.course import need_mine

    found = find_project(project)
    if tests is not None:
        _grade(found, tests, as_json)
        return
    path = file or need_mine(found.slug)
    good = _once(found, path, everything, as_json)
    while watch:
        _wait(path)
        print("\n" + "─" * 60)
        good = _once(found, path, everything, as_json)
    if not good:
        raise typer.Exit(1)


def _wait(path: Path) -> None:
    def stamp() -> float:
        return path.stat().st_mtime if path.exists() else 0.0

    before = stamp()
    while stamp() == before:
        time.sleep(POLL_SECONDS)


def _once(project: "Project", path: Path, everything: bool, as_json: bool) -> bool:
    from underhood.cli.console import paragraph, print_json
    from underhood.workbench.checking import check_file, note
    from underhood.workbench.judge import Unusable

    try:
        report = check_file(project, path, everything=everything)
    except Unusable as error:
        if as_json:
            print_json({"project": project.slug, "file": str(path), "unusable": str(error), "line": error.line})
        else:
            print(paragraph(error.of(path)))
        return False
    note(report)
    if as_json:
        print_json(plain(report))
    else:
        _say(report, everything)
    return report.good


def plain(report: "Report") -> dict[str, Any]:
    """A report as JSON."""
    checks = [
        {"name": o.check.name, "step": s.title, "state": o.state}
        | ({"says": o.says, "given": "", "expected": "", "found": "", **_values(o), "place": o.place, "printed": o.printed} if o.state != "holds" else {})
        for s in report.steps
        for o in s.outcomes
    ]
    facts = {"project": report.project.slug, "file": str(report.file), "held": report.held, "of": report.total, "held_by": report.strength}
    return {**facts, "changed": list(report.changed), "known_break": bool(report.matches), "checks": checks}


def _say(report: "Report", everything: bool) -> None:
    from underhood.cli.console import paragraph

    slug = report.project.slug
    if report.changed:
        _say_changed(report)
    for step in report.steps:
        print(f"{'·' if step.open else '✓'} {step.title}")
        for outcome in step.outcomes:
            print(f"    {SIGNS[outcome.state]} {_plain(outcome.check.name)}")
    if report.next is not None:
        for problem in _to_explain(report, everything):
            print()
            _explain(problem)
        if everything:
            _name_the_rest(report)
        _advise(report)
    else:
        print(paragraph(f"All {report.total} checks hold, on the fixed inputs and on fresh ones (seed {report.again})."))
        print(paragraph(f"Next: underhood plug {slug} puts it into the real stack; underhood break {slug} --predict breaks it."))
    if report.strength == "guard":
        print(paragraph("(On this system the file ran under a guard, not in a sandbox.)"))


def _say_changed(report: "Report") -> None:
    """What the parts look like now whose signature or words are newer than the file; the file is left alone."""
    from underhood.cli.console import paragraph
    from underhood.workbench.starter import contract, stub_of

    print(paragraph(f"Since this file was started the contract of {', '.join(report.changed)} has changed. The file is left alone; the contract is now:"))
    for name in report.changed:
        print("\n" + "\n".join(f"    {line}" for line in _outline(stub_of(report.project, name)).splitlines()))
    now = contract(report.project)
    noted = " ".join(f"{name}={now[name]}" for name in report.changed)
    print("\n" + paragraph(f"When you have seen to it, write {noted} into the lines «contract of» at the head of the file; then this is said no more.") + "\n")


def _outline(stub: str) -> str:
    """A blank form without the lines that refuse to run."""
    refusal = r"\n *raise NotWritten\(.*\)"
    return re.sub(refusal, "", re.sub(rf"(?<=:){refusal}", " ...", stub))


def _to_explain(report: "Report", everything: bool) -> "list[Outcome]":
    """The first failure; under --all each that is more than a part not written."""
    assert report.next is not None
    failed = [o for o in report.outcomes if o.state != "holds" and (o is report.next or o.state != "not written")]
    return failed[:DETAILED] if everything else failed[:1]


def _name_the_rest(report: "Report") -> None:
    """The failures that were not explained, in two lines at most."""
    from underhood.cli.console import paragraph

    told = {o.check.name for o in _to_explain(report, everything=True)}
    left = [o for o in report.outcomes if o.state != "holds" and o.check.name not in told]
    for words, some in (("Not written yet", True), ("Further ones that do not hold", False)):
        if names := [_plain(o.check.name) for o in left if (o.state == "not written") is some]:
            print("\n" + paragraph(f"{words}: {', '.join(names)}."))


def _explain(outcome: "Outcome") -> None:
    """The failing input, what was expected and found, in the words of the check."""
    from underhood.cli.console import paragraph

    if outcome.state == "not written":
        print(paragraph(_missing(outcome)))
    else:
        print(paragraph(f"{_plain(outcome.check.name)} {WORDS[outcome.state]}."))
        print(paragraph(outcome.says, indent="  "))
        for name, text in _values(outcome).items():
            lines = text.splitlines() or [""]
            print(f"  {name + ':':10}{lines[0]}")
            print("\n".join(f"            {line}" for line in lines[1:]), end="\n" if lines[1:] else "")
        if outcome.place:
            print(f"  at:       {outcome.place}")
    if outcome.printed:
        print("  it printed:")
        print("\n".join(f"    {line}" for line in outcome.printed.splitlines()[:12]))


def _missing(outcome: "Outcome") -> str:
    """Which part is not written, and which check waits for it."""
    text = str(outcome.found or outcome.says).removeprefix("NotWritten: ")
    name, _, rest = text.partition(" ")
    if rest == "is not in the file" or (name and not rest):
        return f"{name} {rest or 'is not written yet'}; «{_plain(outcome.check.name)}» waits for it."
    return f"«{_plain(outcome.check.name)}» waits for a part that is not written yet: {text}"


def _values(outcome: "Outcome") -> dict[str, str]:
    """Given, expected and found as text, each short enough to be read."""
    from underhood.workbench.excerpt import cut, shown

    expected, found = shown(outcome.expected, outcome.found)
    texts = {"given": cut(outcome.given), "expected": expected, "found": found}
    return {name: text for name, text in texts.items() if getattr(outcome, name) is not None}


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _advise(report: "Report") -> None:
    from underhood.cli.console import paragraph

    slug, step = report.project.slug, report.next_step
    assert step is not None
    print()
    if report.matches:
        print(paragraph(f"This matches a known break: underhood hint {slug} tells which."))
    print(paragraph(f"{report.held} of {report.total} hold; next: {step.title.split(' · ', 1)[1].lower()} (step {step.number}). Stuck: underhood hint {slug}"))


def _grade(project: "Project", tests: Path, as_json: bool) -> None:
    from underhood.cli.console import columns, paragraph, print_json
    from underhood.workbench.grading import grade

    graded = grade(project, tests)
    if as_json:
        print_json({"project": project.slug, "tests": str(tests), **graded.plain()})
    elif graded.reference:
        print(paragraph("Your tests fail on the reference, so they ask for something that is not so:"))
        print(columns([(name, says) for name, says in graded.reference.items()], indent="  "))
    else:
        print(columns([("✓" if by else "✗", name, f"caught by {', '.join(by)}" if by else "escapes") for name, by in graded.caught.items()], indent="  "))
        caught = sum(bool(by) for by in graded.caught.values())
        passing = "1 test passes on the reference and catches" if graded.count == 1 else f"{graded.count} tests pass on the reference and catch"
        print(paragraph(f"{passing} {caught} of {len(graded.caught)} breaks."))
        if graded.silent_escape:
            print(paragraph(f"Still unseen, and silent: {', '.join(graded.silent_escape)}."))
    if graded.reference or graded.silent_escape:
        raise typer.Exit(1)
