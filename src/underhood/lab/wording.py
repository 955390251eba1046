"""How predictions, measurements and verdicts are said: the same words in the terminal and on the page. Takes records in their plain form."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from underhood.lab.compare import ENOUGH_SEEDS

Plain = Mapping[str, Any]
ORDER = ("held", "weaker", "opposite", "no effect", "not held", "inconclusive", "preview")


def predicted(prediction: Plain) -> str:
    """``val_loss rises by at least 0.1``."""
    metric = prediction.get("metric", "")
    match prediction["kind"]:
        case "Rises":
            return f"{metric} rises by at least {number(prediction['by'])}"
        case "Falls":
            return f"{metric} falls by at least {number(prediction['by'])}"
        case "Stays":
            return f"{metric} stays within ±{number(prediction['within'])}"
        case "Violates":
            return f"{metric} no longer holds"
        case "Keeps":
            return f"{metric} still holds"
        case _:
            return f"ends with {prediction.get('error', 'an error')}"


def measured(judgement: Plain) -> str:
    """``+0.17 (+0.12 … +0.21)``; for exact properties and crashes what was counted."""
    found = judgement["effect"]
    if found is None:
        return str(judgement["says"])
    if found["low"] is None or judgement["verdict"] == "preview":
        return f"{signed(found['mean'])}, {agreeing(found)} of {len(found['differences'])} seeds this way"
    return f"{signed(found['mean'])} ({signed(found['low'])} … {signed(found['high'])})"


def agreeing(found: Plain) -> int:
    """How many seeds have a difference with the sign of the mean."""
    sign = _sign(found["mean"])
    return sum(_sign(d) == sign for d in found["differences"])


def number(value: float) -> str:
    """Four significant digits, whole numbers in full, with a real minus sign."""
    text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return text.replace("-", "−")


def signed(value: float) -> str:
    """Three significant digits with a sign."""
    return "0" if value == 0 else f"{value:+#.3g}".removesuffix(".").replace("-", "−")


def verdicts(results: Iterable[Plain]) -> Counter[str]:
    """How many predictions ended with which verdict."""
    return Counter(j["verdict"] for r in results for j in r["judgements"])


def tally(results: Iterable[Plain]) -> str:
    """``7 predictions tested: 5 held, 1 weaker, 1 inconclusive``; with too few seeds it says so."""
    results = list(results)
    found = verdicts(results)
    total = sum(found.values())
    counts = ", ".join(f"{found[v]} {v}" for v in ORDER if found[v])
    text = f"{total} prediction{'s' if total != 1 else ''} tested: {counts}" if total else "no prediction tested"
    fewest = min((len(r["seeds"]) for r in results), default=ENOUGH_SEEDS)
    if fewest < ENOUGH_SEEDS:
        text += f". This is a preview: {fewest} seed{'s' if fewest != 1 else ''} show a direction; a verdict on a size needs {ENOUGH_SEEDS}"
    return text


def claim(stored: Plain) -> str:
    """The verdict on a public claim, with the reason where it is not tested."""
    why = f": {stored['why']}" if stored.get("why") else ""
    return f"{stored['verdict']}{why}"


def duration(seconds: float) -> str:
    """``40 s``, ``3 min``, ``1 h 20 min``: as exact as an estimate deserves."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def endings(result: Plain) -> list[str]:
    """How the arms ended that did not run to their end, one line each."""
    lines = []
    for which in ("healthy", "broken"):
        for arm in result[which]:
            if arm["how"] != "done":
                step = f" after step {number(arm['last_step'])}" if arm.get("last_step") is not None else " before the first step"
                lines.append(f"seed {arm['seed']}, {which}: {arm['how']}{step}" + (f": {arm['message']}" if arm["message"] else ""))
    return lines


def directions_agree(old: Plain, new: Plain) -> bool:
    """Whether two judgements of one prediction point the same way: the figures need not be equal, on another machine they are not."""
    a, b = old["effect"], new["effect"]
    if a is None or b is None:
        return bool(old["verdict"] == new["verdict"])
    if old["prediction"]["kind"] == "Stays":
        within = old["prediction"]["within"]
        return bool((abs(a["mean"]) <= within) == (abs(b["mean"]) <= within))
    return _sign(a["mean"]) == _sign(b["mean"])


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
