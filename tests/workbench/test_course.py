"""A course folder: made once, found from below, never overwritten."""

import datetime
import os
from pathlib import Path

import pytest

from underhood.base.errors import DataError, FileSystemError, UserError
from underhood.cli.main import main
from underhood.projects.registry import syllabus
from underhood.workbench import course

DAY = datetime.date(2026, 11, 21)


def test_it_is_found_from_below_and_not_from_beside(tmp_path: Path) -> None:
    assert course.create(tmp_path / "c")
    deep = tmp_path / "c" / "my" / "broken"
    deep.mkdir()
    assert course.find_course(deep) == course.find_course(tmp_path / "c") == (tmp_path / "c").resolve()
    assert course.find_course(tmp_path) is None


def test_a_second_init_changes_nothing(tmp_path: Path) -> None:
    assert course.create(tmp_path)
    (tmp_path / "my" / "attention.py").write_text("mine")
    course.mark_done(tmp_path, "scalar", DAY)
    before = (tmp_path / course.PROGRESS).read_bytes()
    assert not course.create(tmp_path)
    assert (tmp_path / course.PROGRESS).read_bytes() == before
    assert (tmp_path / "my" / "attention.py").read_text() == "mine"


def test_files_that_were_there_stay(tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "notes.txt").write_text("keep")
    assert course.create(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == ["my", "my/notes.txt", "progress.toml"]


def test_a_course_inside_a_course_is_refused(tmp_path: Path) -> None:
    course.create(tmp_path)
    with pytest.raises(UserError, match="inside another"):
        course.create(tmp_path / "my" / "second")
    assert not (tmp_path / "my" / "second").exists()


@pytest.mark.parametrize("stone", ["c", "c/my"])
def test_a_file_in_the_way_is_named(stone: str, tmp_path: Path) -> None:
    (tmp_path / stone).parent.mkdir(exist_ok=True)
    (tmp_path / stone).write_text("")
    with pytest.raises(UserError, match="is a file"):
        course.create(tmp_path / "c")
    assert not (tmp_path / "c" / course.PROGRESS).is_file()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions bind neither root nor Windows")
def test_a_place_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FileSystemError, match="c"):
        course.create(tmp_path / "c")


def test_what_is_done_is_kept_with_its_first_day_and_its_comments(tmp_path: Path) -> None:
    course.create(tmp_path)
    path = tmp_path / course.PROGRESS
    path.write_text(path.read_text() + "# my own note\n")
    course.mark_done(tmp_path, "scalar", DAY)
    course.mark_done(tmp_path, "scalar", DAY + datetime.timedelta(days=1))
    course.mark_done(tmp_path, "tensor", DAY)
    assert course.done(tmp_path) == {"scalar": DAY, "tensor": DAY}
    assert "# my own note" in path.read_text()


@pytest.mark.parametrize("text", ["[projects", "projects = 3", "[projects]\nscalar = 'yes'", "\udcff"])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / course.PROGRESS).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"progress\.toml"):
        course.done(tmp_path)


def test_the_bare_command_knows_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def says() -> str:
        assert main([]) == 0
        return " ".join(capsys.readouterr().out.split())

    monkeypatch.chdir(tmp_path)
    assert says().endswith("underhood demo")
    (tmp_path / "runs").mkdir()
    assert says().endswith("underhood init course")
    assert main(["init", "course"]) == 0
    monkeypatch.chdir(tmp_path / "course" / "my")
    first, second = (p.slug for p in syllabus()[:2])
    capsys.readouterr()
    assert says().endswith(f"underhood start {first}")
    course.mark_done(tmp_path / "course", first, DAY)
    assert says().endswith(f"underhood start {second}")
    for project in syllabus():
        course.mark_done(tmp_path / "course", project.slug, DAY)
    assert says().endswith("underhood progress")


@pytest.mark.skipif(os.name != "posix", reason="Windows does not let a folder go that is in use")
def test_a_folder_that_is_gone_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main([]) == 2
    assert "Traceback" not in capsys.readouterr().err
