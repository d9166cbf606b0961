"""The HTTP application: OpenAI's routes and ours, the page, health and figures. It knows nothing of where the model runs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from importlib import resources
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.routing import BaseRoute, Match, Route

from ray_jobs.serving import errors
from ray_jobs.serving.attending import EventStream, while_there
from ray_jobs.serving.backend import Backend
from ray_jobs.serving.draining import Traffic
from ray_jobs.serving.figures import Figures
from ray_jobs.serving.gate import Application, Gate, Scope
from ray_jobs.serving.service import Service
from setok.config import ServeConfig
from setok.errors import DataError
from setok.serving.keys import ApiKeys, RateLimit
from setok.serving.schemas import (
    ChatCompletion,
    ChatRequest,
    ErrorAnswer,
    ImageRequest,
    ImagesAnswer,
    LookRequest,
    ModelAnswer,
    ModelsAnswer,
    ReconstructAnswer,
    SegmentAnswer,
    SegmentRequest,
    StatusAnswer,
    TokenizeRequest,
    TokensAnswer,
)

T = TypeVar("T")
READY_TIMEOUT_S = 2.0
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; frame-ancestors 'none'"
)
PAGE = {
    "/": ("index.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/page/style.css": ("style.css", "text/css"),
    "/page/api.js": ("api.js", "text/javascript"),
    "/page/map.js": ("map.js", "text/javascript"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/docs.js": ("docs.js", "text/javascript"),
}
"""Files of the page by their paths."""
_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The request cannot be answered: the message says why.",
        401: "No key, or an unknown one.",
        404: "No such model.",
        408: "The body did not come in time.",
        413: "The body is too large.",
        429: "Too many requests of this key; Retry-After says when.",
        503: "Too many requests wait; Retry-After says when.",
        504: "The answer was not ready in time.",
    }.items()
}
_EDIT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "prompt"],
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "mask": {
                            "type": "string",
                            "format": "binary",
                            "description": "Of the first picture, and of its size: a PNG that is transparent where the picture"
                            " may change. The model draws all of it; what the mask covers is put back.",
                        },
                        "prompt": {"type": "string"},
                        **{name: {"type": "integer"} for name in ("n", "seed")},
                        **{name: {"type": "string"} for name in ("model", "size", "response_format")},
                        "guidance": {"type": "number"},
                    },
                }
            }
        },
    }
}


def create_app(
    backend: Backend,
    config: ServeConfig,
    keys: ApiKeys,
    *,
    figures: Figures | None = None,
    traffic: Traffic | None = None,
) -> Application:
    """The whole application, with the gate that every request passes.

    Args:
        keys: who is let in; empty for everyone.
        figures: counters; by default new ones.
        traffic: what is let in, for whoever ends the server.
    """
    figures = figures or Figures()
    service = Service(backend, config, figures)
    app = FastAPI(
        title="SeTok",
        description="Pictures as a handful of semantic tokens, and a language model that reads and writes them.",
        docs_url=None,
        redoc_url=None,
    )
    errors.install(app)
    _add_openai_routes(app, service)
    _add_own_routes(app, service)
    _add_status_routes(app, service, figures)
    _add_page(app)
    rate = RateLimit(config.access.requests_per_minute, config.access.burst)
    whole: Application = Gate(
        app, config, keys, rate, figures, traffic or Traffic(), route_of=partial(_route_of, app.router.routes)
    )
    if config.access.cors_origins:
        whole = CORSMiddleware(
            whole,
            allow_origins=config.access.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    return whole


def _route_of(routes: Sequence[BaseRoute], scope: Scope) -> str | None:
    """The pattern of a request's path, whatever its method."""
    for route in routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            return route.path
    return None


