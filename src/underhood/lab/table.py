"""Results in a terminal of any width: a table where there is room, stacked lines where there is not; plain without colours or a terminal."""

from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from underhood.lab import wording

Plain = dict[str, Any]
ROOM = 76  # columns; below this a table of four columns breaks words
COLOURS = {"held": "green", "weaker": "yellow", "opposite": "red", "no effect": "red", "not held": "red", "inconclusive": "yellow", "preview": "cyan"}


def print_results(results: Sequence[Plain], *, file: TextIO | None = None, width: int | None = None) -> None:
    """Print what was predicted, what was measured and the verdict for each break, then the count."""
    console = Console(file=file, width=width, highlight=False, emoji=False)
    console.print(results_table(results) if console.width >= ROOM else _Stack(results))
    for line in asides(results):
        console.print(Text(line))
    console.print(Text(f"{wording.tally(results)}."), style="bold")


def results_table(results: Iterable[Plain]) -> Table:
    """A line with the break's name, then one row a prediction."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("predicted", "measured"):
        table.add_column(heading, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for result in results:
        table.add_row(Text(result["break"], style="bold"))
        for judgement in result["judgements"]:
            table.add_row(Padding(Text(wording.predicted(judgement["prediction"])), (0, 0, 0, 2)), Text(wording.measured(judgement)), badge(judgement))
    return table


def badge(judgement: Plain) -> Text:
    """The verdict in its colour."""
    return Text(judgement["verdict"], style=COLOURS.get(judgement["verdict"], ""))


class _Stack:
    """The same for a narrow terminal: the break's name, then for each prediction a line with its verdict and a line with what was measured."""

    def __init__(self, results: Iterable[Plain]) -> None:
        self.results = list(results)

    def __rich_console__(self, console: Console, options: Any) -> Iterable[RenderableType]:
        for result in self.results:
            yield Text(result["break"], style="bold")
            for judgement in result["judgements"]:
                yield Padding(Text.assemble(wording.predicted(judgement["prediction"]), ": ", badge(judgement)), (0, 0, 0, 2))
                yield Padding(Text(wording.measured(judgement), style="dim"), (0, 0, 0, 4))


def asides(results: Iterable[Plain]) -> list[str]:
    """What else a reader should know: probes that do not separate, claims with their verdict, arms that ended early."""
    lines = []
    for result in results:
        name = result["break"]
        if result["probe"] and result["probe"]["separates"] is False:
            probe = result["probe"]
            lines.append(
                f"{name}: its probe ({probe['metric']} {probe['kind'].lower()} {wording.number(probe['threshold'])}) does not tell every seed from healthy"
            )
        if result["claim"]:
            lines.append(f"{name}, public claim: {wording.claim(result['claim'])}")
        ended = [a["how"] for a in result["broken"] if a["how"] != "done"]
        expected = {j["prediction"].get("error") for j in result["judgements"]}
        if unexpected := sorted(set(ended) - expected):
            lines.append(f"{name}: {len(ended)} of {len(result['broken'])} broken arms ended early ({', '.join(unexpected)})")
    return lines


def standings_table(rows: Iterable[tuple[str, str, str]], *, colours: dict[str, str]) -> Table:
    """Name, state and reason of records, worst first as given."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, state, why in rows:
        table.add_row(escape(name), Text(state, style=colours.get(state, "")), Text(why))
    return table
