"""Who and what is let in. Each guard has a negative control: the same request with the guard taken away is answered."""

import contextlib
import http.client
import json
import re
import socket
import time
from typing import Any

import httpx
import pytest

from tests.serve.server import CONFIG, NAME, Running, running
from underhood.serve import guard
from underhood.serve.app import PAGE
from underhood.serve.guard import PATHS, require_host, require_own_page, require_shallow, require_token
from underhood.serve.house import ServeConfig

TOKEN = "s3cret-ä"


def with_headers(served: Running, **headers: str) -> httpx.Response:
    return served.get("/v1/models", headers={name.replace("_", "-"): value for name, value in headers.items()})


# ── names, pages, tokens ──────────────────────────────────────────────────────────────────────────────────────────────


FOREIGN = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0", "", "192.168.1.5", "a@localhost"]
FILES = ["../protocol.py", "%2e%2e/protocol.py", "..%2fprotocol.py", "%5c..%5cprotocol.py", "/etc/passwd", "chat.js%00", "", "../../../../etc/passwd"]


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_name_is_refused(served: Running, host: str) -> None:
    answer = with_headers(served, host=host)
    assert answer.status_code == 421
    assert answer.json()["error"]["code"] == "wrong_host"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:99", "[::1]:8000", "localhost."])
def test_an_own_name_is_not(served: Running, host: str) -> None:
    assert with_headers(served, host=host).status_code == 200


def test_without_the_check_of_the_host_a_foreign_name_is_answered(monkeypatch: pytest.MonkeyPatch, served: Running) -> None:
    monkeypatch.setattr(guard, "require_host", lambda *given: None)
    assert with_headers(served, host="evil.example").status_code == 200


def test_on_other_addresses_bare_ones_are_own_names() -> None:
    require_host({"host": "192.168.1.5:8000"}, (), True)
    require_host({"host": "[fe80::1]:8000"}, (), True)
    with pytest.raises(guard.ApiError):
        require_host({"host": "rebound.example"}, (), True)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "file://", "http://127.0.0.1.evil.example", "http://[::1"])
def test_a_foreign_page_is_refused(served: Running, origin: str) -> None:
    assert with_headers(served, origin=origin).json()["error"]["code"] == "wrong_origin"
    assert with_headers(served, sec_fetch_site="cross-site").status_code == 403


def test_the_own_page_is_not(served: Running) -> None:
    assert with_headers(served, origin=served.url).status_code == 200
    require_own_page({"host": "localhost", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})  # a link to us


def test_without_the_check_of_the_page_a_foreign_one_is_answered(monkeypatch: pytest.MonkeyPatch, served: Running) -> None:
    monkeypatch.setattr(guard, "require_own_page", lambda headers: None)
    assert with_headers(served, origin="http://evil.example").status_code == 200


def test_no_other_page_may_read(served: Running) -> None:
    """CORS stays off: no answer allows another origin, a preflight neither."""
    for answer in (served.get("/v1/models"), httpx.options(served.url + "/v1/chat/completions")):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_token() -> None:
    with running(config=ServeConfig(token=TOKEN)) as served:
        for path in sorted(PATHS - guard.OPEN):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}".encode()}, {"authorization": "Bearer"}):
                assert served.get(path, headers=headers).status_code == 401, path
        assert served.get("/v1/models", headers={"authorization": f"Bearer {TOKEN}".encode()}).status_code == 200
        assert served.get("/").status_code == served.get("/health").status_code == 200
        assert served.post("/v1/completions", content=b"{" * 50).status_code == 401  # before anything is read


def test_without_a_token_the_check_lets_everybody_in() -> None:
    require_token({}, "")
    with pytest.raises(guard.ApiError):
        require_token({"authorization": "Bearer "}, "x")


def test_without_the_check_of_the_token_strangers_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "require_token", lambda headers, token: None)
    with running(config=ServeConfig(token=TOKEN)) as served:
        assert served.get("/v1/models").status_code == 200


def test_without_the_check_of_depth_the_parser_sees_it(monkeypatch: pytest.MonkeyPatch, served: Running) -> None:
    monkeypatch.setattr(guard, "require_shallow", lambda body, deepest: None)
    answer = served.post("/v1/completions", content=b"[" * 200 + b"]" * 200, headers={"content-type": "application/json"})
    assert answer.json()["error"]["code"] != "too_deep"


def test_headers_that_decide_stand_once(served: Running) -> None:
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert b" 400 " in connection.recv(1000).split(b"\r\n")[0]


# ── bodies ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def first_line(served: Running, head: str, chunks: Any = ()) -> str:
    """The status line that a raw request gets; sending stops when the server does not take any more."""
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        connection.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            for chunk in chunks:
                connection.sendall(chunk)
        return connection.makefile("rb").readline().decode()