def _add_openai_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/chat/completions", responses=_FAILURES, summary="Answer a conversation, in words, pictures and regions"
    )
    async def chat_completions(body: ChatRequest, request: Request) -> ChatCompletion:
        if body.stream:
            return EventStream(service.chat_stream(body), timeout_s=service.config.limits.request_timeout_s)  # type: ignore[return-value]
        return await _answer(request, service, service.chat(body))

    @app.post("/v1/images/generations", responses=_FAILURES, summary="Draw pictures")
    async def images_generations(body: ImageRequest, request: Request) -> ImagesAnswer:
        return await _answer(request, service, service.generate(body))

    @app.post("/v1/images/edits", responses=_FAILURES, summary="Change a picture", openapi_extra=_EDIT_BODY)
    async def images_edits(request: Request) -> ImagesAnswer:
        return await _answer(request, service, service.edit(*await _edit_of(request)))

    @app.get("/v1/models", responses=_FAILURES, summary="The model, and what it can do")
    async def models() -> ModelsAnswer:
        return ModelsAnswer(data=[await service.model()])

    @app.get("/v1/models/{name:path}", responses=_FAILURES, summary="One model by its name")
    async def model(name: str) -> ModelAnswer:
        found = await service.model()
        if name != found.id:
            raise errors.ProblemError(errors.no_such_model(name, found.id))
        return found


def _add_own_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/tokenize", responses=_FAILURES, summary="The tokens of a picture, and their map")
    async def tokenize(body: TokenizeRequest, request: Request) -> TokensAnswer:
        return await _answer(request, service, service.tokenize(body))

    @app.post("/v1/reconstruct", responses=_FAILURES, summary="What a picture's tokens hold of it")
    async def reconstruct(body: LookRequest, request: Request) -> ReconstructAnswer:
        return await _answer(request, service, service.reconstruct(body))

    @app.post("/v1/segment", responses=_FAILURES, summary="The region that some words mean")
    async def segment(body: SegmentRequest, request: Request) -> SegmentAnswer:
        return await _answer(request, service, service.segment(body))


def _add_status_routes(app: FastAPI, service: Service, figures: Figures) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Whether the process is there")
    async def health() -> StatusAnswer:
        """The process is there."""
        return StatusAnswer(status="ok")

    @app.head("/ready", include_in_schema=False)
    @app.get(
        "/ready",
        summary="Whether the model can be asked",
        responses={503: {"model": ErrorAnswer, "description": "The model is not ready yet."}},
    )
    async def ready() -> StatusAnswer:
        """The model has been loaded and warmed up."""
        try:
            await asyncio.wait_for(service.card(), READY_TIMEOUT_S)
        except TimeoutError:
            problem = errors.Problem(
                status=503, kind="server_error", code="not_ready", message="the model is not ready yet", retry_after=1
            )
            raise errors.ProblemError(problem) from None
        return StatusAnswer(status="ready")

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    folder = resources.files("ray_jobs.serving") / "page"

    def route(name: str, kind: str) -> Any:
        content = (folder / name).read_bytes()
        headers = {"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"}

        async def page() -> Response:
            return Response(content, media_type=kind, headers=headers)

        return page

    for path, (name, kind) in PAGE.items():
        app.add_api_route(path, route(name, kind), methods=["GET", "HEAD"], include_in_schema=False)

    @app.get("/favicon.ico", status_code=204, include_in_schema=False)
    async def icon() -> None:
        """Browsers ask for it; there is none."""


async def _edit_of(request: Request) -> tuple[ImageRequest, list[bytes], bytes | None]:
    """The fields of a form, its pictures and its mask.

    Raises:
        DataError: no form, no picture, more than one mask, or a field that is not possible.
    """
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        raise DataError(f"the body is {kind[:60]!r} and no form", "send multipart/form-data with image and prompt")
    form = await request.form(max_files=64, max_fields=64)
    fields: dict[str, str] = {}
    files: dict[str, list[bytes]] = {"image": [], "mask": []}
    for name, value in form.multi_items():
        is_file, kind = isinstance(value, UploadFile), name.removesuffix("[]")
        if is_file != (kind in files):
            what = "a file" if is_file else "a text"
            raise DataError(
                f"the form has {what} {name[:40]!r}", "send pictures as files image, and what may change as mask"
            )
        if isinstance(value, UploadFile):
            files[kind].append(await value.read())
        else:
            fields[name] = value
    if not files["image"]:
        raise DataError("the form has no picture", "send one or several as image")
    if len(files["mask"]) > 1:
        raise DataError(f"the form has {len(files['mask'])} masks", "send one, for the first picture")
    try:
        return ImageRequest.model_validate(fields), files["image"], next(iter(files["mask"]), None)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", "correct the form") from None


async def _answer(request: Request, service: Service, work: Coroutine[Any, Any, T]) -> T:
    return await while_there(request.receive, work, timeout_s=service.config.limits.request_timeout_s)
