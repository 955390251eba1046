"""A computation graph as a picture: SVG text, drawn without any library, readable on light and on dark pages.

Left to right as the numbers flow. A box is a node: its operation or name, its number, and under it its gradient. Wherever the gradient is
large the line towards it is drawn thick, so that one sees which way backward flowed.
"""

from collections.abc import Mapping
from html import escape

from underhood.base.errors import UserError
from underhood.scalar.value import Value

WIDTH, HEIGHT = 124, 50  # of a box, in pixels
ACROSS, DOWN = 184, 68  # from box to box
MARGIN = 24
LIMIT = 300  # boxes beyond which nobody reads the picture

STYLE = """
.graph { --ink: #1b1f24; --soft: #57606a; --line: #8c959f; --leaf: #ddf4e4; --inner: #e7eefc; --result: #fdebd0; --edge: #b6c2cf;
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 12px; }
@media (prefers-color-scheme: dark) {
  .graph { --ink: #eef2f6; --soft: #a8b3bf; --line: #8b98a5; --leaf: #173d2a; --inner: #1d2f52; --result: #55391a; --edge: #5b6875; } }
.graph rect { stroke: var(--edge); rx: 9; }
.graph .leaf rect { fill: var(--leaf); } .graph .inner rect { fill: var(--inner); } .graph .result rect { fill: var(--result); }
.graph text { fill: var(--ink); text-anchor: middle; } .graph .name { font-weight: 700; } .graph .grad { fill: var(--soft); font-size: 11px; }
.graph path { fill: none; stroke: var(--line); stroke-linecap: round; opacity: 0.75; }
"""


def draw(result: Value, names: Mapping[Value, str] | None = None) -> str:
    """The graph behind ``result`` as an SVG document; ``names`` label nodes (``{x: "x"}``). Raises ``UserError`` above 300 nodes."""
    order = result.topological_order()
    if len(order) > LIMIT:
        raise UserError(f"a graph of {len(order)} nodes", expected=f"at most {LIMIT}", remedy="Draw a part of it, such as one neuron.")
    places = _places(_columns(order))
    names = names or {}
    width = max(x for x, _ in places.values()) + WIDTH + MARGIN
    height = max(y for _, y in places.values()) + HEIGHT + MARGIN
    steepest = max((abs(n.grad) for n in order), default=0.0) or 1.0
    lines = [_line(places[s], places[n], abs(s.grad) / steepest) for n in order for s in n.inputs]
    boxes = [_box(n, places[n], names.get(n, n.op or "value"), n is result) for n in order]
    says = escape(f"Computation graph of {len(order)} nodes; the result is {result.data:.4g}")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{says}">'
    return "\n".join([head, f"<title>{says}</title>", f"<style>{STYLE}</style>", *lines, *boxes, "</svg>", ""])


def _columns(order: list[Value]) -> list[list[Value]]:
    """Nodes by distance from the result: leaves stand just left of what uses them first."""
    users: dict[Value, int] = dict.fromkeys(order, 0)
    for node in reversed(order):
        for source in node.inputs:
            users[source] = max(users[source], users[node] + 1)
    columns: list[list[Value]] = [[] for _ in range(max(users.values()) + 1)]
    for node in order:
        columns[-1 - users[node]].append(node)
    return columns


def _places(columns: list[list[Value]]) -> dict[Value, tuple[float, float]]:
    """Where each box goes. From the result leftwards, a column is sorted by the mean height of what uses its nodes, to cross few lines."""
    height: dict[Value, float] = {}
    users: dict[Value, list[Value]] = {}
    tallest = max(len(column) for column in columns)
    for column in reversed(columns):
        column.sort(key=lambda n: sum(height[u] for u in users.get(n, ())) / max(1, len(users.get(n, ()))))
        for i, node in enumerate(column):
            height[node] = (tallest - len(column)) / 2 + i
            for source in node.inputs:
                users.setdefault(source, []).append(node)
    return {n: (MARGIN + i * ACROSS, MARGIN + height[n] * DOWN) for i, column in enumerate(columns) for n in column}


def _line(start: tuple[float, float], end: tuple[float, float], share: float) -> str:
    x, y, u, v = start[0] + WIDTH, start[1] + HEIGHT / 2, end[0], end[1] + HEIGHT / 2
    bend = (u - x) / 2
    return f'<path d="M{x:.0f} {y:.0f} C{x + bend:.0f} {y:.0f} {u - bend:.0f} {v:.0f} {u:.0f} {v:.0f}" stroke-width="{1 + 3 * share:.2f}"/>'


def _box(node: Value, place: tuple[float, float], name: str, is_result: bool) -> str:
    x, y = place
    kind = "result" if is_result else "inner" if node.inputs else "leaf"
    return (
        f'<g class="{kind}"><rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}"/>'
        f'<text x="{x + WIDTH / 2:.0f}" y="{y + 20:.0f}"><tspan class="name">{escape(name)}</tspan> = {node.data:.4g}</text>'
        f'<text class="grad" x="{x + WIDTH / 2:.0f}" y="{y + 38:.0f}">grad {node.grad:.4g}</text></g>'
    )
