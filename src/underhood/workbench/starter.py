"""A learner's file made from the healthy source by reading it: signatures, shapes, docstrings and imports; bodies only where they are asked for.

What a docstring says under ``How:`` is cut, private helpers are left out (they are part of the answer), public ones are imported.
"""

import ast
import functools
import hashlib
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from underhood.base.errors import DataError
from underhood.lab.check import Check
from underhood.projects.registry import Project
from underhood.workbench.hollow import name_of_seam

Definition = ast.FunctionDef | ast.ClassDef
CONTRACT = "# contract of "
WIDTH = 120


class Home(NamedTuple):
    """A module of ours that holds seams: its text and its tree."""

    module: str
    text: str
    tree: ast.Module

    def defined(self) -> dict[str, ast.stmt]:
        """Top-level name → the statement that defines it."""
        found: dict[str, ast.stmt] = {}
        for node in self.tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found[node.name] = node
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update({t.id: node for t in targets if isinstance(t, ast.Name)})
        return found

    def segment(self, node: ast.stmt) -> str:
        """The source of a top-level statement, decorators and the comment lines right above it left out."""
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        return "\n".join(self.text.splitlines()[first - 1 : node.end_lineno])


@functools.cache
def home(module: str) -> Home:
    """The module's source."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    text = Path(str(spec.origin)).read_text(encoding="utf-8")
    return Home(module, text, ast.parse(text))


def starter(project: Project, *, from_step: int = 1) -> str:
    """The blank file; the seams of the steps before ``from_step`` are written in full.

    Raises ``DataError`` for a step that the project does not have.
    """
    steps = steps_of_seams(project)
    last = max(steps.values())
    if not 1 <= from_step <= last:
        raise DataError(f"step {from_step}", where=project.slug, expected=f"1 to {last}")
    return _file(project, {name for name, step in steps.items() if step < from_step})


def solution(project: Project) -> str:
    """The same file with every body: the healthy layer as one would have written it."""
    return _file(project, set(steps_of_seams(project)))


def _file(project: Project, written: set[str]) -> str:
    seams = [(s.partition(":")[0], name_of_seam(s)) for s in project.seams]
    parts, helpers = [], []
    titles, steps, shown = step_titles(project), steps_of_seams(project), 0
    for module, name in sorted(seams, key=lambda s: steps[s[1]]):
        node = home(module).defined()[name]
        assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
        if steps[name] > shown:
            shown = steps[name]
            parts.append(_banner(titles[shown - 1]))
        parts.append(home(module).segment(node) if name in written else stub(home(module), node))
        if name in written:
            helpers += [(module, helper) for helper in _private(home(module), node, {n for _, n in seams})]
    full = [home(m).segment(home(m).defined()[h]) for m, h in dict.fromkeys(helpers)]
    code = "\n\n\n".join([*full, *parts])
    imports = _imports(project, seams, helpers, written)
    return f"{_header(project)}\n{imports}\n\n\n{code}\n"


def _banner(title: str) -> str:
    return f"# ── step {title} " + "─" * max(0, WIDTH - len(title) - 11)


def _header(project: Project) -> str:
    hashes = " ".join(f"{name}={h}" for name, h in contract(project).items())
    lines = textwrap.wrap(hashes, WIDTH - 2)
    return "\n".join(
        [
            f'"""{project.title}: project {project.number}, yours to write.',
            "",
            "Replace each `raise NotWritten(…)` by code, step by step, and after each step look at what holds:",
            "",
            f"    underhood check {project.slug}         underhood hint {project.slug}         underhood read {project.slug}",
            '"""',
            "",
            f"{CONTRACT}{project.slug}; these lines let `check` tell when it has changed:",
            *(f"# {line}" for line in lines),
            "",
        ]
    )


# ── stubs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def stub(where: Home, node: Definition) -> str:
    """The definition with its signature, its public docstring, and ``NotWritten`` for a body."""
    return _stub_class(where, node) if isinstance(node, ast.ClassDef) else _stub_function(where, node, node.name)


