"""The one place that swaps code: three kinds of patch, applied inside a scope and undone exactly.

``Set``  puts another value into a config field;
``Edit`` replaces one piece of text in a healthy function and swaps the function's code, so that every importer sees it;
``Bind`` puts another function or class into a seam: a learner's layer enters by this door (``bind``).

A patch that matches nothing, matches twice, changes nothing or overlaps another is a ``PatchError`` before anything runs.
Every patch is plain data (``to_plain``), so it can be stored in a record and sent to a process of its own.
Standard library only; the project's healthy code knows nothing of it.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import linecache
import textwrap
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from underhood.base.config import override
from underhood.base.errors import NotReached, PatchError
from underhood.base.names import load
from underhood.lab.bind import Bind, class_replaced, compare_signatures, door, fitting, load_source

__all__ = [
    "Bind",
    "Edit",
    "Patch",
    "Reached",
    "Set",
    "applied",
    "compare_signatures",
    "configure",
    "diff",
    "edited_source",
    "from_plain",
    "load_source",
    "resolve",
    "source",
    "to_plain",
]
C = TypeVar("C")
MARK = "__underhood_reached__"  # the name, in a patched function's globals, of the call that notes that it ran


@dataclasses.dataclass(frozen=True)
class Set:
    """``field`` (dotted) of the baseline's config gets ``value``; parts are named as in the config."""

    field: str
    value: Any

    def __post_init__(self) -> None:
        if callable(self.value):
            object.__setattr__(self, "value", f"{self.value.__module__}:{self.value.__qualname__}")


@dataclasses.dataclass(frozen=True)
class Edit:
    """In the source of the function ``target`` (``"module:qualname"``), the text ``old``, which must occur exactly once, becomes ``new``.

    Text of several lines is written with the indentation that it has when the function's first line starts at column 0.
    """

    target: str
    old: str
    new: str


Patch = Set | Edit | Bind


def to_plain(patch: Patch) -> dict[str, Any]:
    """``patch`` as a dict of JSON values."""
    return {"kind": type(patch).__name__, **dataclasses.asdict(patch)}


def from_plain(values: dict[str, Any]) -> Patch:
    """The patch that ``to_plain`` wrote."""
    kinds: dict[str, type[Any]] = {"Set": Set, "Edit": Edit, "Bind": Bind}
    rest = {k: v for k, v in values.items() if k != "kind"}
    patch: Patch = kinds[values["kind"]](**rest)
    return patch


def configure(config: C, patches: Sequence[Patch]) -> C:
    """``config`` with every ``Set`` applied. Raises ``PatchError`` when one changes nothing."""
    for patch in patches:
        if isinstance(patch, Set):
            changed = override(config, {patch.field: patch.value})
            if changed == config:
                raise PatchError(f"{patch.field} is {patch.value!r} already: this patch changes nothing", where="Set")
            config = changed
    return config


@contextlib.contextmanager
def applied(patches: Sequence[Patch]) -> Iterator["Reached"]:
    """Apply every ``Edit`` and ``Bind`` for the length of the scope; yields the note of which patched functions ran."""
    code_patches = [p for p in patches if not isinstance(p, Set)]
    _refuse_overlap(code_patches)
    reached = Reached(tuple(p.target for p in code_patches))
    with contextlib.ExitStack() as stack:
        for patch in code_patches:
            stack.enter_context(_edited(patch, reached) if isinstance(patch, Edit) else _bound(patch, reached))
        yield reached


class Reached:
    """Which patched functions have run. An experiment whose patch never ran is an error, never «no effect»."""

    def __init__(self, targets: tuple[str, ...]) -> None:
        self.targets = targets
        self.ran: set[str] = set()

    def require(self) -> None:
        """Raise ``NotReached`` naming the targets that never ran."""
        missing = [t for t in self.targets if t not in self.ran]
        if missing:
            raise NotReached("the patched code never ran, so nothing was tested", where=", ".join(missing))


def _refuse_overlap(patches: Sequence[Edit | Bind]) -> None:
    targets = [p.target for p in patches]
    for i, a in enumerate(targets):
        for b in targets[i + 1 :]:
            if a == b or a.startswith(b + ".") or b.startswith(a + "."):
                raise PatchError(f"two patches of {b} overlap", where=a)


