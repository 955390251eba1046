"""``underhood map``: the floors and what each holds."""

from typing import Annotated

import typer

from underhood.base import floors
from underhood.cli import console


def command(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """The floors of the house, top to bottom.

    Each folder imports only from the floors below it; folders in parentheses are not built yet.
    """
    if as_json:
        console.print_json([{"part": part.name, "folders": floor.folders.split(" | "), "says": floor.says} for part in floors.HOUSE for floor in part.floors])
        return
    print(floors.picture(console.width()))
    print(console.paragraph("Imports point down. Folders in parentheses are not built yet."))