def test_a_hundred_megabytes(served: Running) -> None:
    start = time.monotonic()
    assert " 413 " in first_line(served, "Content-Length: 100000000")  # refused by what it says of itself
    sent = 0

    def chunks() -> Any:
        nonlocal sent
        block = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        while sent < 100_000_000:
            yield block
            sent += 65536

    with contextlib.suppress(ConnectionResetError):  # the answer may be lost with what was still on its way
        assert " 413 " in first_line(served, "Transfer-Encoding: chunked", chunks())
    assert sent < 20_000_000  # it was cut off
    assert time.monotonic() - start < 10
    assert served.get("/health").status_code == 200


def test_a_body_at_the_limit_is_read() -> None:
    body = json.dumps({"model": NAME, "prompt": "a", "max_tokens": 1}).encode()
    for most, status in ((len(body), 200), (len(body) - 1, 413)):
        with running(config=ServeConfig(body_bytes=most)) as served:
            assert served.post("/v1/completions", content=body, headers={"content-type": "application/json"}).status_code == status


def test_a_slow_sender_is_not_waited_for() -> None:
    with running(config=ServeConfig(body_seconds=0.3)) as served:
        assert " 408 " in first_line(served, "Content-Length: 100", [b"{"])


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_a_head_that_never_ends_is_not_waited_for(before: bytes) -> None:
    with running(config=ServeConfig(body_seconds=0.5)) as served, socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        connection.sendall(before)
        if before:
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(10_000)
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        start = time.monotonic()
        assert connection.recv(10_000) == b""
        assert time.monotonic() - start < 8
        assert served.get("/health").status_code == 200


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"x": "\\"[[[", "y": ' + b"[" * 101])
def test_deep_json_is_refused_before_it_is_parsed(served: Running, body: bytes) -> None:
    answer = served.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.json()["error"]["code"] == "too_deep"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1"])
def test_json_is_utf8(served: Running, encoding: str) -> None:
    """In UTF-16 a character that holds the byte of a quote would hide the brackets after it."""
    fields = {"model": NAME, "prompt": "é" if encoding == "latin-1" else "Ģ", "max_tokens": 1}
    for text, utf8 in (
        (json.dumps({**fields, "metadata": json.loads("[" * 150 + "]" * 150)}, ensure_ascii=False), 400),
        (json.dumps(fields, ensure_ascii=False), 200),
    ):
        answers = [served.post("/v1/completions", content=text.encode(e), headers={"content-type": "application/json"}) for e in (encoding, "utf-8")]
        assert [a.status_code for a in answers] == [400, utf8]
        assert answers[0].json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 415), ("identity, br", 415), ("identity", 200)])
def test_a_packed_body_is_named(served: Running, encoding: str, status: int) -> None:
    body = json.dumps({"model": NAME, "prompt": "a", "max_tokens": 1}).encode()
    answer = served.post("/v1/completions", content=body, headers={"content-type": "application/json", "content-encoding": encoding})
    assert answer.status_code == status
    assert status == 200 or encoding in answer.json()["error"]["message"]


def test_brackets_in_strings_are_text() -> None:
    require_shallow(json.dumps({"prompt": '[[["{{' * 1000 + '\\"['}).encode(), 5)
    with pytest.raises(guard.ApiError):
        require_shallow(b"[[[[[[]]]]]]", 5)


def test_the_check_of_depth_is_linear() -> None:
    for hostile in (b'"' * 2**21, b'"\\' * 2**20, b"\\" * 2**21, b'"a' * 2**20, b"[]" * 2**20):
        start = time.thread_time()
        require_shallow(hostile, 100)
        assert time.thread_time() - start < 2


# ── the page and its paths ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [*(f"/page/{file}" for file in FILES), "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"])
def test_no_other_file_is_given(served: Running, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.putrequest("GET", path)
    connection.endheaders()
    assert connection.getresponse().status in (307, 404)
    connection.close()


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models", "/page/chat.js", "/v1/completions"])
def test_head_is_get_without_the_body(served: Running, path: str) -> None:
    head, whole = served.client.head(served.url + path), served.get(path)
    assert (head.status_code, head.headers.get("content-type")) == (whole.status_code, whole.headers.get("content-type"))
    assert (head.content, head.status_code) == (b"", 405 if path == "/v1/completions" else 200)
    assert path == "/metrics" or head.headers["content-length"] == str(len(whole.content))


def test_every_answer_has_its_policy(served: Running) -> None:
    for answer in (served.get("/"), served.get("/nowhere"), served.complete(), with_headers(served, host="evil.example")):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


def test_the_page_asks_nobody_else_and_writes_no_html(served: Running) -> None:
    for path in PAGE:
        text = served.get(path).text
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), path
    page = served.get("/").text
    assert not re.findall(r"\son\w+=|style=|<style|<script(?! src=\"/page/)", page)
    assert CONFIG.hosts == ("localhost", "127.0.0.1", "[::1]")


def test_no_documentation_that_loads_from_elsewhere(served: Running) -> None:
    assert served.get("/docs").status_code == served.get("/redoc").status_code == 404
