"""The drawing: well-formed, complete, without overlaps, readable on both backgrounds."""

import re
from xml.etree import ElementTree

import pytest

from underhood.base.errors import UserError
from underhood.scalar.graph import HEIGHT, WIDTH, draw
from underhood.scalar.value import Value

SVG = "{http://www.w3.org/2000/svg}"


def picture() -> tuple[str, ElementTree.Element]:
    x, w, b = Value(2.0), Value(-3.0), Value(7.0)
    y = (x * w + b).tanh() * x
    y.backward()
    text = draw(y, {x: "x<1>", w: "w", b: "b", y: "y"})
    return text, ElementTree.fromstring(text)


def test_every_node_is_a_box_and_every_use_a_line() -> None:
    text, root = picture()
    assert len(root.findall(f".//{SVG}rect")) == 7
    assert len(root.findall(f".//{SVG}path")) == 7
    assert "x&lt;1&gt;" in text
    assert "tanh</tspan> = 0.7616" in text
    assert len(root.findall(f".//{SVG}g[@class='leaf']")) == 3
    assert len(root.findall(f".//{SVG}g[@class='result']")) == 1


def test_boxes_lie_apart_inside_the_picture_and_lines_run_to_the_right() -> None:
    _, root = picture()
    places = [(float(r.get("x", "")), float(r.get("y", ""))) for r in root.findall(f".//{SVG}rect")]
    for i, (x, y) in enumerate(places):
        assert all(abs(x - u) >= WIDTH or abs(y - v) >= HEIGHT for u, v in places[:i])
    _, _, width, height = map(float, root.get("viewBox", "").split())
    assert all(0 <= x <= width - WIDTH and 0 <= y <= height - HEIGHT for x, y in places)
    for path in root.findall(f".//{SVG}path"):
        numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", path.get("d", ""))]
        assert numbers[0] < numbers[-2]


def test_dark_pages_have_colours_of_their_own() -> None:
    text, _ = picture()
    assert "prefers-color-scheme: dark" in text
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", part)) for part in text.split("@media")[:2])
    assert light.keys() == dark.keys()
    assert all(contrast(light["ink"], light[fill]) > 7 and contrast(dark["ink"], dark[fill]) > 7 for fill in ("leaf", "inner", "result"))
    assert all(contrast(c["soft"], c[fill]) > 4.5 for c in (light, dark) for fill in ("leaf", "inner", "result"))


def contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_a_graph_that_nobody_could_read_is_refused() -> None:
    y = Value(0.0)
    for _ in range(300):
        y = y + 1
    with pytest.raises(UserError, match="601 nodes"):
        draw(y)
