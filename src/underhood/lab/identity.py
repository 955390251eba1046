"""What a measurement depends on, as hashes: the declaration, the target, the context.

*Declaration*: patch, prediction, probe, baseline with its config, corpus. *Target*: the syntax tree, without docstrings and annotations,
of the function that is edited or of what ``Set`` selects. *Context*: the same over every module of ours that an arm loaded.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import inspect
import json
import platform
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from underhood.base.config import to_plain as config_to_plain
from underhood.base.errors import UnderhoodError
from underhood.base.names import load
from underhood.lab import patch as patches
from underhood.lab.baseline import Baseline
from underhood.lab.patch import Set
from underhood.lab.sabotage import Sabotage


def digest(value: Any) -> str:
    """16 hex digits of a JSON value or text."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def syntax_hash(source: str) -> str:
    """The hash of ``source`` as a syntax tree: comments, layout, docstrings and annotations do not count."""
    return digest(ast.dump(_Bare().visit(ast.parse(source))))


class _Bare(ast.NodeTransformer):
    """Drops docstrings and annotations."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        return node


def declaration_hash(sabotage: Sabotage, baseline: Baseline) -> str:
    """Everything that was decided before the run. The words that explain it do not count."""
    return digest(
        {
            "patch": [patches.to_plain(p) for p in sabotage.patches],
            "expect": plain_predictions(sabotage.expect),
            "probe": dataclasses.asdict(sabotage.probe) if sabotage.probe else None,
            "baseline": [baseline.name, chosen(baseline.config), baseline.corpus],
        }
    )


def chosen(config: Any) -> dict[str, Any]:
    """``config`` as nested dicts, without the fields that stand at their default: a field that is added later changes no declaration.

    A default that changes is seen in the context, whose modules are then no longer as they were.
    """
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = chosen(value)
        elif value != field.default:
            found[field.name] = config_to_plain(config)[field.name]
    return found


def prediction_hash(sabotage: Sabotage) -> str:
    """What was predicted for which patch on which baseline; it has to be committed before the first record."""
    return digest([[patches.to_plain(p) for p in sabotage.patches], plain_predictions(sabotage.expect), sabotage.baseline])


def plain_predictions(expect: Iterable[Any]) -> list[dict[str, Any]]:
    """Predictions as dicts, with their kind."""
    return [{"kind": type(p).__name__, **{f.name: getattr(p, f.name) for f in dataclasses.fields(p) if f.name != "_"}} for p in expect]


def target_hash(sabotage: Sabotage, baseline: Baseline) -> str:
    """The syntax of what the patches touch."""
    return digest([_target(p, baseline) for p in sabotage.patches])


def _target(patch: patches.Patch, baseline: Baseline) -> str:
    if not isinstance(patch, Set):
        return syntax_hash(patches.source(patch.target))
    before, after = (_selected(c, patch.field) for c in (baseline.config, patches.configure(baseline.config, [patch])))
    return digest([before, after])


def _selected(config: Any, field: str) -> str:
    """The source of the part that a config field names, or the field's value when it is a plain number."""
    *path, last = field.split(".")
    for name in path:
        config = getattr(config, name)
    value = getattr(config, last)
    home = next(f for f in dataclasses.fields(config) if f.name == last).metadata.get("home")
    if home is None or not isinstance(value, str):
        return repr(value)
    return syntax_hash(inspect.getsource(load(value if ":" in value else f"{home}:{value}")))


def loaded_context() -> dict[str, str]:
    """Module name → syntax hash, for every module of ours that this process has loaded."""
    names = [n for n, m in list(sys.modules.items()) if m is not None and n.startswith("underhood.")]
    return {n: h for n in sorted(names) if (h := module_hash(n))}


@cache
def module_hash(name: str) -> str:
    """The syntax hash of a module as it stands on disk; empty for a package without code, ``"gone"`` when there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return "gone"
    if spec is None or spec.origin is None:
        return "gone"
    text = Path(spec.origin).read_text(encoding="utf-8")
    return syntax_hash(text) if text.strip() else ""


def changed_modules(context: Mapping[str, str]) -> list[str]:
    """Which modules of a stored context are no longer as they were."""
    return [name for name, old in context.items() if module_hash(name) != old]


def versions() -> dict[str, str]:
    """The versions that figures depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError as error:
            raise UnderhoodError(f"{name} is not installed") from error
    return found


def machine() -> dict[str, str]:
    """What the figures were taken on, without anything that names a person or a host."""
    return {"system": platform.system(), "architecture": platform.machine(), "processor": processor()}


@cache
def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