def _stub_function(where: Home, node: ast.FunctionDef, name: str) -> str:
    lines = where.text.splitlines()
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    body_starts = node.body[0].lineno
    signature = lines[first - 1 : body_starts - 1] if body_starts > node.lineno else [lines[first - 1].split(":")[0] + ":"]
    indent = " " * (node.col_offset + 4)
    docstring = _docstring(node, indent)
    return "\n".join([*(line for line in signature if line.strip()), *docstring, f'{indent}raise NotWritten("{name}")'])


def _stub_class(where: Home, node: ast.ClassDef) -> str:
    lines = where.text.splitlines()
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    parts = ["\n".join([*lines[first - 1 : node.body[0].lineno - 1], *_docstring(node, " " * 4)]).rstrip()]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and (not item.name.startswith("_") or item.name.endswith("__")):
            parts.append(_stub_function(where, item, f"{node.name}.{item.name}"))
        elif isinstance(item, (ast.Assign, ast.AnnAssign)) and not any(n.startswith("_") and not n.endswith("__") for n in _targets(item)):
            parts.append("\n".join(lines[item.lineno - 1 : item.end_lineno]))
    return "\n\n".join(parts)


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]


def _docstring(node: Definition, indent: str) -> list[str]:
    text = ast.get_docstring(node)
    if text is None:
        return []
    text = re.sub(r"(?ms)^How:.*?(\n\s*\n|\Z)", "", text).strip()
    rows = text.splitlines()
    if len(rows) == 1:
        return [f'{indent}"""{rows[0]}"""']
    return [f'{indent}"""{rows[0]}', *((indent + row).rstrip() for row in rows[1:]), f'{indent}"""']


# ── imports ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _imports(project: Project, seams: list[tuple[str, str]], helpers: list[tuple[str, str]], written: set[str]) -> str:
    own = {name for _, name in seams} | {name for _, name in helpers}
    plain: set[str] = set()
    named: dict[str, set[str]] = {}
    if len(written) < len(seams):
        named["underhood.base.errors"] = {"NotWritten"}
    for module, name in (*seams, *helpers):
        where = home(module)
        node = where.defined()[name]
        used = _names(node) - {name}
        for imported in _import_statements(where.tree):
            _take(imported, used, own, plain, named)
        for word in used & set(where.defined()):
            if word not in own and not word.startswith("_"):
                named.setdefault(module, set()).add(word)
    named = {m: {n for n in names if not _refused(m, n, project)} for m, names in named.items()}
    rows = [f"import {p}" for p in plain if p.split(" ")[0].split(".")[0] not in project.borrowed]
    rows += [f"from {m} import {', '.join(sorted(names))}" for m, names in named.items() if names]
    return "\n\n".join("\n".join(_wrapped(group)) for group in _grouped(rows) if group)


def _take(node: ast.Import | ast.ImportFrom, used: set[str], own: set[str], plain: set[str], named: dict[str, set[str]]) -> None:
    for alias in node.names:
        bound = (alias.asname or alias.name).split(".")[0]
        if bound in used and bound not in own:
            text = alias.name + (f" as {alias.asname}" if alias.asname else "")
            if isinstance(node, ast.Import):
                plain.add(text)
            else:
                named.setdefault(str(node.module), set()).add(text)


def _refused(module: str, name: str, project: Project) -> bool:
    return f"{module}.{name}" in project.borrowed or module.split(".", maxsplit=1)[0] in project.borrowed


def _import_statements(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def _names(node: ast.AST) -> set[str]:
    """Names that a definition uses, those inside quoted annotations too."""
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    quoted = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str) and re.fullmatch(r"[\w\[\], .|]+", n.value)]
    return found | {word for text in quoted if len(text) < WIDTH for word in re.findall(r"[A-Za-z_]\w*", text) if word[0].isupper()}


