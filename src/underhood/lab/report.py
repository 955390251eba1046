"""Results as one HTML page that stands by itself: no script, no request, plots as inline SVG, light and dark, legible in print and on a phone.

Everything that comes from a result is hostile text (models write it) and is escaped here; ``Section`` takes HTML that its maker has escaped,
for instance with ``texts``, ``table`` and ``paragraph`` of this file. Sizes are bounded.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any, NamedTuple

from underhood.lab import wording
from underhood.lab.report_plots import curves_plot, differences_plot, heat_map, named_curves

Plain = Mapping[str, Any]
MAX_TEXT = 4000  # characters of one text that a model wrote
MAX_DIFF = 120  # lines
MAX_ROWS = 200  # of any table
MAX_CURVES = 3  # figures of one break that are drawn over steps
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
TONES = {"held": "good", "weaker": "open", "inconclusive": "open", "preview": "", "opposite": "bad", "no effect": "bad", "not held": "bad", "refuted": "bad"}


class Section(NamedTuple):
    """A part of the page that is not a break's: ``html`` must be safe already."""

    heading: str
    html: str


def render(results: Sequence[Plain], *, title: str, intro: str = "", sections: Iterable[Section | tuple[str, str]] = ()) -> str:
    """The page for ``results`` (records in their plain form, ``record.to_plain``). ``sections`` come first; ``title`` and ``intro`` are plain text."""
    parts = [f"<h1>{escape(title)}</h1>"]
    parts += [f'<p class="lead">{escape(line)}</p>' for line in intro.split("\n\n") if line]
    parts += [f"<section><h2>{escape(heading)}</h2>{html}</section>" for heading, html in sections]
    if results:
        parts += [_summary(results), *(_card(r) for r in results[:MAX_ROWS])]
    parts.append(f"<footer>{_how_to_read()}</footer>" if results else "")
    return page(title, "\n".join(parts))


def page(title: str, body: str) -> str:
    """``body`` (safe HTML) as a whole document with the report's style."""
    style = resources.files("underhood.lab").joinpath("report.css").read_text(encoding="utf-8")
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{style}</style>",
    ]
    lines = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", f"<body><main>\n{body}\n</main></body>", "</html>", ""]
    return "\n".join(lines)


# ── pieces that others may use too ────────────────────────────────────────────────────────────────────────────────────


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def texts(named: Mapping[str, str]) -> str:
    """Texts side by side (below each other on a phone), each under its name, as they were written."""
    blocks = [f'<div><p class="label">{escape(name)}</p><pre class="text">{escape(cut(text))}</pre></div>' for name, text in named.items()]
    return f'<div class="sides">{"".join(blocks)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    """A table of texts and numbers; numbers stand to the right."""
    rows = [list(r) for r in rows][:MAX_ROWS]
    numeric = [all(not isinstance(r[i], str) for r in rows) and bool(rows) for i in range(len(head))]

    def cell(tag: str, value: str | float, right: bool) -> str:
        text = value if isinstance(value, str) else wording.number(value)
        kind = ' class="number"' if right else ""
        return f"<{tag}{kind}>{escape(cut(text, 500))}</{tag}>"

    def row(tag: str, values: Sequence[str | float]) -> str:
        return "<tr>" + "".join(cell(tag, v, n) for v, n in zip(values, numeric, strict=True)) + "</tr>"

    return f'<div class="scroll"><table>{row("th", head)}{"".join(row("td", r) for r in rows)}</table></div>'


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], key: str, levels: Mapping[str, float | None] | None = None) -> str:
    """Named curves of (step, value) as a figure; values that are not finite are left out."""
    kept = {n: [(s, v) for s, v in points if math.isfinite(v)] for n, points in lines.items()}
    kept = {n: points for n, points in kept.items() if points}
    return f"<figure><figcaption>{escape(key)} over steps</figcaption>{named_curves(kept, key, levels)}</figure>" if kept else ""


def heat_maps(maps: Mapping[str, tuple[Sequence[Sequence[float]], str]], labels: Sequence[str]) -> str:
    """Heat maps side by side: each caption with its rows of weights and what they say in numbers."""
    drawn = [f"<figure>{heat_map(rows, labels, f'{name}. {says}')}<figcaption>{escape(name)}</figcaption></figure>" for name, (rows, says) in maps.items()]
    return f'<div class="heads">{"".join(drawn)}</div>'


