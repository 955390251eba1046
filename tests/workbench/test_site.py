"""The site: everything that is declared has its place, every link its end, and nothing is asked of another host."""

import re
import subprocess
import sys
import tomllib
from html import unescape
from pathlib import Path

import pytest

from underhood.base import floors
from underhood.lab.sabotage import Sabotage
from underhood.projects.registry import find_break, find_project, syllabus
from underhood.workbench import site, site_reference, site_tools
from underhood.workbench.chapter import Chapter
from underhood.workbench.macros import FIGURE_STYLE, ChapterError
from underhood.workbench.site_records import SYMPTOMS, symptoms_of

ROOT = Path(__file__).parents[2]
BREAKS = [(f"{p.slug}.{s.name}", s) for p in syllabus() if "breaks" in p.stages for s in p.breaks()]
ANSWERS = "# Answers\n\n## Question 1 · Why\n\nBecause.\n\n```python\n## Question 2 in a comment\n```\n\n## Question 2\n\nSo.\n\n## Homework 1\n\nDone.\n"
TEXT = "# T\n\nLead, [log](log.md), [next](gpt.md), [out](https://example.org/a.md).\n\n## Optional Homework\n\n1. **Laptop.** Do it.\n\n"
TEXT += "## Questions to Answer\n\n1. Why $x$?\n2. And\n   then?\n\n## Go Further\n\n1. not a question\n"


def page() -> str:
    return site.chapter_page(Chapter(find_project("attention"), TEXT, ANSWERS))


# ── chapters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_question_has_its_answer_folded_below_it() -> None:
    text = page()
    folded = re.findall(r"\*\*(\d)\.\*\* (.*?)\n\n<details.*?<summary>Answer</summary>\n\n(.*?)\n\n</details>", text, re.DOTALL)
    assert [(n, answer.split("\n")[0]) for n, _, answer in folded] == [("1", "Done."), ("1", "Because."), ("2", "So.")]
    assert "1. not a question" in text


def test_a_heading_inside_code_is_no_answer() -> None:
    assert set(site.answers_by_name(ANSWERS)) == {"Question 1", "Question 2", "Homework 1"}
    assert "## Question 2 in a comment" in site.answers_by_name(ANSWERS)["Question 1"]


def test_links_of_a_chapter_are_seen_from_the_top_of_the_site() -> None:
    text = page()
    assert "[log](../log.md)" in text
    assert "[next](gpt.md)" in text
    assert "[out](https://example.org/a.md)" in text


def test_a_place_that_nothing_fills_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\n<!-- site: nonsense -->\n")
    with pytest.raises(ChapterError, match=r"docs/a.md:3: there is nothing called 'nonsense'"):
        site.build(tmp_path / "out", source=tmp_path)


# ── tracks, symptoms, floors ──────────────────────────────────────────────────────────────────────────────────────────


def test_there_are_five_tracks_of_projects_that_exist() -> None:
    assert len(site.tracks()) == 5
    for track in site.tracks():
        assert [find_project(slug).slug for slug in track.projects] == list(track.projects)


@pytest.mark.parametrize(("name", "sabotage"), BREAKS, ids=[name for name, _ in BREAKS])
def test_every_break_has_a_symptom(name: str, sabotage: Sabotage) -> None:
    assert set(symptoms_of(sabotage)) <= set(SYMPTOMS)
    assert symptoms_of(sabotage)


@pytest.mark.parametrize(
    ("name", "symptom"),
    [
        ("attention.no_mask", "The loss is too good"),
        ("attention.mask_flipped", "NaN or infinity"),
        ("attention.self_hidden", "An error"),
        ("scalar.product_rule_lost", "The loss is flat, or stops early"),
        ("bpe.decoded_one_by_one", "Fine loss, wrong text"),
        ("tensor.log_of_softmax", "Nothing, until a rare case comes"),
        ("gpt.no_warmup", "Nothing changes in the loss"),
        ("attention.past_summed", "Everything runs, and an exact property fails"),
    ],
)
def test_a_break_stands_where_one_would_look_for_it(name: str, symptom: str) -> None:
    assert symptom in symptoms_of(find_break(name)[1])


def test_the_house_opens_every_floor_that_is_built() -> None:
    linked = set(re.findall(r"\]\(reference/(\w+)\.md\)", site.house()))
    assert linked == {name for name in floors.folders() if site_reference.modules(name)}
    assert {name for name, built in floors.folders().items() if built} <= linked


