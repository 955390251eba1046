"""Fetching over the network: the one place of ``underhood`` that does. Resumable, checked, and whole or absent.

A download grows in ``NAME.part`` and is renamed when its length and, where one is known, its checksum are right. What broke off goes on
where it stopped, unless the server's file has changed since (``If-Range`` with its ETag).
"""

import dataclasses
import hashlib
import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from underhood.base.errors import DataError, NetworkError, UnknownName
from underhood.base.files import named_os_errors, write_atomic
from underhood.data.places import cache_folder

Progress = Callable[[str, int, int], None]  # file, bytes so far, bytes in all (0: unknown)

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 18
RAW = "https://raw.githubusercontent.com"
GPT2 = "https://huggingface.co/openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e"
ROWS = "https://datasets-server.huggingface.co/rows?dataset=HuggingFaceFW/fineweb-edu&config=sample-10BT&split=train"
ROWS_PER_PAGE = 100  # the most that the server gives


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file to fetch: where from, where to (below the cache), and its checksum where it is known."""

    url: str
    path: str
    sha256: str = ""
    token: str = dataclasses.field(default="", repr=False)  # sent to the url's own host alone


@dataclasses.dataclass(frozen=True)
class Source:
    """What a name fetches."""

    says: str
    files: tuple[Remote, ...]
    rows: str = ""  # of a page of rows to put together instead, as JSON lines in ``files[0].path``
    pages: int = 0


SOURCES = {
    "shakespeare": Source(
        "1.1 million characters of Shakespeare (1.1 MB)",
        (
            Remote(
                f"{RAW}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                "tinyshakespeare.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            ),
        ),
    ),
    "the-verdict": Source(
        "a short story by Edith Wharton, 1908 (20 kB)",
        (
            Remote(
                f"{RAW}/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code/the-verdict.txt",
                "the-verdict.txt",
                "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
            ),
        ),
    ),
    "gpt2": Source(
        "GPT-2 small: weights, configuration, vocabulary (550 MB)",
        (
            Remote(f"{GPT2}/config.json", "gpt2/config.json", "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4"),
            Remote(f"{GPT2}/vocab.json", "gpt2/vocab.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
            Remote(f"{GPT2}/merges.txt", "gpt2/merges.txt", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
            Remote(f"{GPT2}/model.safetensors", "gpt2/model.safetensors", "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
        ),
    ),
    "fineweb-edu": Source("1,000 educational web pages (about 5 MB)", (Remote(ROWS, "fineweb-edu.jsonl"),), rows="text", pages=10),
}


def pull(name: str, folder: str | os.PathLike[str] | None = None, progress: Progress | None = None, sources: dict[str, Source] = SOURCES) -> list[Path]:
    """Fetch ``name`` into the cache (or ``folder``) and return its files; those that are there and right are kept.

    Raises ``UnknownName``, ``NetworkError`` (no connection, refused, broke off: run it again and it goes on) or ``DataError`` (wrong checksum).
    """
    if name not in sources:
        raise UnknownName("data set", name, sources)
    source, home = sources[name], cache_folder(folder)
    if source.pages:
        (remote,) = source.files
        return [fetch_rows(remote, home / remote.path, source.rows, source.pages, progress)]
    return [fetch(remote, home / remote.path, progress) for remote in source.files]


def fetch(remote: Remote, path: Path, progress: Progress | None = None) -> Path:
    """Bring one file to ``path``."""
    if path.exists() and (not remote.sha256 or _sha256(path) == remote.sha256):
        return path
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.etag")
    with named_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(remote, part, tag, progress)
        found = _sha256(part)
        if remote.sha256 and found != remote.sha256:
            part.unlink()
            tag.unlink(missing_ok=True)
            raise DataError(f"its checksum is {found[:12]}…", where=remote.url, expected=f"{remote.sha256[:12]}…", remedy="Nothing was kept; run it again.")
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        tag.unlink(missing_ok=True)
    return path


def _download(remote: Remote, part: Path, tag: Path, progress: Progress | None) -> None:
    """Fill ``part``, from where it stands if the server goes on there."""
    url = remote.url
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8")} if have else {}
    with open_url(url, headers, remote.token) as response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if goes_on else 0
        length = int(response.headers.get("Content-Length") or 0)
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):  # a weak one does not promise the same bytes
            tag.write_text(etag, encoding="utf-8")
        else:
            tag.unlink(missing_ok=True)
        with open(part, "ab" if goes_on else "wb") as file:
            done = _copy(response, file, part, have, have + length if length else 0, progress, url)
    if length and done != have + length:
        raise _broke_off(url, done, have + length)


def _copy(response: Any, file: Any, part: Path, done: int, total: int, progress: Progress | None, url: str) -> int:
    """Copy the answer to its end; what came before a break is kept."""
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _broke_off(url, done, total) from error
        if not chunk:
            return done
        file.write(chunk)
        done += len(chunk)
        if progress:
            progress(part.name.removesuffix(".part"), done, total)


def _broke_off(url: str, done: int, total: int) -> NetworkError:
    of = f" of {total:,}" if total else ""
    return NetworkError(f"the connection broke off after {done:,}{of} bytes", where=url, remedy="Run it again: it goes on from there.")


def open_url(url: str, headers: dict[str, str], token: str = "") -> Any:
    """The answer of the server; a refusal or a missing network is a ``NetworkError`` of one line."""
    request = urllib.request.Request(url, headers={"User-Agent": "underhood", **headers})
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    host = urllib.parse.urlsplit(url).netloc
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return open_url(url, {}, token)
        raise NetworkError(f"the server answered {error.code} {error.reason}", where=url) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        remedy = "Go online and run it again, or put the file into the folder that $UNDERHOOD_DATA names."
        raise NetworkError(f"no connection to {host} ({reason})", where=url, remedy=remedy) from error


def fetch_rows(remote: Remote, path: Path, column: str, pages: int, progress: Progress | None = None) -> Path:
    """Put the pages of a table together as JSON lines ``{"text": …}``; the pages that have come are kept until all have."""
    if path.exists():
        return path
    held, texts = path.with_name(path.name + ".pages"), list[str]()
    for page in range(pages):
        url = f"{remote.url}&offset={page * ROWS_PER_PAGE}&length={ROWS_PER_PAGE}"
        texts += _column(fetch(Remote(url, ""), held / f"{page:04}.json"), column)
        if progress:
            progress(path.name, page + 1, pages)
    write_atomic(path, "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    for file in held.iterdir():
        file.unlink()
    held.rmdir()
    return path


def _column(path: Path, column: str) -> list[str]:
    try:
        return [row["row"][column] for row in json.loads(path.read_bytes())["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        path.unlink()
        raise DataError("the server's answer is no page of rows", where=str(path), remedy="It was removed; run it again.") from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