# ── Edit ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def resolve(target: str) -> types.FunctionType:
    """The plain function or method that ``target`` names. Raises ``PatchError`` for anything whose code cannot be swapped."""
    found = load(target)
    if isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    if isinstance(found, property) and found.fget is not None:
        found = found.fget
    if hasattr(found, "cache_info"):
        raise PatchError("a cached function cannot be edited: its cache would answer instead", where=target)
    found = inspect.unwrap(found)
    if not isinstance(found, types.FunctionType):
        raise PatchError(f"a {type(found).__name__} cannot be edited", where=target, expected="a plain function or method")
    return found


def source(target: str) -> str:
    """The dedented source of the function or class that ``target`` names, decorators included."""
    found = load(target)
    lines = _Place.of(target).lines if not inspect.isclass(found) else inspect.getsourcelines(found)[0]
    return textwrap.dedent("".join(lines))


def edited_source(edit: Edit) -> str:
    """The dedented source of the function after the edit. Raises ``PatchError`` unless ``old`` occurs exactly once."""
    healthy = source(edit.target)
    count = healthy.count(edit.old)
    if count != 1:
        found = "is not there" if count == 0 else f"occurs {count} times"
        raise PatchError(f"the text {edit.old!r} {found}", where=edit.target, expected="exactly one occurrence")
    return healthy.replace(edit.old, edit.new)


def diff(edit: Edit, *, context: int = 2) -> str:
    """The edit as a unified diff with the line numbers of the healthy file."""
    place, name = _Place.of(edit.target), edit.target.replace(":", " · ")
    healthy = textwrap.dedent("".join(place.lines)).splitlines()
    broken = edited_source(edit).splitlines()
    rows = list(difflib.unified_diff(healthy, broken, f"{name} (healthy)", f"{name} (broken)", n=context, lineterm=""))
    return "\n".join([*rows[:2], *(_shift(row, place.first - 1) if row.startswith("@@") else row for row in rows[2:])])


def _shift(header: str, by: int) -> str:
    parts = header.split(" ")
    moved = [p[0] + ",".join([str(int(n) + by if i == 0 else int(n)) for i, n in enumerate(p[1:].split(","))]) for p in parts[1:3]]
    return " ".join([parts[0], *moved, *parts[3:]])


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a function stands in its file: the file's text, the function's first and last line."""

    text: str
    first: int
    last: int

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines(keepends=True)[self.first - 1 : self.last]

    @classmethod
    def of(cls, target: str) -> "_Place":
        function = resolve(target)
        file = inspect.getsourcefile(function)
        if file is None or "<locals>" in function.__qualname__:
            raise PatchError("its source cannot be read", where=target)
        text = Path(file).read_text(encoding="utf-8")
        node = _find(ast.parse(text), function.__qualname__, function.__code__.co_firstlineno, target)
        return cls(text, _first_line(node), node.end_lineno or 0)

    def compile(self, target: str, segment: str, *, mark: bool) -> tuple[types.CodeType, ast.FunctionDef | ast.AsyncFunctionDef]:
        """The function's code (and syntax tree) when ``segment`` stands in its place in the file; ``mark`` notes each run."""
        function = resolve(target)
        lines = self.text.splitlines(keepends=True)
        indent = lines[self.first - 1][: len(lines[self.first - 1]) - len(lines[self.first - 1].lstrip())]
        text = "".join(lines[: self.first - 1]) + textwrap.indent(segment, indent) + "".join(lines[self.last :])
        filename = f"<{target}, patched>"
        try:
            tree = ast.parse(text, filename)
        except SyntaxError as error:
            raise PatchError(f"the edited code does not parse ({error.msg})", where=target) from error
        node = _find(tree, function.__qualname__, self.first, target)
        _drop_docstring(node)
        if mark:
            note = ast.parse(f"{MARK}({target!r})").body[0]
            node.body.insert(0, ast.copy_location(ast.fix_missing_locations(note), node.body[0]))
            ast.fix_missing_locations(node)
            linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        code = _code_named(compile(tree, filename, "exec", dont_inherit=True), function.__qualname__, self.first)
        if code is None or code.co_freevars != function.__code__.co_freevars:
            raise PatchError("the edit changes which outer variables the function closes over", where=target)
        return code, node


