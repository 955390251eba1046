"""The projects as ``syllabus.toml`` lists them, with their checks, breaks and parts."""

import dataclasses
import functools
import importlib
import importlib.util
import tomllib
from importlib import resources
from typing import Any

from underhood.base.config import from_plain
from underhood.base.errors import UnknownName, UserError
from underhood.base.names import load
from underhood.lab.check import Check, Part
from underhood.lab.sabotage import Sabotage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Project:
    """One entry of the syllabus; the field names are those of the file."""

    number: int
    slug: str
    title: str
    part: str
    hours: float
    lines: int  # of code that a learner writes for `owns`, without docstrings, comments and annotations (tests/projects hold it)
    needs: tuple[str, ...]
    stages: tuple[str, ...]  # which of layer, checks, breaks, records, starter, chapter exist
    owns: tuple[str, ...]  # the seams that a learner writes, "module:qualname"
    extension: tuple[str, ...] = ()  # further seams, for those who go on: built on `owns`, checked after them
    borrowed: tuple[str, ...] = ()  # calls that would be the answer
    model: str = ""  # the named trained model that it needs
    plug: str = ""  # what `plug` drives, in words
    arena: str = ""  # the baseline that it runs, with the learner's part and without

    @property
    def seams(self) -> tuple[str, ...]:
        """All seams, those of the extension last."""
        return self.owns + self.extension

    def checks(self) -> tuple[Check, ...]:
        """What any correct implementation satisfies, in the order of the build."""
        found: tuple[Check, ...] = self._module("checks").CHECKS
        return found

    def breaks(self) -> tuple[Sabotage, ...]:
        """The declared breaks."""
        found: tuple[Sabotage, ...] = self._module("breaks").BREAKS
        return found

    def variants(self) -> tuple[Sabotage, ...]:
        """Experiments that are measured like breaks but break nothing (another scale, another score)."""
        name = f"underhood.projects.{self.slug}.variants"
        found: tuple[Sabotage, ...] = importlib.import_module(name).VARIANTS if importlib.util.find_spec(name) else ()
        return found

    def experiments(self) -> tuple[Sabotage, ...]:
        """Breaks and variants: everything that has a record."""
        return (*self.breaks(), *self.variants())

    def find(self, name: str) -> Sabotage:
        """The break or variant called ``name``. Raises ``UnknownName`` with the nearest."""
        known = {s.name: s for s in self.experiments()}
        if name not in known:
            raise UnknownName(f"break of {self.slug}", name, known)
        return known[name]

    def part_now(self) -> Part:
        """The seams as they are at this moment: healthy, or under whatever patch is applied."""
        return Part(**{seam.rpartition(":")[2].rpartition(".")[2]: load(seam) for seam in self.seams})

    def measure(self) -> dict[str, Any]:
        """What the layer costs on this machine: numbers by name, or groups of them; the names say the units."""
        found: dict[str, Any] = self._module("measure").measure()
        return found

    def measure_seconds(self) -> float | None:
        """About how long ``measure`` takes; None for a project that declares no figures."""
        if importlib.util.find_spec(f"underhood.projects.{self.slug}.measure") is None:
            return None
        seconds: float = self._module("measure").SECONDS
        return seconds

    def sections(self) -> list[Any]:
        """What the project shows on its report page beside its breaks (``lab.report.Section``); most show nothing."""
        if importlib.util.find_spec(f"underhood.projects.{self.slug}.page") is None:
            return []
        found: list[Any] = self._module("page").sections()
        return found

    def _module(self, name: str) -> Any:
        return importlib.import_module(f"underhood.projects.{self.slug}.{name}")


@functools.cache
def syllabus() -> tuple[Project, ...]:
    """All projects in the order of the course."""
    return tuple(from_plain(Project, entry, where="syllabus.toml") for entry in _file()["project"])


def given() -> tuple[str, ...]:
    """What no project owns: ``"module"``, which stands for all its public names, or ``"module:name"``."""
    return tuple(_file()["given"])


@functools.cache
def _file() -> dict[str, Any]:
    return tomllib.loads(resources.files("underhood.projects").joinpath("syllabus.toml").read_text(encoding="utf-8"))


def find_project(name: str) -> Project:
    """The project by slug, number or a word of its title. Raises ``UnknownName`` with the nearest."""
    word = name.strip().lower()
    for project in syllabus():
        if word in (project.slug, str(project.number)):
            return project
    by_title = [p for p in syllabus() if word and word in p.title.lower().replace(":", "").split()]
    if len(by_title) == 1:
        return by_title[0]
    raise UnknownName("project", name, [p.slug for p in syllabus()])


def find_break(name: str) -> tuple[Project, Sabotage]:
    """The break called ``"project.break"``. Raises ``UnknownName``."""
    slug, dot, rest = name.partition(".")
    project = find_project(slug)
    if not dot:
        raise UserError(f"{name!r} names a project, not a break", expected="project.break", remedy=f"See: underhood list {slug}")
    return project, project.find(rest)
