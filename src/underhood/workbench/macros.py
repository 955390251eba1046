"""What a chapter takes from the source and the records: ``{{ source("module:name") }}``, ``{{ result("attention.no_scale", "loss") }}`` and the like.

Nothing that was measured and no line of the stack is typed into a chapter. A name that does not exist, or a record that is stale or missing,
is a ``ChapterError`` with the place, and so fails the build.
"""

import ast
import base64
import contextlib
import functools
import hashlib
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

import underhood
from underhood.base.errors import UnderhoodError, UserError
from underhood.base.files import read_json, write_json
from underhood.data.places import cache_folder
from underhood.lab import record, wording
from underhood.lab.kills import KillMatrix, kill_matrix
from underhood.lab.patch import Edit, Patch, Set, diff, source
from underhood.lab.report_plots import curves_plot, differences_plot
from underhood.projects.registry import find_break, find_project

Medium = Literal["site", "terminal", "notebook"]
MACRO = re.compile(r"\{\{ *(\w+)\((.*?)\) *\}\}", re.DOTALL)
FIGURE_STYLE = """\
.fig-a{fill:#3b82f633;stroke:#3b82f6} .fig-b{fill:#f59e0b33;stroke:#d97706} .fig-c{fill:#10b98133;stroke:#059669}
.fig-soft{fill:#8884;stroke:none} .fig-line{fill:none;stroke:currentColor;stroke-width:1.2} .fig-hot{fill:#ef444433;stroke:#ef4444}
"""


class ChapterError(UserError):
    """A chapter names something that does not exist, is stale, or is not where the form wants it."""


def records_folder() -> Path:
    """``records/`` of the checkout that this code stands in."""
    return Path(__file__).parents[3] / "records"


def project_folder(slug: str) -> Path:
    """Where a project's chapter, checks and breaks stand."""
    return Path(__file__).parents[1] / "projects" / slug


def expand(text: str, slug: str, medium: Medium, *, where: str = "") -> str:
    """``text`` with every macro replaced. Raises ``ChapterError`` naming the line of a macro that cannot be."""
    macros = Macros(slug, medium)

    def replace(found: re.Match[str]) -> str:
        line = text.count("\n", 0, found.start()) + 1
        place = f"{where or slug}:{line}"
        try:
            call = ast.parse(f"f({found[2]})", mode="eval").body
            assert isinstance(call, ast.Call)
            args = [ast.literal_eval(a) for a in call.args]
            options = {k.arg or "": ast.literal_eval(k.value) for k in call.keywords}
            return macros.named(found[1])(*args, **options)
        except ChapterError as error:
            raise ChapterError(error.problem, where=place, expected=error.expected, remedy=error.remedy) from error
        except UnderhoodError as error:
            raise ChapterError(f"{found[0]}: {error}", where=place) from error
        except (SyntaxError, ValueError, TypeError, OSError, KeyError) as error:
            raise ChapterError(f"{found[0]}: {type(error).__name__}: {error}", where=place) from error

    return MACRO.sub(replace, text)


NAMES = (
    *("source", "lines", "diff", "kills", "figure"),
    *("judged", "plot", "curves", "result", "verdict", "healthy", "broken", "floor", "ceiling", "seeds", "measured"),
)


