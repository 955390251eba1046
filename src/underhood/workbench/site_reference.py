"""The reference of the public API: signatures and docstrings by reading the source. Nothing is imported, so no torch is needed."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from underhood.base import floors
from underhood.projects.registry import Project

PACKAGE = Path(__file__).parents[1]
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
SHOWN_DUNDERS = ("__init__", "__call__")
PROMPT = ">" * 3  # spelled so that the search for examples in docstrings does not find it here
LONG = 88  # columns; longer signatures get a line for each parameter


def modules(floor: str) -> list[Path]:
    """The public modules of a floor; what belongs to one project is not among them."""
    folder = PACKAGE / floor
    files = folder.glob("*.py") if floor == "projects" else folder.rglob("*.py")
    return [p for p in sorted(files) if not p.name.startswith("_") or (p.name == "__init__.py" and _says(p) and p.parent == folder)]


def _says(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def floor_table() -> str:
    """Every built floor with its modules, from the top down."""
    says = {name.strip("()"): floor.says for part in floors.HOUSE for floor in part.floors for name in floor.folders.split(" | ")}
    rows = [f"| [{f}](reference/{f}.md) | {says[f]} | {', '.join(f'`{p.stem}`' for p in modules(f) if p.stem != '__init__')} |" for f in says if modules(f)]
    return "\n".join(["| Floor | Holds | Modules |", "|---|---|---|", *rows])


def floor_page(floor: str, built_in: Mapping[str, Project]) -> str:
    """The reference of one floor; ``built_in``: seam → the project whose chapter builds it."""
    parts = [f"# {floor}\n"]
    for path in modules(floor):
        parts += _module(path, built_in)
    return "\n".join(parts)


def module_name(path: Path) -> str:
    """``underhood.nn.attention``."""
    name = ".".join(("underhood", *path.relative_to(PACKAGE).with_suffix("").parts))
    return name.removesuffix(".__init__")


def _module(path: Path, built_in: Mapping[str, Project]) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = module_name(path)
    yield f"## {name}\n"
    yield prose(ast.get_docstring(tree) or "") + "\n"
    for node in tree.body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield from _definition(node, name, built_in)


def _definition(node: Documented, module: str, built_in: Mapping[str, Project]) -> Iterator[str]:
    yield f"### {node.name} {{ #{module}.{node.name} }}\n"
    yield f"```python\n{signature(node)}\n```\n"
    yield prose(ast.get_docstring(node) or "") + "\n"
    project = built_in.get(f"{module}:{node.name}")
    if project:
        yield f'<p class="facts" markdown="1">Built in [{project.title}](../course/{project.slug}.md).</p>\n'
    if isinstance(node, ast.ClassDef):
        fields = [ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign) and not ast.unparse(item.target).startswith("_")]
        if fields:
            yield "```python\n" + "\n".join(fields) + "\n```\n"
        for item in node.body:
            if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) and _shown(item):
                yield f'<div class="method" markdown="1">\n\n```python\n{signature(item)}\n```\n\n{prose(ast.get_docstring(item) or "")}\n\n</div>\n'


def _shown(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return not node.name.startswith("_") or (node.name in SHOWN_DUNDERS and ast.get_docstring(node) is not None)


def signature(node: Documented) -> str:
    """The first line of a definition, decorators included; long ones with a line for each parameter."""
    decorators = [f"@{ast.unparse(d)}\n" for d in node.decorator_list]
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(b) for b in (*node.bases, *(k.value for k in node.keywords)))
        return "".join(decorators) + f"class {node.name}" + (f"({bases})" if bases else "")
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{word} {node.name}({ast.unparse(node.args)}){returns}"
    if len(line) > LONG:
        line = f"{word} {node.name}(\n" + "".join(f"    {p},\n" for p in _parameters(node.args)) + f"){returns}"
    return "".join(decorators) + line


def _parameters(arguments: ast.arguments) -> list[str]:
    """Each parameter as it would be written, with ``*`` and ``/`` where they stand."""

    def written(a: ast.arg, default: ast.expr | None) -> str:
        text = ast.unparse(a)
        return text if default is None else f"{text}{' = ' if a.annotation else '='}{ast.unparse(default)}"

    placed = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(placed) - len(arguments.defaults)) + list(arguments.defaults)
    found = [written(a, d) for a, d in zip(placed, defaults, strict=True)]
    if arguments.posonlyargs:
        found.insert(len(arguments.posonlyargs), "/")
    if arguments.vararg:
        found.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        found.append("*")
    found += [written(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return found + ([f"**{ast.unparse(arguments.kwarg)}"] if arguments.kwarg else [])


def prose(docstring: str) -> str:
    """A docstring as Markdown: examples become code; a ``<`` before a word is no tag."""
    pieces = []
    for block in docstring.split("\n\n"):
        if block.lstrip().startswith(PROMPT):
            pieces.append(f"```pycon\n{block}\n```")
        elif re.match(r" {4}", block):
            pieces.append(f"```text\n{re.sub(r'^ {4}', '', block, flags=re.MULTILINE)}\n```")
        else:
            pieces.append(_escaped(block))
    return "\n\n".join(pieces)


def _escaped(text: str) -> str:
    kept = re.split(r"(``.*?``|`[^`]*`|(?<![\w*])\*\w[^*\n]*\*(?![\w*]))", text, flags=re.DOTALL)
    return "".join(part if i % 2 else re.sub(r"<(?=[\w/!])", "&lt;", part).replace("*", r"\*").replace("[", r"\[") for i, part in enumerate(kept))


__all__ = ["floor_page", "floor_table", "modules", "prose", "signature"]
