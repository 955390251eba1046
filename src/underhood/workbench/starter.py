"""A learner's file made from the healthy source by reading it: signatures, shapes, docstrings and imports; bodies only where they are asked for.

What a docstring says under ``How:`` is cut, private helpers are left out (they are part of the answer), public ones are imported, and so are the errors
of ours that the docstrings name or the bodies raise.
"""

import ast
import functools
import hashlib
import importlib.util
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from underhood.base import errors
from underhood.base.errors import DataError
from underhood.projects.registry import Project
from underhood.workbench.hollow import name_of_seam
from underhood.workbench.steps import needed_before, needs, step_titles, steps_of_seams

Definition = ast.FunctionDef | ast.ClassDef
CONTRACT = "# contract of "
BLANK = 'raise NotWritten("'
WIDTH, LINE = 120, 160  # of what is laid out here, and of what comes from the source


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
    """The blank file; what the steps before ``from_step`` need is written in full, of a class the methods.

    Raises ``DataError`` for a step that the project does not have, and for one before which everything is needed.
    """
    last = len(step_titles(project))
    if not 1 <= from_step <= last:
        raise DataError(f"step {from_step}", where=project.slug, expected=f"1 to {last}")
    text = _file(project, needed_before(project, from_step) if from_step > 1 else set())
    if BLANK not in text:
        raise DataError(f"step {from_step} leaves nothing to write", where=project.slug, expected="an earlier step: those before it use every part")
    return text


def solution(project: Project) -> str:
    """The same file with every body: the healthy layer as one would have written it."""
    seams = [_definition(project, name_of_seam(seam)) for seam in project.seams]
    return _file(project, {name for _, node in seams for name in [node.name, *_methods(node)]})


def _file(project: Project, written: set[str]) -> str:
    """``written``: functions, classes, and methods as ``"Class.method"``."""
    seams = [(s.partition(":")[0], name_of_seam(s)) for s in project.seams]
    parts: list[str] = []
    helpers: list[tuple[str, str]] = []
    titles, steps, shown = step_titles(project), steps_of_seams(project), 0
    for module, name in sorted(seams, key=lambda s: steps[s[1]]):
        where, node = _definition(project, name)
        if steps[name] > shown:
            shown = steps[name]
            parts.append(_banner(titles[shown - 1]))
        parts.append(stub(where, node, written, _labels(project)))
        helpers += [(module, helper) for item in _written(node, written) for helper in _private(where, item, {n for _, n in seams})]
    full = [home(m).segment(home(m).defined()[h]) for m, h in dict.fromkeys(helpers)]
    code = "\n\n\n".join([*full, *parts])
    blank = BLANK in code
    imports = _imports(project, seams, list(dict.fromkeys(helpers)), blank=blank)
    return f"{_header(project, blank=blank)}\n{imports}\n\n\n{code}\n"


def later_methods(project: Project) -> dict[str, str]:
    """``"Class.method"`` → the step that first needs it, for the methods in the starter that are written after their class is begun."""
    titles, steps, known = step_titles(project), steps_of_seams(project), needs(project.slug)
    return {n: titles[known[n].first - 1] for n in _shown_methods(project) if n in known and known[n].first > steps[n.partition(".")[0]]}


def _labels(project: Project) -> dict[str, str]:
    """``"Class.method"`` → its step, for classes whose methods are not all of one step."""
    titles, steps, later = step_titles(project), steps_of_seams(project), later_methods(project)
    several = {name.partition(".")[0] for name in later}
    return {n: later.get(n, titles[steps[cls] - 1]) for n in _shown_methods(project) if (cls := n.partition(".")[0]) in several}


def _shown_methods(project: Project) -> list[str]:
    nodes = [_definition(project, name_of_seam(seam))[1] for seam in project.seams]
    return [name for node in nodes for name in _methods(node) if _is_shown(name.partition(".")[2])]


def _is_shown(method: str) -> bool:
    return not method.startswith("_") or method.endswith("__")


def _definition(project: Project, name: str) -> tuple[Home, Definition]:
    """Where the seam called ``name`` stands, and how it is defined there."""
    seam = next(s for s in project.seams if name_of_seam(s) == name)
    where = home(seam.partition(":")[0])
    node = where.defined()[name]
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    return where, node


def _methods(node: Definition) -> list[str]:
    return [f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)] if isinstance(node, ast.ClassDef) else []


def _written(node: Definition, written: set[str]) -> list[ast.AST]:
    """The definitions in ``node`` whose bodies are to be written in full."""
    if isinstance(node, ast.FunctionDef):
        return [node] if node.name in written else []
    return [item for item in node.body if isinstance(item, ast.FunctionDef) and f"{node.name}.{item.name}" in written]