class Macros:
    """The macros of one chapter for one medium: a page of the site, a terminal or a notebook."""

    def __init__(self, slug: str, medium: Medium) -> None:
        self.slug, self.medium = slug, medium

    def named(self, name: str) -> Callable[..., str]:
        """The macro called ``name``."""
        if name not in NAMES:
            raise ChapterError(f"there is no macro {name!r}", expected=", ".join(NAMES))
        found: Callable[..., str] = getattr(self, name)
        return found

    # ── from the source ───────────────────────────────────────────────────────────────────────────────────────────────

    def source(self, seam: str, *, docstring: bool = True) -> str:
        """The healthy source of a function or class as a block of code; on the site, of what this chapter has its reader write, folded away."""
        text = source(seam)
        block = f"```python\n{(text if docstring else without_docstrings(text)).rstrip()}\n```"
        if self.medium != "site" or not is_own(seam, self.slug):
            return block
        summary = f"<summary>Our version of <code>{seam.partition(':')[2]}</code></summary>"
        return f'<details class="ours" markdown="1">\n{summary}\n\n{block}\n\n</details>'

    def lines(self, seam: str) -> str:
        """How many lines of code a function or class has, without docstrings and blank lines."""
        return str(sum(bool(line.strip()) for line in without_docstrings(source(seam)).splitlines()))

    def diff(self, name: str) -> str:
        """The edit that a break makes; settings are said in a line each."""
        _, sabotage = find_break(name)
        return "```diff\n" + "\n".join(said(p) for p in sabotage.patches) + "\n```"

    def kills(self, slug: str) -> str:
        """Which checks fail under which break of code."""
        found = matrix_of(slug)
        rows = [f"| `{name}` | {', '.join(f'`{c}`' for c in row)} |" for name, row in found.kills.items()]
        return "\n".join(["| Break | Checks that fail |", "|---|---|", *rows])

    # ── from the records ──────────────────────────────────────────────────────────────────────────────────────────────

    def judged(self, name: str) -> str:
        """Every prediction of a break with what was measured and the verdict; the public claim last."""
        text = judged_table(name, record_of(name))
        return text.replace("<br>", " · ") if self.medium == "terminal" else text

    def result(self, name: str, metric: str) -> str:
        """The measured effect with its 95 % interval."""
        return wording.measured(self._judgement(name, metric))

    def verdict(self, name: str, metric: str) -> str:
        """The verdict on the prediction about ``metric``."""
        return str(self._judgement(name, metric)["verdict"])

    def healthy(self, name: str, metric: str) -> str:
        """The mean of the healthy arms."""
        return self._mean(name, metric, "healthy")

    def broken(self, name: str, metric: str) -> str:
        """The mean of the broken arms."""
        return self._mean(name, metric, "broken")

    def floor(self, name: str, metric: str) -> str:
        """The best value that can be reached."""
        return self._bound(name, metric, "floor")

    def ceiling(self, name: str, metric: str) -> str:
        """What knowing nothing gives."""
        return self._bound(name, metric, "ceiling")

    def seeds(self, name: str) -> str:
        """How many paired seeds were run."""
        return str(len(record_of(name)["seeds"]))

    def plot(self, name: str, metric: str) -> str:
        """One dot a seed, the mean and its interval, the predicted region."""
        drawn = differences_plot(self._judgement(name, metric), record_of(name)["metrics"][metric]["says"])
        return self._drawing(drawn, f"{name}: {metric}, {self.result(name, metric)}")

    def curves(self, name: str, key: str) -> str:
        """The curves of a healthy and a broken arm."""
        stored = record_of(name)
        healthy, broken = (stored[which][0].get("curve", []) for which in ("healthy", "broken"))
        if not any(key in point for point in (*healthy, *broken)):
            raise ChapterError(f"the record of {name} has no curve {key!r}")
        metric = stored["metrics"].get(key, {})
        return self._drawing(curves_plot(healthy, broken, key, {k: metric.get(k) for k in ("floor", "ceiling")}), f"{name}: {key} over steps")

    def measured(self, slug: str, key: str) -> str:
        """A figure of the project's committed measurement; ``key`` is a path with dots."""
        path = records_folder() / "measures" / f"{slug}.json"
        if not path.is_file():
            raise ChapterError(f"{slug} has no committed measurement", expected=f"records/measures/{slug}.json")
        value: Any = read_json(path)["measure"]
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ChapterError(f"the measurement of {slug} has no {key!r}", expected=", ".join(value) if isinstance(value, dict) else "a shorter path")
            value = value[part]
        return wording.number(value) if isinstance(value, float) else str(value)

    def figure(self, name: str, alt: str) -> str:
        """A diagram of ours from ``figures/``; ``alt`` says in words what it shows."""
        path = project_folder(self.slug) / "figures" / f"{name}.svg"
        if not path.is_file():
            raise ChapterError(f"there is no figure {name!r}", expected=f"projects/{self.slug}/figures/{name}.svg")
        drawn = re.sub(r"\n\s*\n", "\n", path.read_text(encoding="utf-8").strip())  # a blank line would end the block of HTML
        return self._drawing(re.sub(r"<\?xml.*?\?>\s*|<!--.*?-->\s*", "", drawn, flags=re.DOTALL), alt)

    def _drawing(self, svg: str, alt: str) -> str:
        if self.medium == "terminal":
            return f"> *Figure.* {alt}"
        if self.medium == "notebook":
            styled = re.sub(r"(<svg[^>]*>)", rf"\1<style>{FIGURE_STYLE}</style>", svg[svg.index("<svg") :], count=1)
            return f"![{alt}](data:image/svg+xml;base64,{base64.b64encode(styled.encode()).decode()})"
        return f'<figure class="drawing">\n{svg}\n<figcaption>{alt}</figcaption>\n</figure>'

    def _judgement(self, name: str, metric: str) -> dict[str, Any]:
        judgements: list[dict[str, Any]] = record_of(name)["judgements"]
        for judgement in judgements:
            if judgement["prediction"].get("metric", judgement["prediction"].get("error")) == metric:
                return judgement
        known = ", ".join(str(j["prediction"].get("metric", j["prediction"].get("error"))) for j in judgements)
        raise ChapterError(f"{name} predicts nothing about {metric!r}", expected=known)

    def _mean(self, name: str, metric: str, which: str) -> str:
        values = [arm["figures"].get(metric) for arm in record_of(name)[which]]
        if all(isinstance(v, bool) for v in values):
            return f"{sum(values)} of {len(values)}"
        if any(v is None for v in values):
            raise ChapterError(f"{name} has no {metric!r} in every {which} arm", expected=", ".join(record_of(name)[which][0]["figures"]))
        return wording.number(sum(values) / len(values))

    def _bound(self, name: str, metric: str, which: str) -> str:
        value = record_of(name)["metrics"][metric][which]
        if value is None:
            raise ChapterError(f"{metric} of {name} has no {which}")
        return wording.number(value)