def _private(where: Home, node: ast.AST, seams: set[str], found: tuple[str, ...] = ()) -> list[str]:
    """Private helpers of the module that a definition needs, those that they need included, in the order of the file."""
    needed = {n for n in _names(node) & set(where.defined()) if n.startswith("_") and n not in seams and n not in found}
    everything = set(found) | needed
    for name in sorted(needed):
        everything |= set(_private(where, where.defined()[name], seams, tuple(everything)))
    return [name for name in where.defined() if name in everything]


def _grouped(rows: Iterable[str]) -> list[list[str]]:
    groups: list[list[str]] = [[], [], []]
    for row in sorted(rows, key=lambda r: (r.split()[1].lower(), r)):
        root = row.split()[1].split(".")[0]
        groups[0 if root in sys.stdlib_module_names else 2 if root == "underhood" else 1].append(row)
    return [sorted(g, key=lambda r: (r.startswith("from"), r.lower())) for g in groups]


def _wrapped(rows: list[str]) -> list[str]:
    found = []
    for row in rows:
        head, _, names = row.partition(" import ")
        if len(row) <= WIDTH or not names:
            found.append(row)
        else:
            found.append(f"{head} import (\n" + "".join(f"    {n},\n" for n in names.split(", ")) + ")")
    return found


# ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def step_titles(project: Project) -> list[str]:
    """The steps of the build, in order: ``"2 · Scaled dot product"``."""
    return [f"{i} · {title}" for i, title in enumerate(dict.fromkeys(plain_step(check) for check in project.checks()), 1)]


def plain_step(check: Check) -> str:
    """The title of a check's step without its number."""
    return re.sub(r"^\d+ · ", "", check.step)


@functools.cache
def _steps_of_seams(slug: str) -> dict[str, int]:
    from underhood.projects.registry import find_project

    project = find_project(slug)
    titles = step_titles(project)
    plain = [title.split(" · ", 1)[1] for title in titles]
    found: dict[str, int] = {}
    for check in project.checks():
        for name in parts_used(check):
            found.setdefault(name, plain.index(plain_step(check)) + 1)
    return {name_of_seam(s): found.get(name_of_seam(s), len(titles)) for s in project.seams}


def steps_of_seams(project: Project) -> dict[str, int]:
    """Seam → the number of the first step whose checks use it."""
    return _steps_of_seams(project.slug)


def parts_used(check: Check) -> list[str]:
    """The seams that a check uses, read from its source and that of the helpers that it hands ``part`` to."""
    module = inspect.getmodule(check.run)
    assert module is not None
    functions = {n.name: n for n in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(n, ast.FunctionDef)}
    found: list[str] = []
    seen: set[str] = set()
    queue = [check.run.__name__]
    while queue:
        name = queue.pop(0)
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "part":
                found.append(node.attr)
            if isinstance(node, ast.Call) and any(isinstance(a, ast.Name) and a.id == "part" for a in node.args):
                called = node.func.args[0] if isinstance(node.func, ast.Call) and node.func.args else node.func
                queue += [n.id for n in [called, *node.args] if isinstance(n, ast.Name)]
    return list(dict.fromkeys(found))


# ── the contract ──────────────────────────────────────────────────────────────────────────────────────────────────────


def contract(project: Project) -> dict[str, str]:
    """Seam → hash of its signature and public docstring."""
    names = [name_of_seam(seam) for seam in project.seams]
    return {name: hashlib.sha256(stub_of(project, name).encode()).hexdigest()[:8] for name in names}


def stub_of(project: Project, name: str) -> str:
    """The blank form of one seam."""
    seam = next(s for s in project.seams if name_of_seam(s) == name)
    where = home(seam.partition(":")[0])
    node = where.defined()[name]
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    return stub(where, node)


def changed_since(project: Project, text: str) -> list[str]:
    """Seams whose contract is another than the one that the learner's file ``text`` was made from; none when the file says nothing of it."""
    if CONTRACT not in text:
        return []
    noted = dict(re.findall(r"(\w+)=([0-9a-f]{8})\b", text.split(CONTRACT, 1)[1].split("\n\n", 1)[0]))
    return [name for name, now in contract(project).items() if noted.get(name) != now]
