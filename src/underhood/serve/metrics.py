"""What happened, as Prometheus reads it (text format 0.0.4): counters, gauges, and histograms of the times that a reader notices."""

import bisect
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from underhood.infer.generation import Piece

FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds to the first token
NEXT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)  # seconds from token to token
GAUGES = {"running": "requests that run", "waiting": "requests that wait", "blocks_used": "blocks of the cache in use", "blocks": "blocks of the cache"}
COUNTS = {
    "asked": "tokens of requests that joined",
    "cached": "tokens of them that were found in blocks",
    "computed": "tokens that went through the model",
    "generated": "tokens that were written",
    "guessed": "tokens that were guessed",
    "right": "guesses that were kept",
    "preempted": "requests that had to make way",
}


class Histogram:
    """How many values lie at or below each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """Its samples."""
        below, lines = 0, []
        for bound, count in zip([*self.bounds, float("inf")], self.counts, strict=True):
            below += count
            lines.append(f'{name}_bucket{{le="{"+Inf" if bound == float("inf") else f"{bound:g}"}"}} {below}')
        return [*lines, f"{name}_sum {self.total:.6f}", f"{name}_count {below}"]


class Watch:
    """The times of one choice."""

    def __init__(self, metrics: "Metrics", asked: float) -> None:
        self.metrics, self.last, self.begun = metrics, asked, False

    def piece(self, piece: Piece) -> None:
        """The next piece has come."""
        metrics, now = self.metrics, time.monotonic()
        if piece.tokens:
            (metrics.next if self.begun else metrics.first).add(now - self.last)
            self.last, self.begun = now, True
        if piece.finish:
            metrics.finished[piece.finish] += 1


class Metrics:
    """Written by the engine's thread and, ``answered``, by the event loop's."""

    def __init__(self) -> None:
        self.first, self.next = Histogram(FIRST), Histogram(NEXT)
        self.finished: Counter[str] = Counter()
        self.answers: Counter[tuple[str, int]] = Counter()
        self.steps = self.cancelled = 0
        self._lock = threading.Lock()

    def watch(self, asked: float) -> Watch:
        """Watch a choice that was asked for at ``asked``."""
        return Watch(self, asked)

    def step(self, tokens: int) -> None:
        """The engine has made a step."""
        self.steps += tokens > 0

    def answered(self, path: str, status: int) -> None:
        """A request was answered. ``path`` is one of ours, or the page would grow with what strangers ask."""
        self.answers[path, status] += 1

    def text(self, engine: Mapping[str, float]) -> str:
        """The page; ``engine`` is ``Engine.statistics()``."""
        lines: list[str] = []
        for name, says in GAUGES.items():
            lines += _metric(f"underhood_{name}", "gauge", says, [f"underhood_{name} {engine[name]:g}"])
        for name, says in COUNTS.items():
            lines += _metric(f"underhood_{name}_total", "counter", says, [f"underhood_{name}_total {int(engine[name])}"])
        lines += _metric("underhood_steps_total", "counter", "steps of the engine", [f"underhood_steps_total {self.steps}"])
        finished = [f'underhood_finished_total{{reason="{reason}"}} {count}' for reason, count in sorted(self.finished.items())]
        lines += _metric("underhood_finished_total", "counter", "choices that ended", finished)
        answers = [f'underhood_answers_total{{path="{path}",status="{status}"}} {count}' for (path, status), count in sorted(self.answers.items())]
        lines += _metric("underhood_answers_total", "counter", "requests answered", answers)
        for histogram, name, says in ((self.first, "first_token", "to the first token"), (self.next, "next_token", "from token to token")):
            lines += _metric(f"underhood_{name}_seconds", "histogram", f"seconds {says}", histogram.lines(f"underhood_{name}_seconds"))
        return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, says: str, samples: Sequence[str]) -> list[str]:
    return [f"# HELP {name} {says}", f"# TYPE {name} {kind}", *samples]