def is_own(seam: str, slug: str) -> bool:
    """Whether a chapter has its reader write what ``seam`` names, or the class that it stands in."""
    module, _, name = seam.partition(":")
    return f"{module}:{name.partition('.')[0]}" in find_project(slug).seams


def judged_table(name: str, stored: dict[str, Any]) -> str:
    """The predictions of a record beside what was measured, as a Markdown table."""
    says = {metric: words["says"] for metric, words in stored["metrics"].items()}
    rows = []
    for j in stored["judgements"]:
        metric = j["prediction"].get("metric", "")
        meaning = f"<br>*{metric}*: {says[metric]}" if says.get(metric) else ""
        rows.append(f"| {wording.predicted(j['prediction'])}{meaning} | {wording.measured(j)} | **{j['verdict']}** |")
    lines = [f"| Predicted for `{name}` | Measured over {len(stored['seeds'])} seeds | Verdict |", "|---|---|---|", *rows]
    if stored["claim"]:
        lines.append(f"| *Public claim*: {stored['claim']['says']} |  | {wording.claim(stored['claim'])} |")
    return "\n".join(lines)


def said(patch: Patch) -> str:
    if isinstance(patch, Edit):
        return diff(patch)
    return f"# {patch.field} becomes {patch.value!r}" if isinstance(patch, Set) else f"# {patch.target} becomes {patch.source}"


def without_docstrings(text: str) -> str:
    """``text`` without the docstrings of the functions and classes in it; comments stay."""
    rows = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            first, last = node.body[0].lineno - 1, node.body[0].end_lineno or 0
            rows[first:last] = [""] * (last - first)
    kept = "".join(rows)
    return textwrap.dedent(re.sub(r"\n{3,}", "\n\n", re.sub(r"(:\n)\n+", r"\1", kept)))


@functools.cache
def record_of(name: str) -> dict[str, Any]:
    """The committed record of a break. Raises ``ChapterError`` when it is missing or stale."""
    _, sabotage = find_break(name)
    standing = record.standing(name, sabotage, records_folder())
    if standing.state not in ("fresh", "moved"):
        raise ChapterError(f"the record of {name} is {standing.state}: {standing.why}", remedy=f"Measure again: underhood break {name} --seeds 5 --record")
    stored: dict[str, Any] = read_json(record.path_of(records_folder(), name))
    return stored


@functools.cache
def matrix_of(slug: str) -> KillMatrix:
    """The kill matrix of a project. It takes up to half a minute to make, so it is kept on disk until a line of our code changes."""
    place, key = cache_folder() / "kills" / f"{slug}.json", _code_hash()
    with contextlib.suppress(UnderhoodError, KeyError, TypeError):
        kept = read_json(place)
        if kept["key"] == key:
            return KillMatrix(slug, tuple(kept["checks"]), kept["kills"])
    project = find_project(slug)
    made = kill_matrix(slug, project.checks(), project.breaks(), project.part_now)
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {"key": key, "checks": made.checks, "kills": made.kills})
    return made


@functools.cache
def _code_hash() -> str:
    """Of every module of ours, and of what they stand on."""
    found = hashlib.sha256(f"{sys.version} {torch.__version__}".encode())
    for path in sorted(Path(underhood.__file__).parent.rglob("*.py")):
        found.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return found.hexdigest()


__all__ = ["FIGURE_STYLE", "ChapterError", "Macros", "Medium", "expand", "is_own", "judged_table", "matrix_of", "project_folder", "records_folder", "said"]
