"""A break in secret: its telemetry, probes that can be asked for, and a diagnosis that is scored. Everything comes from the committed records."""

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from underhood.base.errors import UserError
from underhood.lab import wording
from underhood.lab.sabotage import Sabotage
from underhood.projects.registry import Project
from underhood.workbench.macros import ChapterError, matrix_of, record_of

START, FREE, WRONG = 10, 3, 4  # points at the beginning; probes that cost nothing; what a wrong diagnosis costs
CANDIDATES = 6
Plain = dict[str, Any]


@dataclasses.dataclass
class Incident:
    """One drawn break and how far its diagnosis is."""

    project: Project
    sabotage: Sabotage
    stored: Plain
    candidates: list[str]
    asked: list[str] = dataclasses.field(default_factory=list)
    wrong: int = 0

    @property
    def points(self) -> int:
        """What a right answer would give now."""
        return max(0, START - max(0, len(self.asked) - FREE) - WRONG * self.wrong)

    def probes(self) -> dict[str, str]:
        """Name → what it would show: every figure of the run, and every check of the project."""
        metrics = self.stored["metrics"]
        figures = {name: metrics[name]["says"] for name in self.stored["healthy"][0]["figures"] if name in metrics}
        return figures | {f"check {c.name}": f"does «{c.name.replace('_', ' ')}» hold?" for c in self.project.checks()}

    def probe(self, name: str) -> str:
        """Ask for a probe; from the fourth on each costs a point."""
        if name not in self.asked:
            self.asked.append(name)
        if name.startswith("check "):
            failed = matrix_of(self.project.slug).kills.get(self.sabotage.name, {}).get(name.removeprefix("check "))
            return f"{name}: {'holds' if failed is None else 'fails: ' + failed.splitlines()[0]}"
        healthy, broken = ([a["figures"].get(name) for a in self.stored[which]] for which in ("healthy", "broken"))
        return f"{name}: healthy {_values(healthy)}, here {_values(broken)}"

    def name_it(self, name: str) -> bool:
        """Whether the diagnosis is right; breaks with the same patch count as one."""
        same = {s.name for s in self.project.experiments() if s.patches == self.sabotage.patches}
        if name in same:
            return True
        self.wrong += 1
        return False


def draw(projects: Sequence[Project], rng: random.Random) -> Incident:
    """A break of one of ``projects`` that has a sound record. Raises ``UserError`` when there is none."""
    pool = []
    for project in projects:
        for sabotage in project.breaks():
            try:
                stored = record_of(f"{project.slug}.{sabotage.name}")
            except ChapterError:
                continue
            pool.append((project, sabotage, stored))
    if not pool:
        raise UserError("there is no finished project to draw from", remedy="Finish one first: underhood check PROJECT until all holds, or name one: --project")
    project, sabotage, stored = rng.choice(pool)
    others = [b for b in project.breaks() if b.patches != sabotage.patches]
    distinct = list({b.patches: b.name for b in others}.values())
    candidates = [*rng.sample(distinct, min(CANDIDATES - 1, len(distinct))), sabotage.name]
    rng.shuffle(candidates)
    return Incident(project, sabotage, stored, candidates)


def telemetry(incident: Incident) -> list[str]:
    """What a dashboard would show: how the runs ended, the curve, a text."""
    stored, lines = incident.stored, []
    lines.append(f"Project {incident.project.title}; run: {stored['baseline']}, {len(stored['seeds'])} seeds.")
    ends = sorted({a["how"] for a in stored["broken"]})
    lines.append("Every run came to its end." if ends == ["done"] else f"The runs ended: {', '.join(ends)}.")
    for which, word in (("healthy", "a healthy run"), ("broken", "this run")):
        curve = [p for p in stored[which][0].get("curve", []) if "loss" in p]
        if curve:
            picked = [curve[round(i * (len(curve) - 1) / 5)] for i in range(6)]
            lines.append(f"loss of {word}: " + ", ".join(f"{wording.number(p['loss'])} (step {p['step']})" for p in picked))
    for which, word in (("healthy", "A healthy run writes"), ("broken", "This run writes")):
        texts = stored[which][0].get("texts", {})
        if texts:
            lines.append(f"{word}: {next(iter(texts.values())).strip()[:300]}")
    return lines


def _values(values: Sequence[Any]) -> str:
    if all(isinstance(v, bool) for v in values):
        return f"true in {sum(values)} of {len(values)}"
    numbers = [float(v) for v in values if v is not None]
    if not numbers:
        return "nothing (the runs ended before)"
    return wording.number(numbers[0]) if len(set(numbers)) == 1 else f"{wording.number(min(numbers))} … {wording.number(max(numbers))}"
