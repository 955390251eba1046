"""``underhood init``: a course folder."""

from pathlib import Path
from typing import Annotated

import typer

from underhood.cli import console
from underhood.workbench import course


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where; made if it is not there.")] = Path(),
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a course folder: my/ for what you write, progress.toml for what is done.

    Nothing that exists is changed. Commands find the folder from anywhere below it.
    """
    new = course.create(folder)
    place = folder.resolve()
    if as_json:
        console.print_json({"course": str(place), "created": new})
        return
    print(console.paragraph(f"{'Made the course folder' if new else 'Already a course folder, left as it is:'} {place}"))
    if new:
        print(console.columns([(f"{course.MINE}/", "your own layers"), (course.PROGRESS, "what you have done")], indent=console.GAP))