def badge(verdict: str, text: str = "") -> str:
    """A verdict (or ``text`` about it) in the verdict's colour."""
    return f'<span class="badge {TONES.get(verdict, "")}">{escape(text or verdict)}</span>'


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """``text``, or its beginning with a note of how much is left out."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"


# ── the summary ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _summary(results: Sequence[Plain]) -> str:
    rows = []
    for result in results[:MAX_ROWS]:
        counts = wording.verdicts([result])
        found = " ".join(badge(v, f"{counts[v]} {v}") for v in wording.ORDER if counts[v])
        name = escape(result["break"])
        shown = name.replace(".", ".<wbr>").replace("_", "_<wbr>")
        rows.append(f'<tr><td><a href="#{name}">{shown}</a></td><td>{escape(cut(result["says"], 300))}</td><td>{found}</td></tr>')
    head = "<tr><th>Break</th><th>What was done</th><th>Its predictions</th></tr>"
    count = f'<p class="lead">{escape(wording.tally(results))}.</p>'
    return f'<section class="summary">{count}<table>{head}{"".join(rows)}</table></section>'


def _how_to_read() -> str:
    return (
        "How to read it: each break changes the healthy code in one place and runs beside it with the same seeds. "
        "A dot is one seed’s difference, broken minus healthy; "
        "the black mark is their mean with its 95 % interval (Student’s t, paired). The shaded side is what was predicted before the run. "
        "<em>Held</em>: the interval lies on the predicted side of 0 and the mean reaches the predicted size; <em>weaker</em>: it does not reach it; "
        "<em>no effect</em>: within the difference that is declared to be of no interest; <em>inconclusive</em>: these seeds do not decide."
    )


# ── one break ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _card(result: Plain) -> str:
    parts = [
        _head(result),
        _patch(result),
        "<h3>Predicted, and measured</h3>",
        *(_judgement(j, result) for j in result["judgements"]),
        _curves(result),
        _before_after(result),
        _claim(result["claim"]),
        _ends(result),
        _details(result),
    ]
    return f'<section id="{escape(result["break"])}">{"".join(parts)}</section>'


def _head(result: Plain) -> str:
    words = {"part": "a part broken", "setup": "a part used badly"}
    tags: list[str] = [words.get(result["kind"], str(result["kind"])), *(["silent"] if result["silent"] else [])]
    marks = "".join(f'<span class="tag">{escape(t)}</span>' for t in tags)
    head = f'<div class="title"><h2>{escape(result["break"])}</h2>{marks}</div>'
    look = f'<p class="soft">What one sees: {escape(cut(result["look"], 600))}</p>' if result["look"] else ""
    return f'<header>{head}<p class="lead">{escape(cut(result["says"], 600))}</p>{look}{_cites(result["cites"])}</header>'


def _cites(cites: Sequence[str]) -> str:
    links = [_link(c) for c in cites[:20]]
    return f'<p class="soft">It happened: {", ".join(links)}</p>' if links else ""


def _link(text: str) -> str:
    if text.startswith(("https://", "http://")) and not any(c.isspace() for c in text):
        return f'<a rel="noreferrer" href="{escape(text)}">{escape(text)}</a>'
    return escape(text)


def _patch(result: Plain) -> str:
    parts = [_diff(d) for d in result["diff"]]
    for patch in result["patch"]:
        if patch["kind"] == "Set":
            parts.append(f"<p><code>{escape(patch['field'])}</code> is set to <code>{escape(cut(str(patch['value']), 300))}</code></p>")
        elif patch["kind"] == "Bind":
            parts.append(f"<p><code>{escape(patch['target'])}</code> is replaced by <code>{escape(patch['source'])}</code></p>")
    return "".join(parts)


def _diff(text: str) -> str:
    kinds = {"+": "added", "-": "removed", "@": "place"}
    rows = text.splitlines()
    lines = [
        f'<span class="{"place" if row.startswith(("+++", "---")) else kinds.get(row[:1], "same")}">{escape(row) or " "}</span>' for row in rows[:MAX_DIFF]
    ]
    more = f'<span class="place">… {len(rows) - MAX_DIFF} more lines</span>' if len(rows) > MAX_DIFF else ""
    return f'<pre class="diff" aria-label="What was changed">{"".join(lines)}{more}</pre>'


def _judgement(judgement: Plain, trial: Plain) -> str:
    prediction = judgement["prediction"]
    metric = trial["metrics"].get(prediction.get("metric"), {})
    head = f'<div class="title"><strong>{escape(wording.predicted(prediction))}</strong>{badge(judgement["verdict"])}</div>'
    meaning = f'<p class="soft">{escape(metric["says"])}</p>' if metric.get("says") else ""
    if judgement["effect"] is None:
        shown = f"<p>{escape(judgement['says'])}</p>{_property_rows(prediction, trial)}"
    else:
        shown = f"<figure>{differences_plot(judgement)}<figcaption>{escape(_caption(judgement))}</figcaption></figure>"
    return f'<div class="prediction">{head}{meaning}{shown}</div>'


def _caption(judgement: Plain) -> str:
    found = judgement["effect"]
    seeds = f"{len(found['differences'])} seed{'s' if len(found['differences']) != 1 else ''}"
    return f"Broken minus healthy, {seeds}: {wording.measured(judgement)}"


def _property_rows(prediction: Plain, trial: Plain) -> str:
    """A mark for every seed, where the prediction is about a property on which the seeds of one side differ."""
    if prediction["kind"] not in ("Violates", "Keeps"):
        return ""
    held = {which: [a["figures"].get(prediction["metric"]) is True for a in trial[which]] for which in ("healthy", "broken")}
    if all(len(set(marks)) == 1 for marks in held.values()):
        return ""

    def mark(holds: bool) -> str:
        return f'<td class="{"yes" if holds else "no"}">{"holds" if holds else "does not"}</td>'

    head = "".join(f"<th>seed {escape(str(s))}</th>" for s in trial["seeds"][:20])
    rows = "".join(f"<tr><td>{which}</td>{''.join(mark(m) for m in marks[:20])}</tr>" for which, marks in held.items())
    return f'<div class="scroll"><table class="seeds"><tr><th></th>{head}</tr>{rows}</table></div>'


def _curves(result: Plain) -> str:
    healthy, broken = (result[which][0].get("curve", []) if result[which] else [] for which in ("healthy", "broken"))
    keys = [k for k in dict.fromkeys(k for point in (*healthy, *broken) for k in point) if k != "step"]
    figures = []
    for key in keys[:MAX_CURVES]:
        metric = result["metrics"].get(key, {})
        drawn = curves_plot(healthy, broken, key, {name: metric.get(name) for name in ("floor", "ceiling")})
        figures.append(f"<figure>{drawn}<figcaption>{escape(key)} over steps</figcaption></figure>" if drawn else "")
    return f"<h3>The run, seed {escape(str(result['seeds'][0]))}</h3>{''.join(figures)}" if any(figures) else ""


def _before_after(result: Plain) -> str:
    healthy, broken = (result[which][0].get("texts", {}) if result[which] else {} for which in ("healthy", "broken"))
    parts = []
    for name in list(dict.fromkeys([*healthy, *broken]))[:6]:
        pair = {"healthy": healthy.get(name, "(nothing)"), "broken": broken.get(name, "(nothing)")}
        parts.append(f"<h3>{escape(name.replace('_', ' '))}, before and after</h3>{texts(pair)}")
    return "".join(parts)


def _claim(claim: Plain | None) -> str:
    if claim is None:
        return ""
    why = f"<p>{escape(cut(claim['why'], 1000))}</p>" if claim.get("why") else ""
    tested = "".join(_judgement(j, claim) for j in claim.get("judgements", []))
    setting = f'<p class="soft">Tested under its own conditions: {escape(claim["baseline"])}, {len(claim["seeds"])} seeds</p>' if tested else ""
    head = f'<div class="title"><h3>A public claim</h3>{badge(claim["verdict"])}</div>'
    quote = f'<blockquote>{escape(cut(claim["says"], 1000))}</blockquote><p class="soft">{_link(claim["source"])}</p>'
    return f'<div class="claim">{head}{quote}{why}{setting}{tested}</div>'


def _ends(result: Plain) -> str:
    early = wording.endings(result)
    total = len(result["healthy"]) + len(result["broken"])
    if not early:
        return f'<p class="soft">All {total} arms ran to their end.</p>'
    shown = "".join(f"<li>{escape(cut(line, 400))}</li>" for line in early[:20])
    return f"<h3>{len(early)} of {total} arms ended early</h3><ul>{shown}</ul>"


def _details(result: Plain) -> str:
    facts = {
        "Again": f"underhood break {result['break']} --seeds {len(result['seeds'])}",
        "Baseline": result["baseline"] + (f" · {result['corpus']}" if result["corpus"] else ""),
        "Date": result["date"],
        "Versions": ", ".join(f"{k} {v}" for k, v in result["versions"].items()),
        "Machine": ", ".join(f"{k} {v}" if k == "threads" else str(v) for k, v in result["machine"].items()),
        "Time": wording.duration(sum(a["seconds"] for w in ("healthy", "broken") for a in result[w])) + " of arms, healthy and broken",
        "Hashes": f"declaration {result['declaration']}, prediction {result['prediction']}, target {result['target']}",
    }
    if result["probe"]:
        probe = result["probe"]
        told = "tells" if probe["separates"] else "does not tell"
        facts["Probe"] = f"{probe['metric']} {probe['kind'].lower()} {wording.number(probe['threshold'])} {told} every broken arm from every healthy one"
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{f'<code>{escape(v)}</code>' if k == 'Again' else escape(v)}</dd>" for k, v in facts.items())
    return f"<details><summary>Seeds, figures, versions</summary><dl>{listed}</dl>{_figures(result)}</details>"


def _figures(result: Plain) -> str:
    """Every figure of every arm."""
    names = [n for n in result["metrics"] if any(n in a["figures"] for w in ("healthy", "broken") for a in result[w])]
    rows = [[f"{which} {arm['seed']}", *(_figure(arm["figures"].get(n)) for n in names)] for which in ("healthy", "broken") for arm in result[which]]
    return table(["arm, seed", *names], rows)


def _figure(value: float | bool | None) -> str:
    if value is None:
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else wording.number(value)
