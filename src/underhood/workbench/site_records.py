"""The records as pages, one a project, and the symptom index: from what one sees to the breaks that look like it."""

import re
from html import escape
from typing import Any

from underhood.base.files import read_json
from underhood.lab import record, wording
from underhood.lab.report_plots import curves_plot, differences_plot
from underhood.lab.sabotage import Crashes, Falls, Keeps, Rises, Sabotage, Stays, Violates
from underhood.projects.registry import Project, syllabus
from underhood.workbench.chapter import has_chapter
from underhood.workbench.macros import judged_table, matrix_of, records_folder, said

MAX_PLOTS = 2
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
STATES = {"fresh": "", "moved": "", "stale": "**Stale**: the code has changed since this was measured. ", "missing": ""}


def _measured() -> list[Project]:
    return [p for p in syllabus() if "breaks" in p.stages]


def stored_record(name: str) -> dict[str, Any] | None:
    """The committed record of an experiment, stale or not; None when there is none."""
    path = record.path_of(records_folder(), name)
    if not path.is_file():
        return None
    found: dict[str, Any] = read_json(path)
    return found


def records_table() -> str:
    """The projects with their experiments, and what became of their predictions."""
    rows = []
    for project in _measured():
        found = [r for s in project.experiments() if (r := stored_record(f"{project.slug}.{s.name}")) is not None]
        counts = wording.verdicts(found)
        verdicts = ", ".join(f"{counts[v]} {v}" for v in wording.ORDER if counts[v]) or "not measured yet"
        rows.append(f"| [{project.title}](records/{project.slug}.md) | {len(project.experiments())} | {verdicts} |")
    return "\n".join(["| Project | Experiments | Predictions |", "|---|--:|---|", *rows])


# ── one project ───────────────────────────────────────────────────────────────────────────────────────────────────────


def records_page(project: Project) -> str:
    """Every break and variant of a project with its measurement, then the kill matrix."""
    chapter = f" The chapter: [{project.title}](../course/{project.slug}.md)." if has_chapter(project.slug) else ""
    parts = [
        f"# Records: {project.title}\n",
        f"Each is a change of one place, measured beside the healthy code with the same seeds ([how](../lab.md)).{chapter}\n",
    ]
    parts += [_experiment(project, s) for s in project.breaks()]
    if project.variants():
        parts.append("## Variants\n\nMeasured like breaks; nothing is broken.\n")
        parts += [_experiment(project, s, level=3) for s in project.variants()]
    parts.append(kill_page(project))
    return "\n".join(parts)


def _experiment(project: Project, sabotage: Sabotage, level: int = 2) -> str:
    name = f"{project.slug}.{sabotage.name}"
    stored = stored_record(name)
    tags = ["a part broken" if sabotage.kind == "part" else "a part used badly", *(["silent"] if sabotage.silent else [])]
    marks = " ".join(f'<span class="tag">{tag}</span>' for tag in tags)
    parts = [f"{'#' * level} {sabotage.name} {{ #{sabotage.name} }}\n", f"{sabotage.says} {marks}\n", f"*What one sees:* {sabotage.look}\n", _change(sabotage)]
    if stored is None:
        parts.append(f"Not measured yet: `underhood break {name} --seeds 5 --record`\n")
    else:
        state = record.standing(name, sabotage, records_folder()).state
        parts += [f"{judged_table(name, stored)}\n", *_plots(stored)]
        parts.append(f'<p class="facts" markdown="1">{STATES[state]}{stored["date"]} · again: `underhood break {name} --seeds {len(stored["seeds"])}`</p>\n')
    if sabotage.cites:
        parts.append("It happened: " + ", ".join(f"<{c}>" if c.startswith("http") else c for c in sabotage.cites) + "\n")
    return "\n".join(parts)


def _change(sabotage: Sabotage) -> str:
    shown = "\n".join(said(p) for p in sabotage.patches)
    return f'<details markdown="1">\n<summary>The change</summary>\n\n```diff\n{shown}\n```\n\n</details>\n'


def _plots(stored: dict[str, Any]) -> list[str]:
    numeric = [j for j in stored["judgements"] if j["effect"] is not None]
    drawn = []
    for judgement in numeric[:MAX_PLOTS]:
        metric = judgement["prediction"]["metric"]
        says = f"{metric}: {stored['metrics'][metric]['says']}"
        drawn.append(_figure(differences_plot(judgement), f"{says}. Broken minus healthy, a dot a seed: {wording.measured(judgement)}"))
    healthy, broken = (stored[which][0].get("curve", []) if stored[which] else [] for which in ("healthy", "broken"))
    keys = [k for k in dict.fromkeys(k for point in (*healthy, *broken) for k in point) if k != "step"]
    for key in keys[:1]:
        metric = stored["metrics"].get(key, {})
        curves = curves_plot(healthy, broken, key, {level: metric.get(level) for level in ("floor", "ceiling")})
        if curves:
            drawn.append(_figure(curves, f"{key} over steps, seed {stored['seeds'][0]}"))
    return drawn


def _figure(svg: str, caption: str) -> str:
    return f'<figure class="drawing plot">\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>\n'


