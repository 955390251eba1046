"""Errors in the words of OpenAI's API: an HTTP status, and ``{"error": {message, type, param, code}}``."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from underhood.base.errors import UserError

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}

COME_AGAIN = 10  # seconds, to a server that stops or has too many connections


class ApiError(Exception):
    """What a request is answered with instead; ``param`` is the field that is at fault, ``code`` a word for programs."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int | None = None) -> None:
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after
        super().__init__(message)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that says it."""
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": _writable(self.message), "type": kind, "param": self.param and _writable(self.param), "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """When to come again, where that helps."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body, self.status, headers=self.headers)


async def on_api_error(request: Request, error: Exception) -> JSONResponse:
    """An error of ours."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_user_error(request: Request, error: Exception) -> JSONResponse:
    """What the engine, the tokenizer, the grammar or the template refuses: it says where and why."""
    assert isinstance(error, UserError)
    return ApiError(400, str(error)[:1000], param=error.where[:100] or None, code="invalid_value").response()


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses: an unknown path, a wrong method, a body that is not JSON."""
    assert isinstance(error, HTTPException)
    found = ApiError(error.status_code, str(error.detail))
    return JSONResponse(found.body, error.status_code, headers=dict(error.headers or {}))


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """Fields that the protocol does not know, or not like this; the first is named. What was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    same = [e for e in found if e["loc"][:2] == found[0]["loc"][:2]]  # of a field that may be of several types, all complain
    first = next((e for e in same if not e["type"].endswith("_type")), same[0])
    param = _path(first["loc"])
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json").response()
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{param}: this server does not know the field", param=param, code="unknown_parameter").response()
    return ApiError(400, f"{param or 'the body'}: {first['msg']}"[:500], param=param, code="invalid_value").response()


async def on_fault(request: Request, error: Exception) -> JSONResponse:
    """A fault of ours: the log has the traceback, the client learns nothing of it."""
    return ApiError(500, "a fault of the server's; its log says more", code="internal_error").response()


def _writable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can bring and UTF-8 cannot hold."""
    return text.encode("utf-8", errors="replace").decode()


def _path(place: Sequence[int | str]) -> str | None:
    """``("body", "messages", 0, "content", "str")`` as ``messages.0.content``; names of types in a union are left out."""
    parts = [str(part)[:64] for part in place[1:] if isinstance(part, int) or part.isidentifier()]
    return ".".join(part for part in parts if part not in ("str", "int", "float", "bool")) or None
