"""A model by its name, from a hub of our own on this machine."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from underhood.base.errors import DataError, FileSystemError, NetworkError, UserError
from underhood.data import pull_model as module
from underhood.data.pull_model import pull_model

FILES = {"config.json": b"{}", "model-00001-of-00002.safetensors": b"one", "model-00002-of-00002.safetensors": b"two", "tokenizer.json": b"[]"}
OTHERS = {"pytorch_model.bin": b"pickle", "modeling_own.py": b"code", "README.md": b"", "onnx/model.onnx": b"", "original/params.json": b""}


class Hub(http.server.ThreadingHTTPServer):
    """Lists and serves ``files``; what was asked for and with which token is kept."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.gated, self.elsewhere = {**FILES, **OTHERS}, list[tuple[str, str | None]](), False, ""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        hub: Any = self.server
        hub.asked.append((self.path, self.headers.get("Authorization")))
        if hub.gated and not self.headers.get("Authorization"):
            return self.send_error(401)
        if self.path.startswith("/api/models/a/model/revision/main"):
            listed = [{"rfilename": n, "size": len(b), "lfs": {"sha256": hashlib.sha256(b).hexdigest()}} for n, b in hub.files.items()]
            return self.answer(json.dumps({"sha": "abc", "siblings": listed}).encode())
        if hub.elsewhere and self.path.endswith(".safetensors"):
            self.send_response(302)
            self.send_header("Location", hub.elsewhere + self.path)
            self.end_headers()
            return None
        name = self.path.partition("/resolve/abc/")[2]
        return self.answer(hub.files[name]) if name in hub.files else self.send_error(404)

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def served() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


hub = pytest.fixture(served, name="hub")
other = pytest.fixture(served, name="other")


def test_only_what_is_data_is_fetched(hub: Hub, tmp_path: Path) -> None:
    assert pull_model("a/model", tmp_path / "m", hub=hub.url) == tmp_path / "m"
    assert {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()} == FILES
    assert all("/resolve/abc/" in path for path, _ in hub.asked[1:]), "one commit, whatever happens on the branch"
    count = len(hub.asked)
    pull_model("a/model", tmp_path / "m", hub=hub.url)
    assert len(hub.asked) == count + 1, "what is there is kept"


def test_a_whole_file_is_taken_before_shards(hub: Hub, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = b"onetwo"
    pull_model("a/model", tmp_path, hub=hub.url)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_templates_beside_the_first_are_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.files |= {"additional_chat_templates/tool_use.jinja": b"{{ tools }}", "additional_chat_templates/more/rag.jinja": b"", "other/rag.jinja": b""}
    pull_model("a/model", tmp_path, hub=hub.url)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.jinja")] == ["additional_chat_templates/tool_use.jinja"]


def test_what_is_there_is_checked_before_the_weights(hub: Hub, tmp_path: Path) -> None:
    """However small they are."""
    hub.files["tokenizer.json"] = b"[" + b" " * 100 + b"]"
    seen: list[tuple[list[str], bool]] = []

    def check(folder: Path, listed: Sequence[str]) -> None:
        seen.append((sorted(p.name for p in folder.iterdir()), set(listed) == set(hub.files)))
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        pull_model("a/model", tmp_path, hub=hub.url, check=check)
    assert seen == [(["config.json", "tokenizer.json"], True)]
    assert not any(path.endswith(".safetensors") for path, _ in hub.asked)
    pull_model("a/model", tmp_path, hub=hub.url, check=lambda *_: None)
    assert {p.name for p in tmp_path.iterdir()} == set(FILES)


def test_damage_on_the_way_is_seen(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = module._listing
    monkeypatch.setattr(module, "_listing", lambda *a: (listing(*a), hub.files.update({"config.json": b"}"}))[0])
    with pytest.raises(DataError, match="checksum"):
        pull_model("a/model", tmp_path, hub=hub.url)


def test_a_gated_model_needs_a_token_that_no_other_host_gets(hub: Hub, other: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated, hub.elsewhere = True, other.url
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(NetworkError, match="HF_TOKEN"):
        pull_model("a/model", tmp_path, hub=hub.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    pull_model("a/model", tmp_path, hub=hub.url)
    assert {token for _, token in hub.asked[1:]} == {"Bearer secret"}
    assert {token for _, token in other.asked} == {None}


@pytest.mark.parametrize("name", ["gpt3", "a/b/c", "../../etc", "a/..", "a b/c", "https://x/y"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UserError, match="OWNER/MODEL"):
        pull_model(name)


def test_a_model_in_another_format(hub: Hub, tmp_path: Path) -> None:
    hub.files = dict(OTHERS)
    with pytest.raises(DataError, match=r"no config\.json with safetensors"):
        pull_model("a/model", tmp_path, hub=hub.url)


def test_a_full_disk_is_seen_before_the_first_byte(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 10**18)
    with pytest.raises(FileSystemError, match="GB free"):
        pull_model("a/model", tmp_path / "m", hub=hub.url)
    assert not (tmp_path / "m").exists()


def test_no_such_model(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="404"):
        pull_model("no/model", tmp_path, hub=hub.url)
