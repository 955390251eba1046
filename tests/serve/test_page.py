"""The chat page in a browser, where there is one: what it asks for when answers fail, are stopped, or are left for a new chat."""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from underhood.serve.app import PAGE

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
DRIVER = Path(__file__).with_name("drive_page.js")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *given: Any) -> None:
        pass


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page asked for in each scene of the driver, which stands before the page's own script."""
    if BROWSER is None:
        pytest.skip("needs Chromium or Chrome")
    folder, page = tmp_path_factory.mktemp("site"), files("underhood.serve") / "page"
    (folder / "page").mkdir()
    for name, _ in PAGE.values():
        (folder / "page" / name).write_bytes((page / name).read_bytes())
    whole = (page / "index.html").read_text().replace("<script ", '<script src="/drive.js"></script>\n<script ', 1)
    (folder / "index.html").write_text(whole)
    (folder / "drive.js").write_text(DRIVER.read_text())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [BROWSER, *OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--virtual-time-budget=20000", "--dump-dom"]
        dom = subprocess.run([*command, f"http://127.0.0.1:{server.server_port}/"], capture_output=True, text=True, timeout=60, check=True).stdout
        server.shutdown()
    found = re.search(r"<title>done (.*?)</title>", dom, re.DOTALL)
    assert found, dom[-2000:]
    asked: dict[str, Any] = json.loads(html.unescape(found[1]))
    return asked


def test_turns_follow_each_other(scenes: dict[str, Any]) -> None:
    assert scenes["turns follow each other"]["asked"] == [["user: one"], ["user: one", "assistant: 1", "user: two"]]


def test_a_message_that_was_not_answered_goes_back_where_it_was_written(scenes: dict[str, Any]) -> None:
    """Or the next request would hold two turns of the user, which many templates refuse."""
    assert scenes["a first answer that fails"] == {"asked": [["user: one"], ["user: one"]], "back": "one", "seen": []}
    assert scenes["something typed while an answer fails"]["back"] == "meanwhile"


def test_what_was_being_answered_is_no_part_of_a_new_chat(scenes: dict[str, Any]) -> None:
    assert scenes["a new chat while an answer comes"]["asked"] == [["user: one"], ["user: two"]]


@pytest.mark.parametrize("name", ["an answer that breaks off", "a stop"])
def test_half_an_answer_stays(scenes: dict[str, Any], name: str) -> None:
    assert scenes[name]["asked"] == [["user: one"], ["user: one", "assistant: half", "user: two"]]


def test_the_oldest_turns_are_left_out_of_a_full_context(scenes: dict[str, Any]) -> None:
    first = [["user: one"], ["user: one", "assistant: 1", "user: two"], ["user: two"]]
    assert scenes["a context that is full"]["asked"] == [*first, ["user: two", "assistant: 2", "user: three"]]