def _banner(title: str) -> str:
    return f"# ── step {title} " + "─" * max(0, WIDTH - len(title) - 11)


def _header(project: Project, *, blank: bool) -> str:
    hashes = " ".join(f"{name}={h}" for name, h in contract(project).items())
    how = "Replace each `raise NotWritten(…)` by code, step by step, and after each step look at what holds:" if blank else "Look at what holds:"
    return "\n".join(
        [
            f'"""{project.title}: project {project.number}, {"yours to write" if blank else "written"}.',
            "",
            how,
            "",
            f"    underhood check {project.slug}         underhood hint {project.slug}         underhood read {project.slug}",
            '"""',
            "",
            f"{CONTRACT}{project.slug}; these lines let `check` tell when it has changed:",
            *(f"# {line}" for line in textwrap.wrap(hashes, WIDTH - 2)),
            "",
        ]
    )


# ── stubs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def stub(where: Home, node: Definition, written: Iterable[str] = (), labels: Mapping[str, str] | None = None) -> str:
    """The definition with its signature, its public docstring, and ``NotWritten`` for a body; in full where ``written`` names it.

    ``labels``: ``"Class.method"`` → the step that a comment above it names.
    """
    known = set(written)
    if isinstance(node, ast.FunctionDef):
        return where.segment(node) if node.name in known else _stub_function(where, node, node.name)
    return where.segment(node) if known.issuperset(_methods(node)) else _stub_class(where, node, known, labels or {})


def _stub_function(where: Home, node: ast.FunctionDef, name: str) -> str:
    lines = where.text.splitlines()
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    body_starts = node.body[0].lineno
    signature = lines[first - 1 : body_starts - 1] if body_starts > node.lineno else [lines[first - 1].split(":")[0] + ":"]
    indent = " " * (node.col_offset + 4)
    docstring = _docstring(node, indent)
    return "\n".join([*(line for line in signature if line.strip()), *docstring, f'{indent}raise NotWritten("{name}")'])


def _stub_class(where: Home, node: ast.ClassDef, written: set[str], labels: Mapping[str, str]) -> str:
    lines = where.text.splitlines()
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    parts = ["\n".join([*lines[first - 1 : node.body[0].lineno - 1], *_docstring(node, " " * 4)]).rstrip()]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and f"{node.name}.{item.name}" in written:
            parts.append(where.segment(item))
        elif isinstance(item, ast.FunctionDef) and _is_shown(item.name):
            name = f"{node.name}.{item.name}"
            label = f"    # step {labels[name]}\n" if name in labels else ""
            parts.append(label + _stub_function(where, item, name))
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
    if len(rows) == 1 and len(indent) + len(rows[0]) + 6 <= LINE:
        return [f'{indent}"""{rows[0]}"""']
    return [f'{indent}"""{rows[0]}', *((indent + row).rstrip() for row in rows[1:]), f'{indent}"""']


# ── imports ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _imports(project: Project, seams: list[tuple[str, str]], helpers: list[tuple[str, str]], *, blank: bool) -> str:
    own = {name for _, name in seams} | {name for _, name in helpers}
    plain: set[str] = set()
    named: dict[str, set[str]] = {}
    if blank:
        named["underhood.base.errors"] = {"NotWritten"}.union(*(_errors(home(module), home(module).defined()[name]) for module, name in seams))
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


def _errors(where: Home, node: ast.stmt) -> set[str]:
    """The errors of ours that a definition's docstrings name, and that it or a private helper of its raises."""
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    docs = [ast.get_docstring(n) or "" for n in ast.walk(node) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    words = {word for text in docs for word in re.findall(r"``(\w+)``", text)}
    for helper in _private(where, node, set()):
        words |= _names(where.defined()[helper])
    return {word for word in words | _names(node) if isinstance(found := getattr(errors, word, None), type) and issubclass(found, Exception)}


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


# ── the contract ──────────────────────────────────────────────────────────────────────────────────────────────────────


def contract(project: Project) -> dict[str, str]:
    """Seam → hash of its signature and public docstring."""
    names = [name_of_seam(seam) for seam in project.seams]
    return {name: hashlib.sha256(stub_of(project, name).encode()).hexdigest()[:8] for name in names}


def stub_of(project: Project, name: str) -> str:
    """The blank form of one seam."""
    return stub(*_definition(project, name))


def changed_since(project: Project, text: str) -> list[str]:
    """Seams whose contract is another than the one that the learner's file ``text`` was made from; none when the file says nothing of it."""
    if CONTRACT not in text:
        return []
    noted = dict(re.findall(r"(\w+)=([0-9a-f]{8})\b", text.split(CONTRACT, 1)[1].split("\n\n", 1)[0]))
    return [name for name, now in contract(project).items() if noted.get(name) != now]