def kill_page(project: Project) -> str:
    """Which check fails under which break, as a grid."""
    matrix = matrix_of(project.slug)
    legend = dict(zip(matrix.checks, LETTERS, strict=False))
    head = "".join(f'<th title="{escape(check)}">{letter}</th>' for check, letter in legend.items())
    rows = []
    for name, row in matrix.kills.items():
        cells = "".join(f'<td class="kill" title="{escape(row[check])}">●</td>' if check in row else "<td>·</td>" for check in legend)
        rows.append(f'<tr><th><a href="#{name}">{name}</a></th>{cells}</tr>')
    keys = " · ".join(f"<b>{letter}</b> {check.replace('_', ' ')}" for check, letter in legend.items())
    probes = "".join(
        f"- [`{s.name}`](#{s.name}): {s.probe.metric} {type(s.probe).__name__.lower()} {s.probe.threshold:g}\n"
        for s in project.breaks()
        if s.kind == "setup" and s.probe is not None
    )
    grid = f'<div class="scroll"><table class="kills"><tr><th></th>{head}</tr>{"".join(rows)}</table></div>\n<p class="facts">{keys}</p>\n'
    intro = "Every break of code fails at least one check, and every check is failed by at least one break.\n"
    return f"## Kill matrix\n\n{intro}\n{grid}\n" + (f"Breaks by setup have a probe instead:\n\n{probes}" if probes else "")


# ── symptoms ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SYMPTOMS = {
    "The loss is too good": "Better than the floor, or better than anything you had before. Look for an answer that stands in the input.",
    "The loss is flat, or stops early": "It keeps its first value, or that of guessing by frequency.",
    "The loss is worse than it should be": "It falls, and ends too high.",
    "NaN or infinity": "In the loss, or one step later in every weight.",
    "An error": "The friendly kind: it names the place.",
    "Fine loss, wrong text": "The curve says nothing; what is written, decoded or chosen is wrong.",
    "Nothing, until a rare case comes": "Right on everything that was tried.",
    "Nothing changes in the loss": "It was measured, and stayed where it was.",
    "Everything runs, and an exact property fails": "Shapes agree and nothing crashes; only a test that asks for the property sees it.",
}
FLAT = re.compile(r"first value|stays there|stalls|stays at the log|knows only|nothing else|stops early|to that of guessing|stays high")
RARE = re.compile(r"\buntil\b|^One infinite|resume|ends in Recursion|every (?:test|text) .* (?:passes|whole)|Where nobody|With k = 1", re.IGNORECASE)
TEXT = re.compile(r"\btext\b|\bwrit|\bbabbles|\bsays\b|\bwords?\b|Decoded|English is intact|wrong side")
NAN = re.compile(r"\bNaN\b|infinit|\boverflows\b", re.IGNORECASE)
OTHERS_LOSS = ("blind_loss", "next_character_loss")


def symptoms_of(sabotage: Sabotage) -> list[str]:
    """What one would see, by the predictions, ``silent`` and ``look``; a break may show in several ways."""
    expect, look = sabotage.expect, sabotage.look
    falls, rises, stays = ({e.metric for e in expect if isinstance(e, kind)} for kind in (Falls, Rises, Stays))
    errors = {e.error for e in expect if isinstance(e, Crashes)}
    losses = {m for m in rises | falls | stays if m.endswith("loss") and m not in OTHERS_LOSS}
    wrong_text = any(isinstance(e, Violates) and e.metric.endswith("round_trip") for e in expect) or bool(rises & set(OTHERS_LOSS)) or bool(TEXT.search(look))
    shown = {
        "The loss is too good": bool(falls & losses) or ("compress" in look and "better" in look),
        "The loss is flat, or stops early": bool(FLAT.search(look)) or "fell" in falls,
        "The loss is worse than it should be": bool(rises & losses),
        "NaN or infinity": "NonFinite" in errors or bool(NAN.search(look)),
        "An error": bool(errors - {"NonFinite"}) or look.startswith("An error"),
        "Fine loss, wrong text": wrong_text and not rises & losses and not errors,
        "Nothing, until a rare case comes": bool(RARE.search(look)),
        "Nothing changes in the loss": bool(stays & losses),
        "Everything runs, and an exact property fails": sabotage.silent and not losses and any(isinstance(e, (Violates, Keeps)) for e in expect),
    }
    return [name for name in SYMPTOMS if shown[name]] or [list(SYMPTOMS)[-1]]


def symptom_index() -> str:
    """Every declared break under what one sees of it."""
    found: dict[str, list[tuple[Project, Sabotage]]] = {name: [] for name in SYMPTOMS}
    for project in _measured():
        for sabotage in project.breaks():
            for name in symptoms_of(sabotage):
                found[name].append((project, sabotage))
    return "\n".join(f"## {name}\n\n{SYMPTOMS[name]}\n\n{_entries(entries)}\n" for name, entries in found.items() if entries)


def _entries(entries: list[tuple[Project, Sabotage]]) -> str:
    rows = []
    for project, sabotage in entries:
        link = f"[{project.slug}.{sabotage.name}](records/{project.slug}.md#{sabotage.name})"
        chapter = f" · [chapter](course/{project.slug}.md#break-it)" if has_chapter(project.slug) else ""
        rows.append(f'- {sabotage.look}\n  <span class="facts" markdown="1">{link}{chapter} · {_tells(project, sabotage)}</span>')
    return "\n".join(rows)


def _tells(project: Project, sabotage: Sabotage) -> str:
    if sabotage.probe is not None:
        return f"{sabotage.probe.metric} {type(sabotage.probe).__name__.lower()} {sabotage.probe.threshold:g}"
    kills = matrix_of(project.slug).kills
    killers = sorted(kills[sabotage.name], key=lambda check: sum(check in row for row in kills.values()))
    return f"check: *{killers[0].replace('_', ' ')}*" if killers else "no check"


__all__ = ["SYMPTOMS", "kill_page", "records_page", "records_table", "symptom_index", "symptoms_of"]
