"""The report's plots as inline SVG: positions in per cent and sizes in pixels, so that letters stay legible on a phone as on a desk.

Colours come from the page's style sheet by class. Every plot says in its ``aria-label`` what it shows, in numbers.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from underhood.lab.wording import number, predicted, signed

LEFT, RIGHT = 3.0, 97.0  # per cent of the width that the data may use
MAX_DOTS = 100
WIDE_RANGE = 50  # a curve whose largest value is this many times its smallest is drawn on a logarithmic scale


def differences_plot(judgement: Mapping[str, Any], unit: str = "") -> str:
    """Every seed's paired difference as a dot, the mean and its 95 % interval below, the zero line, and the predicted region shaded."""
    found, prediction = judgement["effect"], judgement["prediction"]
    edges = _predicted_edges(prediction)
    finite = [e for e in edges if math.isfinite(e)]
    interval = [] if found["low"] is None else [found["low"], found["high"]]
    place = _Scale([0.0, *finite, *found["differences"], *interval])
    parts = [_region(edges, place)]
    parts += [_vertical(0.0, place, "zero", 14, 74)]
    parts += [_vertical(e, place, "threshold", 14, 74) for e in finite]
    parts += [_label(place.percent(e), 10, f"predicted {'+' if e > 0 else ''}{number(e)}", "threshold-text") for e in _labelled(finite)]
    for i, difference in enumerate(found["differences"][:MAX_DOTS]):
        parts.append(f'<circle class="dot" cx="{place.percent(difference):.2f}%" cy="{30 + (i % 3 - 1) * 7}" r="4.5"/>')
    if interval:
        low, high = (f"{place.percent(v):.2f}%" for v in interval)
        parts.append(f'<line class="interval" x1="{low}" x2="{high}" y1="58" y2="58"/>')
        parts += [f'<line class="interval" x1="{x}" x2="{x}" y1="53" y2="63"/>' for x in (low, high)]
    parts.append(f'<circle class="mean" cx="{place.percent(found["mean"]):.2f}%" cy="58" r="5.5"/>')
    parts += ['<line class="axis" x1="0" x2="100%" y1="74" y2="74"/>']
    parts += [_label(place.percent(t), 90, ("+" if t > 0 else "") + number(t), "tick") for t in place.ticks()]
    says = (
        f"Predicted: {predicted(prediction)}. Difference, broken minus healthy, of each seed: {', '.join(signed(d) for d in found['differences'][:MAX_DOTS])}. "
    )
    says += f"Mean {signed(found['mean'])}" + (f", 95 % interval {signed(interval[0])} to {signed(interval[1])}." if interval else ".")
    return _svg(parts, 96, says + (f" {unit}" if unit else ""))


def curves_plot(healthy: Sequence[Mapping[str, float]], broken: Sequence[Mapping[str, float]], key: str, levels: Mapping[str, float | None]) -> str:
    """``key`` over steps, healthy and broken (either may be empty); ``levels`` are horizontal lines by name, such as floor and ceiling."""
    lines = {name: [(p["step"], p[key]) for p in curve if _drawable(p, key)] for name, curve in (("healthy", healthy), ("broken", broken))}
    lines = {name: points for name, points in lines.items() if points}
    return named_curves(lines, key, levels) if lines else ""


def named_curves(lines: Mapping[str, Sequence[tuple[float, float]]], key: str, levels: Mapping[str, float | None] | None = None) -> str:
    """Several named curves of (step, value); the first two have the colours of healthy and broken."""
    known = {name: level for name, level in (levels or {}).items() if level is not None}
    values = [v for points in lines.values() for _, v in points]
    logarithmic = min(values) > 0 and max(values) > WIDE_RANGE * min(values)
    shape = math.log if logarithmic else float
    known = {name: level for name, level in known.items() if level > 0 or not logarithmic}
    across, up = _Scale([s for points in lines.values() for s, _ in points], pad=0), _Scale([shape(v) for v in (*values, *known.values())], pad=0.06)
    parts = [f'<line class="grid" x1="0" x2="100%" y1="{_y(up, shape(t))}" y2="{_y(up, shape(t))}"/>' for t in _curve_ticks(values, logarithmic)]
    parts += [f'<line class="level" x1="0" x2="100%" y1="{_y(up, shape(v))}" y2="{_y(up, shape(v))}"/>' for v in known.values()]
    for name, points in lines.items():
        path = " ".join(f"{across.percent(s):.2f},{100 - up.percent(shape(v)):.2f}" for s, v in points)
        drawn = f'<polyline class="curve {escape(_class(name, lines))}" points="{path}"/>'
        if len(points) == 1:
            drawn = ""
            parts.append(f'<circle class="only {_class(name, lines)}" cx="{across.percent(points[0][0]):.2f}%" cy="{_y(up, shape(points[0][1]))}" r="4"/>')
        parts.append(f'<svg x="0" y="10" width="100%" height="180" viewBox="0 0 100 100" preserveAspectRatio="none">{drawn}</svg>')
    parts += [_text(0, _y(up, shape(t)) - 3, number(t), "tick left") for t in _curve_ticks(values, logarithmic)]
    parts += [_text(100, _y(up, shape(v)) - 3, f"{name} {number(v)}", "level-text right") for name, v in known.items()]
    parts += [_label(across.percent(t), 206, number(t), "tick") for t in across.ticks()]
    ends = "; ".join(f"{name} from {number(points[0][1])} to {number(points[-1][1])}" for name, points in lines.items())
    says = f"{key} over steps{', logarithmic' if logarithmic else ''}: {ends}" + "".join(f"; {name} at {number(v)}" for name, v in known.items())
    return _legend(lines) + _svg(parts, 212, says)


