"""Plain text of any width."""

import pytest

from underhood.cli import console


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")


def test_columns_by_hand(terminal: None) -> None:
    found = console.columns([("a", "one two three four five six"), ("bbbb", "seven")], indent="  ")
    assert found == "  a     one two three four\n        five six\n  bbbb  seven"


def test_no_room_puts_the_text_below(terminal: None) -> None:
    assert console.columns([("a name of some length", "one two three four five six")]) == "a name of some length\n    one two three four five\n    six"


def test_no_rows_are_no_text() -> None:
    assert console.columns([]) == ""


def test_words_and_paths_are_never_cut(terminal: None) -> None:
    path = "/a/very/long/path/that-has-no-place-to-break/anywhere.txt"
    assert path in console.paragraph(f"wrote {path} today").splitlines()


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        console.print_json({"loss": float("nan")})
