"""``underhood report``: an experiment, the committed records or a training run as one HTML page."""

from pathlib import Path
from typing import Annotated, Any

import typer

RECORDS = Path("records")
MAX_FIGURES = 6  # curves of a training run
MAX_SAMPLES = 4  # texts of a training run: the first, the last and some between


def command(
    what: Annotated[
        str, typer.Argument(metavar="[FOLDER|PROJECT]", help="A run folder, a folder of records, a project or one of its breaks.", show_default=False)
    ] = "",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write the page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead.")] = False,
) -> None:
    """One page with plots from a past experiment, from committed records (the default), or from a training run.

    The page needs no network and no script.
    """
    from underhood.base.errors import UserError
    from underhood.base.files import write_atomic
    from underhood.cli.console import print_json

    place = Path(what or RECORDS)
    if (place / "metrics.jsonl").is_file():
        from underhood.train.run import read_metrics

        lines = read_metrics(place)
        if as_json:
            print_json(lines)
            return
        html, target = training_page(place, lines), place / "report.html"
    else:
        title, results, target = find_results(what)
        if as_json:
            print_json(results)
            return
        from underhood.lab.report import render

        try:
            html = render(results, title=title)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"not a result of `underhood break` ({type(error).__name__}: {error})", where=str(place)) from error
    print(write_atomic(out or target, html))


def find_results(what: str) -> tuple[str, list[dict[str, Any]], Path]:
    """The page's title, the records in plain form, and where the page goes, for a folder or a name."""
    from underhood.base.errors import DataError, UserError
    from underhood.base.files import read_json

    place = Path(what or RECORDS)
    if (place / "results.json").is_file():
        return f"{place.name}, broken and measured", _list(read_json(place / "results.json"), place / "results.json"), place / "report.html"
    if place.is_dir():
        files, name = sorted(place.rglob("*.json")), place.name
    elif place.is_file():
        raise UserError("is a file", where=str(place), expected="a folder or a project")
    else:
        files, name = _files_of(what), what
    results = [r for f in files if isinstance(r := read_json(f), dict) and "judgements" in r]  # other files of the records are not breaks
    if not results:
        raise DataError("holds no results", where=str(place), remedy="Make some: underhood break PROJECT")
    return f"{name}, broken and measured", _list(results, place), Path("runs") / f"report-{name}.html"


def _files_of(name: str) -> list[Path]:
    """The committed records of a project or a break. Raises ``UnknownName`` or ``DataError``."""
    from underhood.base.errors import DataError
    from underhood.lab.record import path_of
    from underhood.projects.registry import find_break, find_project

    if "." in name:
        project, sabotage = find_break(name)
        files = [path_of(RECORDS, f"{project.slug}.{sabotage.name}")]
    else:
        project = find_project(name)
        files = [path_of(RECORDS, f"{project.slug}.{s.name}") for s in project.experiments()]
    if not any(f.is_file() for f in files):
        raise DataError("no committed record", where=f"{RECORDS}/{project.slug}", remedy=f"Measure it: underhood break {name}")
    return [f for f in files if f.is_file()]


def _list(found: Any, where: Path) -> list[dict[str, Any]]:
    from underhood.base.errors import DataError

    if not isinstance(found, list) or not found or not all(isinstance(r, dict) and "judgements" in r for r in found):
        raise DataError("not results of `underhood break`", where=str(where))
    return found


# ── a training run ────────────────────────────────────────────────────────────────────────────────────────────────────


def training_page(folder: Path, lines: list[dict[str, Any]]) -> str:
    """Curves of what was measured, held-out beside training, and what the model wrote on the way."""
    from underhood.base.errors import DataError
    from underhood.lab import report

    if not lines:
        raise DataError("no step has been written yet", where=str(folder / "metrics.jsonl"))
    figures = [report.curves(named, key) for key, named in _curves(lines).items()]
    written = [(line["step"], line["sample"]) for line in lines if isinstance(line.get("sample"), str)]
    step = max(1, -(-len(written) // MAX_SAMPLES))
    shown = written[::-1][::step][::-1]
    sections = [report.Section("What was measured", "".join(figures[:MAX_FIGURES]))]
    if shown:
        sections.append(report.Section("What it wrote", report.texts({f"after step {s}": text for s, text in shown})))
    return report.render([], title=f"The training run {folder.name}", intro=_in_short(lines), sections=sections)


def _curves(lines: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Figure → curves by name, ``val_x`` beside ``x``; loss first."""
    from underhood.lab.run import thin

    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    keys = dict.fromkeys(k for line in lines for k in line if k not in ("step", "elapsed_s", "sample"))
    for key in sorted(keys, key=lambda k: "loss" not in k):
        points = [{"step": line["step"], key: line[key]} for line in lines if isinstance(line.get(key), (int, float))]
        drawn = [(float(p["step"]), float(p[key])) for p in thin(points)]
        found.setdefault(key.removeprefix("val_"), {})["held out" if key.startswith("val_") else "training"] = drawn
    return found


def _in_short(lines: list[dict[str, Any]]) -> str:
    last = {k: v for line in lines for k, v in line.items()}
    parts = [f"{last['step']} steps"]
    parts += [f"{name} {last[key]:.3f}" for key, name in (("loss", "loss"), ("val_loss", "held-out loss")) if isinstance(last.get(key), float)]
    parts += [f"{last['elapsed_s'] / 60:.1f} minutes"] if "elapsed_s" in last else []
    return ", ".join(parts) + "."