CELL, MARGIN = 10, 14  # of a heat map, in units of its own; it is scaled as a whole
FAINT = 0.005  # weights below this are not drawn


def heat_map(weights: Sequence[Sequence[float]], labels: Sequence[str], says: str) -> str:
    """Weights from 0 to 1 as squares, the stronger the larger: a row for each that looks, a column for each that is looked at, both named by ``labels``."""
    side = MARGIN + CELL * len(labels)
    parts = [f'<rect class="back" x="{MARGIN}" y="0" width="{side - MARGIN}" height="{side - MARGIN}"/>']
    for row, shares in enumerate(weights):
        place = f'y="{row * CELL}" width="{CELL}" height="{CELL}"'
        parts += [f'<rect x="{MARGIN + i * CELL}" {place} fill-opacity="{w:.2f}"/>' for i, w in enumerate(shares) if w >= FAINT]
    for i, label in enumerate(labels):
        middle = (i + 0.5) * CELL
        parts.append(f'<text x="{MARGIN - 5}" y="{middle + 3:g}">{escape(label)}</text>')
        parts.append(f'<text x="{MARGIN + middle:g}" y="{side - 4}">{escape(label)}</text>')
    return f'<svg class="heat" role="img" aria-label="{escape(says)}" viewBox="0 0 {side} {side}">{"".join(parts)}</svg>'


def _legend(lines: Mapping[str, Any]) -> str:
    return '<p class="legend">' + " ".join(f'<span class="key {_class(name, lines)}">{escape(name)}</span>' for name in lines) + "</p>"


def _class(name: str, lines: Mapping[str, Any]) -> str:
    return name if name in ("healthy", "broken") else ("healthy", "broken", "third")[min(list(lines).index(name), 2)]


def _drawable(point: Mapping[str, float], key: str) -> bool:
    return key in point and "step" in point and math.isfinite(point[key])


def _curve_ticks(values: Sequence[float], logarithmic: bool) -> list[float]:
    if logarithmic:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        step = max(1, (high - low) // 4)
        return [t for t in (10.0**e for e in range(low, high + 1, step)) if min(values) <= t <= max(values)]
    return _Scale(values, pad=0.06).ticks()


def _y(up: "_Scale", value: float) -> float:
    return round(10 + 180 * (1 - up.percent(value) / 100), 1)


class _Scale:
    """Numbers to per cent of the width, with room at both ends and round ticks."""

    def __init__(self, values: Sequence[float], pad: float = 0.08) -> None:
        low, high = min(values), max(values)
        room = (high - low) * pad or abs(high) * 0.1 or 1.0
        self.low, self.high = (low - room, high + room) if pad or low == high else (low, high)

    def percent(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return LEFT + (RIGHT - LEFT) * share

    def ticks(self) -> list[float]:
        """Three to six round numbers inside the scale; 0 is one of them where it is inside."""
        raw = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(i * step, 12) for i in range(first, last + 1)]


def _predicted_edges(prediction: Mapping[str, Any]) -> tuple[float, float]:
    match prediction["kind"]:
        case "Rises":
            return prediction["by"], math.inf
        case "Falls":
            return -math.inf, -prediction["by"]
        case _:
            return -prediction["within"], prediction["within"]


def _region(edges: tuple[float, float], place: _Scale) -> str:
    left = 0.0 if edges[0] == -math.inf else place.percent(edges[0])
    right = 100.0 if edges[1] == math.inf else place.percent(edges[1])
    return f'<rect class="region" x="{left:.2f}%" y="14" width="{right - left:.2f}%" height="60"/>'


def _labelled(edges: Sequence[float]) -> Sequence[float]:
    return edges[-1:]  # of two edges ± w the right one is enough


def _vertical(value: float, place: _Scale, kind: str, top: int, bottom: int) -> str:
    x = f"{place.percent(value):.2f}%"
    return f'<line class="{kind}" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'


def _label(percent: float, y: float, text: str, kind: str) -> str:
    side = " left" if percent < 12 else " right" if percent > 88 else ""
    return _text(percent, y, text, f"{kind}{side}")


def _text(percent: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{percent:.2f}%" y="{y}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: int, says: str) -> str:
    return f'<svg class="plot" role="img" aria-label="{escape(says)}" width="100%" height="{height}">{"".join(parts)}</svg>'
