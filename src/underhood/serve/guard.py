"""Who and what is let in, before anything is parsed: the name that the server was called by, the page that calls, the token, the body's size and depth.

A page in a browser can make requests to a server on the same machine. A foreign one is turned away by its ``Origin``; one that has let its own name point
here (DNS rebinding) by the ``Host`` that it must send.
"""

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from underhood.serve.errors import COME_AGAIN, ApiError
from underhood.serve.house import House

STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
BRACKETS = re.compile(rb"[\[\]{}]")
OPEN = frozenset({"/", "/page/chat.css", "/page/chat.js", "/page/attention.js", "/page/icon.svg", "/health"})  # nothing in them that a token would protect
PATHS = OPEN | {"/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/underhood/attention", "/metrics", "/openapi.json"}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, house: House) -> None:
        self.app, self.house = app, house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        house, path = self.house, scope["path"]

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *((k.encode(), v.encode()) for k, v in HEADERS.items())]
                house.metrics.answered(path if path in PATHS else "other", message["status"])
            await send(message)

        try:
            require_room(house.connections(), house.config.connections)
            headers = headers_of(scope)
            require_host(headers, house.config.hosts, house.config.any_address)
            require_own_page(headers)
            if path not in OPEN:
                require_token(headers, house.config.token)
            require_plain(headers)
            body = await read_body(headers, receive, house.config.body_bytes, house.config.body_seconds)
            require_utf8(body)
            require_shallow(body, house.config.deepest)
        except ApiError as error:
            response = error.response()
            response.headers["connection"] = "close"  # what was not read of the body is not waited for
            return await response(scope, receive, guarded)
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # of whose answer the server leaves out the body
        await self.app(scope, replay(body, receive), guarded)


def require_room(connections: int, most: int) -> None:
    """Raise ``ApiError`` where there are more connections than may be."""
    if connections > most:
        raise ApiError(503, "too many connections; try again later", code="unavailable", retry_after=COME_AGAIN)


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers by name. Raises ``ApiError`` where one that decides stands twice."""
    headers: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        if name in headers and name in ("host", "origin", "authorization", "content-length"):
            raise ApiError(400, f"the header {name!r} stands twice", code="invalid_header")
        headers[name] = value.decode("latin-1")
    return headers


def require_host(headers: Mapping[str, str], hosts: tuple[str, ...], any_address: bool) -> None:
    """Raise ``ApiError`` unless the server was called by a name of its own."""
    host = re.sub(r":[0-9]*$", "", headers.get("host", "")).lower().rstrip(".")
    if host in hosts or (any_address and _is_address(host)):
        return
    raise ApiError(421, f"this server is not {host[:100]!r}; if it is meant to be: --allow-host", code="wrong_host")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def require_own_page(headers: Mapping[str, str]) -> None:
    """Raise ``ApiError`` for a request that a page from elsewhere makes."""
    origin = headers.get("origin")
    if origin is not None and _place(origin) != headers.get("host", "").lower():
        raise ApiError(403, "requests from pages of other servers are not answered", code="wrong_origin")
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
        raise ApiError(403, "requests from pages of other servers are not answered", code="wrong_origin")


def _place(origin: str) -> str | None:
    """The host and port of an origin; None for what is no address, as a page without one may send."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def require_token(headers: Mapping[str, str], token: str) -> None:
    """Raise ``ApiError`` without the token, where there is one. How long the comparison takes does not depend on where they differ."""
    if not token:
        return
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), token.encode()):
        raise ApiError(401, "no token, or a wrong one: send 'Authorization: Bearer …'", code="invalid_api_key")


async def read_body(headers: Mapping[str, str], receive: Receive, most: int, seconds: float) -> bytes:
    """The whole body. Raises ``ApiError``: 413 as soon as it is known to be too large, 408 when it takes too long."""
    declared = headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or len(declared) > 18:
        raise ApiError(400, "content-length is no number", code="invalid_header")
    too_large = ApiError(413, f"the body is larger than {most:,} bytes", code="body_too_large")
    if int(declared) > most:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(400, "the client has gone", code="disconnected")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:
                    raise too_large
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise ApiError(408, f"the body took longer than {seconds:g} s", code="body_too_slow") from None


def require_plain(headers: Mapping[str, str]) -> None:
    """Raise ``ApiError`` for a body that is packed."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ApiError(415, f"the body is encoded as {encoding[:100]!r}; send it as it is", code="unsupported_encoding")


def require_utf8(body: bytes) -> None:
    """Raise ``ApiError`` for what is not UTF-8: in UTF-16 or UTF-32, which the parser would read too, brackets are not to be counted byte by byte."""
    try:
        body.decode()
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8", code="invalid_json") from None
    if b"\0" in body:
        raise ApiError(400, "the body holds a zero byte, which JSON in UTF-8 does not", code="invalid_json")


def require_shallow(body: bytes, deepest: int) -> None:
    """Raise ``ApiError`` for JSON nested deeper than ``deepest``."""
    depth = 0
    for bracket in BRACKETS.findall(STRINGS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > deepest:
            raise ApiError(400, f"the JSON is nested deeper than {deepest} levels", code="too_deep")


def replay(body: bytes, receive: Receive) -> Receive:
    """``receive`` that gives ``body`` first, whole."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
