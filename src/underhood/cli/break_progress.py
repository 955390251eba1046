"""An experiment as a person sees it: one live line a break on a terminal, one plain line an arm elsewhere."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from underhood.lab.run import Job
from underhood.lab.wording import duration, number

START_SECONDS = 2.0  # a worker's imports
MANY_ROWS = 24  # lines; more would not fit a terminal, so what is finished goes


class Watcher:
    """Counts arms as their events come (from several threads). ``stored``: arms that need no run, by (label, baseline)."""

    def __init__(self, jobs: Sequence[Job], stored: Mapping[tuple[str, str], int], workers: int) -> None:
        left = [(j, len(j.seeds) - stored.get((j.label, j.baseline.name), 0)) for j in jobs]
        self.seconds = sum(n * j.baseline.seconds + (START_SECONDS if n else 0) for j, n in left) / workers
        self.workers, self.console, self.lock, self.began = workers, Console(stderr=True), threading.Lock(), time.monotonic()
        self.rows: dict[str, dict[str, Any]] = {}
        for job, n in left:
            row = self.rows.setdefault(job.label, {"total": 0, "done": 0, "now": ""})
            row["total"] += len(job.seeds)
            row["done"] += len(job.seeds) - n
        self.live = Live(console=self.console, get_renderable=self._lines, refresh_per_second=4, transient=True) if self.console.is_terminal else None

    @property
    def total(self) -> int:
        """Arms in all."""
        return sum(r["total"] for r in self.rows.values())

    @property
    def done(self) -> int:
        """Arms that are finished, stored ones included."""
        return sum(r["done"] for r in self.rows.values())

    def estimate(self) -> str:
        """What is about to be run and how long it should take."""
        if self.done == self.total:
            return f"All {self.total} arms are measured already, by an earlier run; nothing to run."
        kept = f" ({self.done} are measured already)" if self.done else ""
        return f"{self.total} arms{kept} on {self.workers} workers: about {duration(self.seconds)}."

    def __enter__(self) -> "Watcher":
        if self.live and self.done < self.total:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def listen(self, label: str, event: dict[str, Any]) -> None:
        """Take one event of a worker."""
        with self.lock:
            row = self.rows[label]
            if event["event"] == "step":
                row["now"] = f"seed {event['seed']}, step {event['step']}" + "".join(f", {k} {number(v)}" for k, v in list(event["figures"].items())[:1])
            elif event["event"] == "end":
                row["done"] += 1
                row["now"] = "" if row["done"] == row["total"] else row["now"]
                if self.live is None:
                    left = self.seconds - (time.monotonic() - self.began)
                    tail = f", about {duration(left)} left" if left > 1 and self.done < self.total else ""
                    self.console.print(
                        f"{label}: seed {event['seed']} {event['how']} ({self.done}/{self.total}{tail})", highlight=False, markup=False, soft_wrap=True
                    )

    def _lines(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(overflow="ellipsis", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="ellipsis", no_wrap=True)
        open_rows = [(label, r) for label, r in self.rows.items() if len(self.rows) <= MANY_ROWS or r["done"] < r["total"]]
        for label, row in open_rows[:MANY_ROWS]:
            finished = row["done"] == row["total"]
            table.add_row(
                Text(label, style="dim" if finished else ""), Text(f"{row['done']}/{row['total']}", style="green" if finished else ""), Text(row["now"])
            )
        return table
