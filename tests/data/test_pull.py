"""Fetching, against a server of our own on this machine: whole, resumed, truncated, wrong, refused."""

import hashlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from underhood.base.errors import DataError, FileSystemError, NetworkError, UnknownName
from underhood.data.pull import SOURCES, Remote, Source, fetch, fetch_rows, pull

BODY = bytes(range(256)) * 4000  # a megabyte
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``BODY`` under any path; the path says how to misbehave."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server: Server = self.server  # type: ignore[assignment]
        server.asked.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        if self.path.startswith("/missing"):
            return self.send_error(404, "Not Found")
        if self.path.startswith("/rows"):
            return self.rows()
        body, start, status = BODY, 0, 200
        match = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if match and not self.path.startswith("/no-range") and self.headers.get("If-Range") == server.etag:
            start, status = int(match[1]), 206
        if match and self.path.startswith("/416"):
            return self.send_error(416)
        rest = body[start:]
        self.send_response(status)
        self.send_header("Content-Length", str(len(rest)))
        if not self.path.startswith("/no-etag"):
            self.send_header("ETag", server.etag)
        self.end_headers()
        if server.cut_after:
            rest = rest[: server.cut_after]
            server.cut_after = 0
            self.close_connection = True
        self.wfile.write(rest)

    def rows(self) -> None:
        at = {k: int(v) for k, v in re.findall(r"(offset|length)=(\d+)", self.path)}
        text = json.dumps({"rows": [{"row": {"text": f"page «{i}»"}} for i in range(at["offset"], at["offset"] + at["length"])]}).encode()
        text = b"<html>busy</html>" if self.server.busy else text  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class Server(http.server.ThreadingHTTPServer):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.etag, self.cut_after, self.busy = '"v1"', 0, False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_fetched_whole_and_leaves_nothing_else(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path = fetch(Remote(f"{server.url}/a", "a", SHA), tmp_path / "sub" / "a", lambda *step: seen.append(step))
    assert path.read_bytes() == BODY
    assert files(tmp_path / "sub") == ["a"]
    assert seen[-1] == ("a", len(BODY), len(BODY))


def test_a_file_that_is_there_and_right_is_kept_and_a_wrong_one_is_fetched_again(server: Server, tmp_path: Path) -> None:
    remote, path = Remote(f"{server.url}/a", "a", SHA), tmp_path / "a"
    fetch(remote, path)
    fetch(remote, path)
    assert len(server.asked) == 1
    path.write_bytes(b"damaged")
    assert fetch(remote, path).read_bytes() == BODY


@pytest.mark.parametrize("sha", [SHA, ""])
def test_what_broke_off_goes_on_where_it_stopped(server: Server, tmp_path: Path, sha: str) -> None:
    remote, path = Remote(f"{server.url}/a", "a", sha), tmp_path / "a"
    server.cut_after = 300_000
    with pytest.raises(NetworkError, match=r"broke off after 300,000 of 1,024,000 bytes. Run it again"):
        fetch(remote, path)
    assert not path.exists()
    assert (tmp_path / "a.part").read_bytes() == BODY[:300_000]
    assert fetch(remote, path).read_bytes() == BODY
    assert server.asked[-1] == ("/a", "bytes=300000-", '"v1"')
    assert files(tmp_path) == ["a"]


@pytest.mark.parametrize("how", ["changed", "no-range", "no-etag", "416"])
def test_where_the_server_does_not_go_on_it_starts_again(server: Server, tmp_path: Path, how: str) -> None:
    remote, path = Remote(f"{server.url}/{how}", "a"), tmp_path / "a"
    server.cut_after = 300_000
    with pytest.raises(NetworkError):
        fetch(remote, path)
    server.etag = '"v2"' if how == "changed" else server.etag
    assert fetch(remote, path).read_bytes() == BODY


def test_a_wrong_checksum_keeps_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"its checksum is {SHA[:12]}…; expected 000000000000"):
        fetch(Remote(f"{server.url}/a", "a", "0" * 64), tmp_path / "a")
    assert files(tmp_path) == []


def test_a_half_of_another_file_is_found_out_by_the_checksum(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    (tmp_path / "a.part.etag").write_text(server.etag)
    remote = Remote(f"{server.url}/a", "a", SHA)
    with pytest.raises(DataError, match="checksum"):
        fetch(remote, tmp_path / "a")
    assert fetch(remote, tmp_path / "a").read_bytes() == BODY


def test_a_refusal_of_the_server_is_one_line(server: Server, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"/missing: the server answered 404 Not Found$"):
        fetch(Remote(f"{server.url}/missing", "a"), tmp_path / "a")


def test_without_a_connection_the_message_is_one_line_and_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(NetworkError, match=r"no connection to 127.0.0.1:\d+ .*Go online and run it again, or put the file into") as error:
        fetch(Remote(f"http://127.0.0.1:{port}/a", "a"), tmp_path / "a")
    assert "\n" not in str(error.value)


def test_a_place_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileSystemError, match="file/a: "):
        fetch(Remote(f"{server.url}/a", "a"), tmp_path / "file" / "a")


def test_pages_of_rows_become_one_file_and_the_pages_that_came_are_kept(server: Server, tmp_path: Path) -> None:
    remote, path = Remote(f"{server.url}/rows?x=1", "rows.jsonl"), tmp_path / "rows.jsonl"
    fetch_rows(remote, path, "text", 1)
    path.rename(tmp_path / "one.jsonl")
    held = tmp_path / "rows.jsonl.pages"
    fetch(Remote(f"{server.url}/rows?offset=0&length=100", ""), held / "0000.json")
    server.busy = True
    with pytest.raises(DataError, match="no page of rows"):
        fetch_rows(remote, path, "text", 3)
    assert files(held) == ["0000.json"]
    server.busy = False
    asked = len(server.asked)
    fetch_rows(remote, path, "text", 3)
    assert len(server.asked) == asked + 2  # the first page was kept
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == [f"page «{i}»" for i in range(300)]
    assert files(tmp_path) == ["one.jsonl", "rows.jsonl"]


def test_pull_fetches_all_files_of_a_name(server: Server, tmp_path: Path) -> None:
    sources = {"two": Source("two files", (Remote(f"{server.url}/a", "d/a", SHA), Remote(f"{server.url}/b", "d/b", SHA)))}
    assert pull("two", tmp_path, sources=sources) == [tmp_path / "d/a", tmp_path / "d/b"]
    with pytest.raises(UnknownName, match="Did you mean 'shakespeare'"):
        pull("shakespear", tmp_path)


def test_every_source_is_https_checked_and_stays_below_the_cache() -> None:
    for source in SOURCES.values():
        for remote in source.files:
            assert remote.url.startswith("https://")
            assert ".." not in remote.path
            assert not Path(remote.path).is_absolute()
            assert re.fullmatch("[0-9a-f]{64}", remote.sha256) or source.pages