def _find(tree: ast.Module, qualname: str, first: int, target: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    nodes: list[ast.AST] = [tree]
    for name in qualname.split("."):
        nodes = [n for parent in nodes for n in _inner(parent) if n.name == name]
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and first in (_first_line(node), node.lineno):
            return node
    raise PatchError("its source on disk is not the code that was loaded", where=target, remedy="Start again in a fresh process.")


def _inner(parent: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Definitions directly inside ``parent``, looking through ``if`` and ``try``."""
    for child in ast.iter_child_nodes(parent):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield child
        elif isinstance(child, (ast.If, ast.Try)):
            yield from _inner(child)


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def _drop_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body[0] = ast.copy_location(ast.Pass(), node.body[0])


def _code_named(code: types.CodeType, qualname: str, first: int) -> types.CodeType | None:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            if constant.co_qualname == qualname and constant.co_firstlineno == first:
                return constant
            if found := _code_named(constant, qualname, first):
                return found
    return None


def _substance(code: types.CodeType) -> tuple[Any, ...]:
    """What a code object does, without where it stands: two equal substances are the same function."""
    constants = tuple(_substance(c) if isinstance(c, types.CodeType) else (type(c), repr(c)) for c in code.co_consts)
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    return (code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, shape)


@contextlib.contextmanager
def _edited(edit: Edit, reached: Reached) -> Iterator[None]:
    function, place = resolve(edit.target), _Place.of(edit.target)
    broken, node = place.compile(edit.target, edited_source(edit), mark=True)
    plain_broken, _ = place.compile(edit.target, edited_source(edit), mark=False)
    plain_healthy, healthy_node = place.compile(edit.target, source(edit.target), mark=False)
    defaults, kwdefaults = _defaults(function, healthy_node, node)
    same_defaults = defaults is function.__defaults__ and kwdefaults is function.__kwdefaults__
    if same_defaults and _substance(plain_broken) == _substance(plain_healthy):
        raise PatchError(f"replacing {edit.old!r} by {edit.new!r} changes nothing", where=edit.target)
    with _swapped(function, broken, defaults, kwdefaults), _noted(function, reached):
        yield


def _defaults(function: types.FunctionType, healthy: Any, broken: Any) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    """The defaults after the edit; those whose expression did not change keep their very objects."""
    before, after = _default_expressions(healthy.args), _default_expressions(broken.args)
    if [(n, ast.dump(d)) for n, d in before.items()] == [(n, ast.dump(d)) for n, d in after.items()]:
        return function.__defaults__, function.__kwdefaults__
    held = dict(zip(before, (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()), strict=True))

    def value(name: str) -> Any:
        if name in before and ast.dump(before[name]) == ast.dump(after[name]):
            return held[name]
        return eval(compile(ast.fix_missing_locations(ast.Expression(after[name])), "<default>", "eval"), function.__globals__)

    keyword = {arg.arg: value(arg.arg) for arg in broken.args.kwonlyargs if arg.arg in after}
    return tuple(value(name) for name in after if name not in keyword) or None, keyword or None


def _default_expressions(arguments: ast.arguments) -> dict[str, ast.expr]:
    """Parameter → the expression of its default, positional ones first."""
    positional = [*arguments.posonlyargs, *arguments.args]
    found = {a.arg: d for a, d in zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True)}
    return found | {a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None}


@contextlib.contextmanager
def _swapped(function: types.FunctionType, code: types.CodeType, defaults: Any, kwdefaults: Any) -> Iterator[None]:
    healthy = function.__code__, function.__defaults__, function.__kwdefaults__
    function.__code__, function.__defaults__, function.__kwdefaults__ = code, defaults, kwdefaults
    try:
        yield
    finally:
        function.__code__, function.__defaults__, function.__kwdefaults__ = healthy


@contextlib.contextmanager
def _noted(function: types.FunctionType, reached: Reached) -> Iterator[None]:
    """Let the marks in ``function``'s module reach ``reached`` (several patches of one module share the name)."""
    outer = function.__globals__.get(MARK)
    function.__globals__[MARK] = reached.ran.add
    try:
        yield
    finally:
        if outer is None:
            del function.__globals__[MARK]
        else:
            function.__globals__[MARK] = outer


# ── Bind ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _bound(bind: Bind, reached: Reached) -> Iterator[None]:
    healthy, mine = fitting(bind)
    note = functools.partial(reached.ran.add, bind.target)
    if inspect.isclass(healthy):
        with class_replaced(bind, healthy, mine, note):
            yield
    else:
        function = resolve(bind.target)
        with door(function, mine, note) as code, _swapped(function, code, None, None):
            yield
