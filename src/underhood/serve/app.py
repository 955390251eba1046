"""The application: routes, guard and page around one served model."""

import contextlib
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from underhood import __version__
from underhood.base.errors import UserError
from underhood.serve import chat, completions, errors, insight
from underhood.serve.errors import ApiError
from underhood.serve.guard import Guard
from underhood.serve.house import House, house_of
from underhood.serve.protocol import EmbeddingRequest

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/chat.css": ("chat.css", "text/css; charset=utf-8"),
    "/page/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
    "/page/attention.js": ("attention.js", "text/javascript; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
router = APIRouter()


class Fault(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class FaultBody(BaseModel):
    """Every answer that is an error."""

    error: Fault


def build_app(house: House) -> FastAPI:
    """The application; the engine's thread runs from its start to its end."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        house.worker.start()
        yield
        house.worker.stop()
        house.close()

    answers: dict[int | str, dict[str, Any]] = {code: {"model": FaultBody} for code in (400, 401, 404, 413, 429, 503)}
    app = FastAPI(title="underhood", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan, responses=answers)
    app.state.house = house
    for routes in (chat.router, completions.router, insight.router, router, page_routes()):
        app.include_router(routes)
    app.add_exception_handler(ApiError, errors.on_api_error)
    app.add_exception_handler(UserError, errors.on_user_error)
    app.add_exception_handler(HTTPException, errors.on_http_error)
    app.add_exception_handler(RequestValidationError, errors.on_invalid)
    app.add_exception_handler(Exception, errors.on_fault)
    app.add_middleware(Guard, house=house)
    return app


def page_routes() -> APIRouter:
    """The chat page: a few files, read once; no path of a request is ever looked up."""
    routes, folder = APIRouter(), files("underhood.serve") / "page"
    for path, (name, kind) in PAGE.items():
        content = (folder / name).read_bytes()

        async def give(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

        routes.add_api_route(path, _without_parameters(give), methods=["GET"], include_in_schema=False, response_class=Response)
    return routes


def _without_parameters(give: Any) -> Any:
    async def answer() -> Response:
        found: Response = await give()
        return found

    return answer


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The one model."""
    return {"object": "list", "data": [_model(house_of(request))]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """The one model, by name."""
    house = house_of(request)
    house.require_model(name)
    return _model(house)


def _model(house: House) -> dict[str, Any]:
    config = house.model.config
    facts = {"context": house.limit, "n_layer": config.n_layer, "n_head": config.n_head, "parameters": sum(p.numel() for p in house.model.parameters())}
    chatting = {"style": house.dialogue.style, "says": house.dialogue.says}
    return {"id": house.name, "object": "model", "created": house.created, "owned_by": "underhood", "underhood": {**facts, "chat": chatting}}


@router.post("/v1/embeddings")
async def embeddings(request: Request, asked: EmbeddingRequest) -> Response:
    """A model that writes text has none."""
    raise ApiError(404, f"{house_of(request).name!r} writes text; it was not trained to embed it", code="no_embeddings")


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """Whether it is worth asking."""
    house = house_of(request)
    status = "failed" if house.worker.failed else "draining" if house.draining else "ok"
    return JSONResponse({"status": status}, 200 if status == "ok" else 503)


@router.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """For Prometheus."""
    house = house_of(request)
    statistics = await house.worker.call(lambda engine: engine.statistics())
    return PlainTextResponse(house.metrics.text(statistics), media_type="text/plain; version=0.0.4; charset=utf-8")
