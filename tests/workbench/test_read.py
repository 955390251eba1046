"""The reader: sections by a word, lines that fit, no escape codes in a pipe, nothing cut out of a table."""

import pytest

from underhood.base.errors import UnknownName
from underhood.cli.main import main
from underhood.workbench import read

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