def test_the_navigation_holds_every_page() -> None:
    nav = tomllib.loads(site.configuration((ROOT / "zensical.toml").read_text(encoding="utf-8")))["project"]["nav"]
    listed = [page for entry in nav for value in entry.values() for page in ([value] if isinstance(value, str) else [p for e in value for p in e.values()])]
    assert len(listed) == len(set(listed))
    assert {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").glob("*.md")} <= set(listed)
    assert {f"course/{p.slug}.md" for p in site.written()} <= set(listed)


# ── the reference ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_seam_is_in_the_reference_and_names_its_chapter() -> None:
    pages = {floor: site_reference.floor_page(floor, site.chapters_of_seams()) for floor in floors.folders() if site_reference.modules(floor)}
    for project in site.written():
        for seam in project.seams:
            module, _, name = seam.partition(":")
            found = re.search(rf"^### {name} {{ #{module}\.{name} }}$.*?(?=^### |\Z)", pages[module.split(".")[1]], re.MULTILINE | re.DOTALL)
            assert found is not None, seam
            assert f"Built in [{project.title}](../course/{project.slug}.md)" in found[0]


def test_a_signature_is_the_one_in_the_source() -> None:
    page = site_reference.floor_page("nn", {})
    assert "def average_past(x: Float[Tensor, '... T C']) -> Float[Tensor, '... T C']" in page
    assert "    dropout: Callable[[Tensor], Tensor] | None = None,\n" in page


def test_prose_keeps_examples_as_code_and_a_less_than_as_itself() -> None:
    assert site_reference.prose(">>> 1 + 1\n2") == "```pycon\n>>> 1 + 1\n2\n```"
    assert site_reference.prose("a <b> and `<c>` and *so* and *args") == r"a &lt;b> and `<c>` and *so* and \*args"


def test_the_reference_needs_no_torch() -> None:
    code = "import sys; from underhood.workbench import site_reference as s; s.floor_page('nn', {}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


# ── the tool manual ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_transcript_uses_commands_and_options_that_exist() -> None:
    known = {verb for verbs in site_tools.groups(site_tools.help_of()).values() for verb in verbs}
    helps: dict[tuple[str, ...], str] = {}
    for verb, text in site_tools.transcripts(ROOT).items():
        assert verb in known
        assert text.startswith("$ underhood")
        for line in re.findall(r"^\$ underhood (.*?)(?: \|.*)?$", text, re.MULTILINE):
            words = line.split()
            path = (words[0], words[1]) if words[0] in ("tokenizer", "records") else (words[0],)
            assert path[0] == verb
            helps[path] = helps.get(path) or site_tools.help_of(*path)
            for option in re.findall(r"(?<!\S)--[\w-]+", line):
                assert option in helps[path], line


def test_no_transcript_names_the_machine() -> None:
    for text in site_tools.transcripts(ROOT).values():
        assert not re.search(r"(?<![\w~.])/(tmp|root|home|work)/", text)


# ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_the_whole_site_is_built_and_asks_nothing_of_another_host(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    for command in (
        [sys.executable, "-m", "underhood.workbench.site", "--out", str(tmp_path)],
        [sys.executable, "-m", "zensical", "build", "-f", str(tmp_path / "zensical.toml"), "--clean", "--strict"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"""<(?:script|img|iframe|source|link)\b[^>]*(?:src|href)=["']?(?:https?:)?//""", text), path.name
        anchors = {unescape(a) for a in re.findall(r'\bid="([^"]+)"', text)}
        missing = {a for a in re.findall(r'href="#([^"]+)"', text) if unescape(a) not in anchors}
        assert missing <= {"__skip"}, path.name
    assert not re.search(r"@import|url\(\s*['\"]?https?:", (tmp_path / "site/style/extra.css").read_text(encoding="utf-8"))


def test_the_site_draws_figures_as_the_notebook_does() -> None:
    def rules(css: str) -> dict[str, str]:
        return {name: re.sub(r"\s", "", body).rstrip(";") for name, body in re.findall(r"(?m)(?:^|\s)(\.fig-\w+)\s*\{([^}]*)\}", css)}

    assert rules(FIGURE_STYLE) == rules((ROOT / "docs/style/extra.css").read_text(encoding="utf-8"))
