"""The page and the table: everything is there, nothing gets in, nothing is fetched."""

import io
import itertools
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from underhood.lab import report, table, wording
from underhood.lab.compare import effect
from underhood.lab.report_plots import curves_plot, differences_plot, heat_map

VOID = {"meta", "br", "circle", "line", "rect", "polyline", "wbr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; notes tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def ids(self) -> list[str | None]:
        return [value for name, value in self.attributes if name == "id"]


def judgement(kind: str = "Rises", differences: tuple[float, ...] = (0.1, 0.2, 0.15, 0.12, 0.18), verdict: str = "held", **prediction: Any) -> dict[str, Any]:
    found = effect([0.0] * len(differences), differences)
    finite = {"low": found.low, "high": found.high} if len(differences) > 1 else {"low": None, "high": None}
    shown = {"differences": list(differences), "mean": found.mean, **finite}
    return {"prediction": {"kind": kind, "metric": "loss", **(prediction or {"by": 0.1})}, "verdict": verdict, "effect": shown, "says": "…"}


def arm(seed: int, how: str = "done", loss: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "how": how, "message": "", "figures": {"loss": loss, "causal": True}, "seconds": 2.0, "peak_mb": 1, "last_step": 9, **more}


def result(**changes: Any) -> dict[str, Any]:
    curve = [{"step": s, "loss": 2.0 - s / 10} for s in range(10)]
    given: dict[str, Any] = {
        "break": "p.lifted",
        "says": "Lifts everything.",
        "look": "It floats.",
        "kind": "part",
        "silent": True,
        "cites": ["https://example.org/1"],
        "patch": [{"kind": "Edit", "target": "m:f", "old": "a", "new": "b"}],
        "diff": ["--- m · f (healthy)\n+++ m · f (broken)\n@@ -1,2 +1,2 @@\n def f():\n-    a < b\n+    b"],
        "date": "2026-01-01",
        "declaration": "d1",
        "prediction": "p1",
        "target": "t1",
        "context": {},
        "versions": {"python": "3.11", "torch": "2.13"},
        "machine": {"system": "Linux", "threads": "1"},
        "baseline": "file.name",
        "corpus": "tales 1",
        "metrics": {"loss": {"says": "nats", "floor": 0.5, "ceiling": 3.0}, "causal": {"says": "sees no future"}},
        "seeds": [0, 1, 2, 3, 4],
        "judgements": [
            judgement(),
            {"prediction": {"kind": "Keeps", "metric": "causal"}, "verdict": "held", "effect": None, "says": "holds in 5 of 5 healthy, 5 of 5 broken"},
        ],
        "healthy": [arm(0, curve=curve, texts={"sample": "once upon"}), *(arm(s) for s in range(1, 5))],
        "broken": [arm(0, curve=curve[:4], texts={"sample": "xxxx"}, loss=1.5), *(arm(s, loss=1.5) for s in range(1, 5))],
        "probe": {"kind": "Above", "metric": "loss", "threshold": 1.2, "separates": True},
        "claim": {"says": "it is so", "source": "https://example.org/2", "verdict": "not tested here", "why": "its data are not public"},
    }
    return {**given, **changes}


def test_the_page_tells_the_whole_story() -> None:
    page = Page(report.render([result()], title="A title", intro="First.\n\nSecond.", sections=[("Mine", "<p>own part</p>")]))
    assert page.open == []
    for words in (
        *("A title", "Second.", "own part", "2 predictions tested: 2 held", "Lifts everything.", "It floats.", "a < b", "loss rises by at least 0.1", "nats"),
        *("causal still holds", "once upon", "xxxx", "it is so", "not tested here", "its data are not public", "All 10 arms ran to their end"),
        *(
            "underhood break p.lifted --seeds 5",
            "torch 2.13",
            "declaration d1",
            "tales 1",
            "tells every broken arm from every healthy one",
            "https://example.org/1",
        ),
    ):
        assert words in page.text, words
    assert "p.lifted" in page.ids
    assert page.text.index("own part") < page.text.index("2 predictions tested")


def test_every_plot_says_in_words_what_it_shows() -> None:
    page = Page(report.render([result()], title="t"))
    labels = [v or "" for n, v in page.attributes if n == "aria-label"]
    plots = page.tags.count("svg") - page.tags.count("polyline")  # a curve is an svg inside its plot's
    assert sum("Difference" in text or "over steps" in text for text in labels) == plots == 2
    assert any("+0.100, +0.200, +0.150, +0.120, +0.180" in text and "Mean +0.150, 95 % interval" in text for text in labels)
    assert any("healthy from 2 to 1.1; broken from 2 to 1.7; floor at 0.5; ceiling at 3" in text for text in labels)


def test_every_seed_has_a_dot_where_its_difference_lies() -> None:
    drawn = differences_plot(judgement(differences=(-1.0, 0.0, 1.0, 2.0, 3.0)))
    at = [float(x) for x in re.findall(r'class="dot" cx="([\d.]+)%"', drawn)]
    assert len(at) == 5
    assert all(b - a == pytest.approx(at[1] - at[0], abs=0.02) for a, b in itertools.pairwise(at))
    zero = float(re.findall(r'class="zero" x1="([\d.]+)%"', drawn)[0])
    assert zero == at[1]
    threshold, left = (float(re.findall(pattern, drawn)[0]) for pattern in (r'class="threshold" x1="([\d.]+)%"', r'class="region" x="([\d.]+)%"'))
    assert threshold == left
    assert at[1] < threshold < at[2]


@pytest.mark.parametrize(("kind", "prediction", "edges"), [("Rises", {"by": 1.0}, 1), ("Falls", {"by": 1.0}, 1), ("Stays", {"within": 0.5}, 2)])
def test_each_prediction_draws_its_own_edges(kind: str, prediction: dict[str, float], edges: int) -> None:
    assert differences_plot(judgement(kind, **prediction)).count('class="threshold"') == edges


@pytest.mark.parametrize("differences", [(0.0,) * 5, (1e-300, 2e-300), (1e300, -1e300), (5.0,), tuple(range(400))])
def test_plots_of_odd_numbers_stay_inside(differences: tuple[float, ...]) -> None:
    drawn = differences_plot(judgement(differences=differences))
    assert "nan" not in drawn
    assert all(0 <= float(x) <= 100 for x in re.findall(r'cx="([-\d.e+]+)%"', drawn))
    assert drawn.count('class="dot"') <= 100


def test_curves_of_odd_numbers() -> None:
    assert curves_plot([], [], "loss", {}) == ""
    assert "logarithmic" in curves_plot([{"step": 0, "loss": 1.0}, {"step": 1, "loss": 1e9}], [], "loss", {"floor": 0.0})
    assert 'class="only broken"' in curves_plot([], [{"step": 0, "loss": 1.0}], "loss", {})
    assert "inf" not in curves_plot([{"step": 0, "loss": math.inf}, {"step": 1, "loss": 2.0}], [], "loss", {"floor": None})
    assert report.curves({"a": [(0, math.nan)]}, "loss") == ""


HOSTILE = "</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg onload=alert(1)>&lt;"


def poisoned(value: Any) -> Any:
    """``value`` with every text replaced or followed by an attack; what the page looks up by stays."""
    if isinstance(value, dict):
        return {k: v if k in ("kind", "verdict") else poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v) for v in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_hostile_text_stays_text() -> None:
    bad = poisoned(result())
    bad["broken"][1]["how"] = bad["healthy"][2]["message"] = HOSTILE
    bad["healthy"][0]["texts"] = {HOSTILE: HOSTILE}
    bad["metrics"] = {"loss": {"says": HOSTILE, "floor": 0.1}, HOSTILE: {"says": HOSTILE}}
    bad["healthy"][0]["figures"][HOSTILE] = 1.0
    bad["healthy"][0]["curve"] = [{"step": 0, HOSTILE: 1.0}, {"step": 1, HOSTILE: 2.0}]
    bad["judgements"][0]["prediction"]["metric"] = "loss"
    bad["judgements"][1]["verdict"] = HOSTILE
    bad["claim"]["source"] = "javascript:alert(1)"
    bad["cites"] = ["https://example.org/\"onclick='alert(1)", "data:text/html,x"]
    bad["kind"] = HOSTILE
    sections = [(HOSTILE, report.texts({HOSTILE: HOSTILE}) + report.table([HOSTILE], [[HOSTILE]]) + report.paragraph(HOSTILE))]
    page = Page(report.render([bad], title=HOSTILE, intro=HOSTILE, sections=sections))
    assert page.open == []
    assert not {"script", "img", "iframe", "object", "link"} & set(page.tags)
    assert not [n for n, _ in page.attributes if n.startswith("on")]
    assert all((v or "").startswith(("#", "https://")) for n, v in page.attributes if n == "href")
    assert page.text.count("alert(1)") > 20


def test_nothing_is_fetched() -> None:
    html = report.render([result()], title="t")
    page = Page(html)
    assert not {n for n, _ in page.attributes} & {"src", "srcset", "data", "action", "poster", "background"}
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert 'name="viewport"' in html


def test_the_page_stays_small_whatever_a_model_wrote() -> None:
    long = "x" * 1_000_000
    big = result(diff=["--- a\n+++ b\n" + "+line\n" * 100_000], says=long, look=long)
    big["healthy"][0]["texts"] = {str(i): long for i in range(50)}
    big["broken"] = [arm(i, how="Died", message=long) for i in range(500)]
    assert len(report.render([big], title="t")) < 300_000


def test_arms_that_ended_early_are_told() -> None:
    ended = result(broken=[arm(0, how="NonFinite", message="the loss is not finite", curve=[]), *(arm(s, how="Timeout", last_step=None) for s in range(1, 5))])
    text = Page(report.render([ended], title="t")).text
    assert "5 of 10 arms ended early" in text
    assert "seed 0, broken: NonFinite after step 9: the loss is not finite" in text
    assert "seed 1, broken: Timeout before the first step" in text


def test_seeds_that_differ_in_a_property_are_shown_one_by_one() -> None:
    mixed = result()
    assert "seed 3" not in Page(report.render([mixed], title="t")).text
    mixed["broken"][3]["figures"]["causal"] = False
    html = report.render([mixed], title="t")
    assert html.count('class="no"') == 1
    assert "seed 3" in Page(html).text


def test_a_page_without_results_has_only_its_sections() -> None:
    page = Page(report.render([], title="t", sections=[report.Section("Only", "<p>this</p>")]))
    assert "predictions" not in page.text
    assert "this" in page.text


# ── words and tables ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_count_is_of_all_predictions_and_names_every_verdict() -> None:
    mixed = result(judgements=[judgement(verdict=v) for v in ("held", "held", "weaker", "inconclusive", "opposite")])
    assert wording.tally([mixed]) == "5 predictions tested: 2 held, 1 weaker, 1 opposite, 1 inconclusive"
    assert "This is a preview: 3 seeds" in wording.tally([result(seeds=[0, 1, 2])])
    assert wording.tally([]) == "no prediction tested"


@pytest.mark.parametrize(
    ("old", "new", "agree"),
    [
        (judgement(), judgement(differences=(0.01, 0.02)), True),
        (judgement(), judgement(differences=(-0.01, -0.02)), False),
        (judgement("Stays", within=0.2), judgement("Stays", (-0.1, -0.1), within=0.2), True),
        (judgement("Stays", within=0.2), judgement("Stays", (0.3, 0.3), within=0.2), False),
        ({"effect": None, "verdict": "held"}, {"effect": None, "verdict": "held"}, True),
        ({"effect": None, "verdict": "held"}, {"effect": None, "verdict": "not held"}, False),
    ],
)
def test_directions(old: dict[str, Any], new: dict[str, Any], agree: bool) -> None:
    assert wording.directions_agree(old, new) is agree


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_table_fits_and_says_the_same_at_every_width(width: int) -> None:
    out = io.StringIO()
    table.print_results([result()], file=out, width=width)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    flat = " ".join(out.getvalue().split())
    assert "p.lifted" in flat
    assert "held" in flat
    assert "+0.150" in flat
    assert "2 predictions tested: 2 held." in flat
    assert "\x1b" not in out.getvalue()


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    for no_color, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        monkeypatch.setenv("TERM", "xterm-256color")
        console = Console(file=io.StringIO(), force_terminal=True, width=80)
        console.print(table.results_table([result()]))
        assert ("\x1b[32m" in console.file.getvalue()) is coloured  # type: ignore[attr-defined]


def test_markup_in_a_name_is_text() -> None:
    out = io.StringIO()
    table.print_results([result(**{"break": "p.[red]x[/red]"})], file=out, width=100)
    assert "p.[red]x[/red]" in out.getvalue()


def test_what_else_a_reader_should_know() -> None:
    told = result(probe={"kind": "Above", "metric": "loss", "threshold": 1.2, "separates": False}, broken=[arm(s, how="Timeout") for s in range(5)])
    lines = " ".join(table.asides([told]))
    assert "does not tell every seed" in lines
    assert "5 of 5 broken arms ended early (Timeout)" in lines
    assert "not tested here: its data are not public" in lines


def test_a_heat_map_draws_each_weight_where_it_belongs_and_escapes_its_labels() -> None:
    drawn = heat_map([[1.0, 0.0], [0.25, 0.75]], ["<", "&"], 'says "so"')
    page = Page(drawn)
    assert page.text == "<<&&"
    assert ("aria-label", 'says "so"') in page.attributes
    squares = re.findall(r'<rect x="(\d+)" y="(\d+)" width="10" height="10" fill-opacity="([\d.]+)"/>', drawn)
    assert squares == [("14", "0", "1.00"), ("14", "10", "0.25"), ("24", "10", "0.75")]
