"""``underhood incident``: a break in secret, to be diagnosed."""

import random
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from underhood.projects.registry import Project
    from underhood.workbench.incident import Incident


def command(
    project: Annotated[
        list[str] | None, typer.Option("--project", metavar="PROJECT", help="Draw from this project; may be repeated (default: those you finished).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same break.")] = None,
) -> None:
    """Something is broken. You get the telemetry and three free probes; each further one costs a point. Name the break."""
    from underhood.cli.break_learner import ask
    from underhood.cli.console import columns, paragraph
    from underhood.workbench import incident as incidents

    drawn = incidents.draw(_projects(project or []), random.Random(secrets.randbits(32) if seed is None else seed))
    for line in incidents.telemetry(drawn):
        print(paragraph(line))
    print("\nProbes:")
    names = list(drawn.probes())
    print(columns([(str(i), says) for i, says in enumerate(drawn.probes().values(), 1)], indent="  "))
    print("\nIt is one of:")
    print(columns([(letter, f"{drawn.project.find(name).says} ({name})") for letter, name in zip("abcdefgh", drawn.candidates, strict=False)], indent="  "))
    solved = _diagnose(drawn, names, ask)
    _after(drawn, solved)


def _diagnose(drawn: "Incident", names: list[str], ask: Callable[[str], str]) -> bool:
    from underhood.cli.console import paragraph
    from underhood.workbench.incident import FREE

    for _ in range(100):
        left = max(0, FREE - len(drawn.asked))
        answer = ask(f"\nA probe (number; {left} free), the break (letter), or Enter to give up:")
        if not answer:
            return False
        if answer.isdigit() and 1 <= int(answer) <= len(names):
            print(paragraph(drawn.probe(names[int(answer) - 1])))
        elif len(answer) == 1 and answer in "abcdefgh"[: len(drawn.candidates)]:
            if drawn.name_it(drawn.candidates["abcdefgh".index(answer)]):
                return True
            print(paragraph(f"No. A right answer now gives {drawn.points} points."))
        else:
            print(paragraph("A number of a probe, or a letter."))
    return False


def _after(drawn: "Incident", solved: bool) -> None:
    """The points, the diff and where the chapter tells of it."""
    from underhood.cli.console import paragraph
    from underhood.lab.patch import Edit, diff
    from underhood.workbench import course

    sabotage, points = drawn.sabotage, drawn.points if solved else 0
    print(paragraph(f"{'Right' if solved else 'It was'}: {drawn.project.slug}.{sabotage.name}. {sabotage.says} {points} points."))
    for patch in sabotage.patches:
        print(diff(patch) if isinstance(patch, Edit) else f"  {patch}")
    print(paragraph(f"To be seen: {sabotage.look}"))
    print(paragraph(f"The chapter: underhood read {drawn.project.slug}"))
    folder = course.find_course()
    if folder is not None:
        course.update(folder, lambda state: _count(state["incidents"], played=1, solved=int(solved), points=points))


def _count(kept: dict[str, int], **by: int) -> None:
    for name, more in by.items():
        kept[name] = kept.get(name, 0) + more


def _projects(named: list[str]) -> "list[Project]":
    from underhood.projects.registry import find_project, syllabus
    from underhood.workbench import course

    if named:
        return [find_project(name) for name in named]
    finished = course.read_state(course.need_course())["projects"]
    return [p for p in syllabus() if p.slug in finished]
