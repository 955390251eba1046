"""The reader: sections by a word, lines that fit, no escape codes in a pipe, nothing cut out of a table."""

import re
from typing import get_args

import pytest

from underhood.base.errors import UnknownName
from underhood.cli.main import main
from underhood.workbench import read
from underhood.workbench.macros import Medium, expand

PAGE = """\
# Title

Some *words* and `code_with_names`, then $x$.

| name | what it is |
|---|---|
| `a_name_that_is_longer_than_its_column` | it goes on in the next line of a narrow terminal |
| b | 2 |

```python
x = 1  # a comment
```

```formula
Σᵢ xᵢ
```
"""


@pytest.mark.parametrize("width", [30, 44, 80, 200])
def test_no_line_is_longer_than_the_terminal_and_nothing_is_cut(width: int) -> None:
    text = read.render(PAGE, width, colour=False)
    assert max(map(len, text.splitlines())) <= min(width, read.WIDEST)
    assert "…" not in text


def test_a_pipe_gets_no_escape_codes_and_keeps_the_marks_of_code() -> None:
    text = read.render(PAGE, 80, colour=False)
    assert "\x1b" not in text
    assert "`code_with_names`" in text
    assert "    Σᵢ xᵢ" in text
    assert "  x = 1  # a comment" in text


def test_a_terminal_gets_colour() -> None:
    assert "\x1b[" in read.render(PAGE, 80, colour=True)


def test_a_section_is_found_by_a_word_and_ends_where_the_next_begins() -> None:
    text = read.chapter_text("attention", "hook")
    assert text.startswith("## Hook")
    assert "## The Concept" not in text
    step = read.chapter_text("attention", "causal mask")
    assert step.startswith("### Step 3")
    assert "Step 4" not in step.split("\n", 1)[1].split("###")[0]
    assert "###" not in step.split("\n", 1)[1]


def test_a_section_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'Hook'"):
        read.chapter_text("attention", "Hok")


def test_numbers_come_from_the_records_and_figures_are_words() -> None:
    text = read.chapter_text("attention", "From a mean to a weighted mean")
    assert "> *Figure.* The mean of the past" in text
    assert "{{" not in text
    assert "<svg" not in text


def test_the_glossary_is_read_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "glossary"]) == 0
    assert "AdamW: Adam with" in capsys.readouterr().out


def test_answers_are_read_apart() -> None:
    assert read.answers_text("attention").count("## Question") >= 5
    assert "## Our version" in read.answers_text("attention")


def test_code_is_not_broken_into_lines() -> None:
    code = "x = [" + ", ".join("1" * 9 for _ in range(9)) + "]"
    for colour in (False, True):
        shown = re.sub(r"\x1b\[[\d;]*m", "", read.render(f"Some text.\n\n```python\n{code}\n    y = 2\n```\n", 40, colour=colour))
        assert f"\n  {code}\n      y = 2" in shown
    nested = read.render(f"- item\n\n  ```python\n  {code}\n  ```\n", 40, colour=False)
    assert nested.count("1" * 9) >= 7, "in a list it is wrapped, for what is longer would be cut off"
    assert max(map(len, nested.splitlines())) <= 40


def test_what_a_reader_is_to_write_is_folded_away() -> None:
    page = read.chapter_text("attention", "Step 1")
    assert "def average_past" not in page
    assert "*Our version of `causal_mask`, `average_past`: `underhood read attention --answers`*" in page
    answers = read.answers_text("attention")
    assert "def average_past" in answers
    assert "def plain" in read.chapter_text("attention", "Step 4"), "what is given is shown"


def test_the_page_folds_it_and_the_notebook_shows_it() -> None:
    own, given = (f'{{{{ source("underhood.nn.attention:{name}", docstring=False) }}}}' for name in ("attend", "plain"))
    page = expand(own, "attention", "site")
    assert page.startswith('<details class="ours" markdown="1">\n<summary>Our version of <code>attend</code></summary>\n\n```python\ndef attend(')
    assert expand(own, "gpt", "site").startswith("```python")
    assert expand(given, "attention", "site").startswith("```python")
    for medium in set(get_args(Medium)) - {"site"}:
        assert expand(own, "attention", medium).startswith("```python\ndef attend(")
    assert "<code>BPE.train</code>" in expand('{{ source("underhood.text.bpe:BPE.train") }}', "bpe", "site")
