"""The floors of the house, top to bottom, as data: the import contract in pyproject.toml holds the same list (tested), the README's picture is drawn from it.

A floor may import from the floors below it and from nothing beside or above it. Folders in parentheses are planned and not built yet.
"""

from typing import NamedTuple

INNER = 72  # columns between the two walls of the picture
SAYS = 35  # the column where what a floor holds begins


class Floor(NamedTuple):
    """One storey: its folders, as the import contract spells them, and what is found there."""

    folders: str
    says: str


class Part(NamedTuple):
    """Some storeys with one purpose."""

    name: str
    floors: tuple[Floor, ...]


HOUSE = (
    Part("what people touch", (Floor("cli", "the commands, one file per verb"),)),
    Part(
        "the course",
        (
            Floor("(studio)", "the course in the browser"),
            Floor("workbench | serve | (doctor)", "write your own · serve · diagnose"),
            Floor("projects", "chapters, breaks and checks"),
        ),
    ),
    Part("the lab", (Floor("lab", "patch, run in pairs, judge, record"),)),
    Part(
        "the healthy stack, which does not know that it can be broken",
        (
            Floor("(reason) | (retrieve) | (fuse)", "search, retrieval, specialists"),
            Floor("interop", "other people's weights, in and out"),
            Floor("(align) | (quant)", "preferences · small numbers"),
            Floor("kernels", "the fast twins"),
            Floor("eval", "perplexity, scores of generated text"),
            Floor("infer", "sampling, caches, engine"),
            Floor("train", "optimizers, schedules, the loop"),
            Floor("nn", "attention, blocks, GPT"),
            Floor("data", "corpora, shards, samplers"),
            Floor("text | tensor", "tokenizers · autograd on arrays"),
            Floor("scalar", "autograd on single numbers"),
            Floor("base", "errors, configuration, files, names"),
        ),
    ),
)


def layers() -> list[str]:
    """The import contract: one line per floor, top to bottom."""
    return [floor.folders for part in HOUSE for floor in part.floors]


def folders() -> dict[str, bool]:
    """Every folder of the house, top to bottom, with whether it is built."""
    names = [name for line in layers() for name in line.split(" | ")]
    return {name.strip("()"): not name.startswith("(") for name in names}


def picture(columns: int = INNER + 2) -> str:
    """The house as text; narrower than its full width it shows the folders alone."""
    wide = columns >= INNER + 2
    inner = INNER if wide else max(len(line) for line in layers()) + 2
    rows = []
    for number, part in enumerate(HOUSE):
        left, right = "┌┐" if number == 0 else "├┤"
        label = f"─ {part.name} " if wide else ""
        rows.append(left + label.ljust(inner, "─") + right)
        rows += [f"│{_storey(floor, inner, wide)}│" for floor in part.floors]
    return "\n".join([*rows, "└" + "─" * inner + "┘"])


def _storey(floor: Floor, inner: int, wide: bool) -> str:
    text = f" {floor.folders}"
    return (text.ljust(SAYS) + floor.says if wide else text).ljust(inner)
