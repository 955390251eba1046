"""You first: what will a break do? Asked before the measurement is shown, scored by direction, and kept in the learner's notebook."""

import dataclasses
from typing import Any

from underhood.lab import wording

DIRECTIONS = ("much worse", "worse", "same", "better", "crash")
MUCH = 0.25  # of the way from the floor to the ceiling
Plain = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One prediction of a break, as it is put to a person; values are None where they are unknown."""

    name: str
    metric: str
    says: str
    healthy: float | None
    floor: float | None
    ceiling: float | None
    judgement: Plain
    metrics: Plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guess:
    """What the person said; "" and None for what was skipped."""

    direction: str = ""
    sees: str = ""
    number: float | None = None


def question(stored: Plain) -> Question:
    """The prediction of a record (in plain form) that says most to a person: a figure that has a better and a worse, else a property."""
    metrics = stored["metrics"]

    def rank(judgement: Plain) -> int:
        metric = metrics.get(judgement["prediction"].get("metric", ""), {})
        return 0 if judgement["effect"] is not None and metric.get("better") in ("lower", "higher") else 1 if judgement["effect"] is None else 2

    judgement = min(stored["judgements"], key=rank)
    name = judgement["prediction"].get("metric", "")
    metric = metrics.get(name, {})
    values = [a["figures"][name] for a in stored["healthy"] if name in a["figures"]]
    return Question(
        name=stored["break"],
        metric=name,
        says=metric.get("says", name or "how the run ends"),
        healthy=sum(map(float, values)) / len(values) if values else None,
        floor=metric.get("floor"),
        ceiling=metric.get("ceiling"),
        judgement=judgement,
        metrics=metrics,
    )


def truth(asked: Question, stored: Plain) -> str:
    """The direction that was measured, in the words of ``DIRECTIONS``."""
    if all(arm["how"] != "done" for arm in stored["broken"]):
        return "crash"
    effect = asked.judgement["effect"]
    if effect is None:
        kept = asked.judgement["prediction"]["kind"] == "Keeps"
        return "same" if kept == (asked.judgement["verdict"] == "held") else "worse"
    metric = asked.metrics[asked.metric]
    mean = effect["mean"]
    straddles = effect["low"] is not None and effect["low"] <= 0 <= effect["high"]
    if abs(mean) <= metric["smallest"] or straddles:
        return "same"
    worse = (mean > 0) == (metric["better"] != "higher")
    if not worse:
        return "better"
    width = abs(asked.ceiling - asked.floor) if asked.ceiling is not None and asked.floor is not None else 40 * metric["smallest"]
    return "much worse" if abs(mean) >= MUCH * width else "worse"


def right(guess: Guess, found: str) -> bool:
    """Whether the direction was right; worse and much worse are one direction."""
    return bool(guess.direction) and guess.direction.replace("much ", "") == found.replace("much ", "")


def verdict(asked: Question, guess: Guess, found: str) -> str:
    """The reader's own prediction, judged: its direction, and its number against the measured interval."""
    said = [f"Your direction, {guess.direction}, is {'right' if right(guess, found) else 'wrong'}."] if guess.direction else []
    if guess.number is None:
        return " ".join(said)
    effect, mine = asked.judgement["effect"], f"Your number, {wording.number(guess.number)},"
    if effect is None:
        return " ".join([*said, f"{mine} has nothing to be held against: this holds or does not."])
    if effect["low"] is None:
        return " ".join([*said, f"{mine} stands beside {wording.signed(effect['mean'])}: too few seeds for an interval."])
    least, most = _sizes(effect["low"], effect["high"])
    size = abs(guess.number)
    place = "lies in" if least <= size <= most else "is smaller than all of" if size < least else "is larger than all of"
    return " ".join([*said, f"{mine} {place} the measured interval ({wording.number(least)} to {wording.number(most)})."])


def _sizes(low: float, high: float) -> tuple[float, float]:
    """The interval of the size of a change, whichever way it goes."""
    sizes = sorted((abs(low), abs(high)))
    return (0.0 if low <= 0 <= high else sizes[0]), sizes[1]


def direction(text: str) -> str:
    """A typed answer as one of ``DIRECTIONS``: by number or by its beginning; "" for anything else."""
    word = text.strip().lower()
    if word.isdigit() and 1 <= int(word) <= len(DIRECTIONS):
        return DIRECTIONS[int(word) - 1]
    return next((d for d in DIRECTIONS if word and d.startswith(word)), "")


def entry(asked: Question, guess: Guess, found: str, surprised: str) -> str:
    """What goes into the notebook."""
    said = [
        guess.direction or "no direction",
        *([f"«{guess.sees}»"] if guess.sees else []),
        *([wording.number(guess.number)] if guess.number is not None else []),
    ]
    lines = [f"**{asked.name}**, {asked.says}", f"- predicted: {', '.join(said)}", f"- measured: {found}, {wording.measured(asked.judgement)}"]
    return "\n".join([*lines, *([f"- what surprised me: {surprised}"] if surprised else [])])
