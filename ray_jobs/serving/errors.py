"""Everything that can go wrong, in OpenAI's shape, without a stack trace."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ray_jobs.serving.complaints import complaint_of
from setok.errors import OverloadedError, SetokError, TrainingError
from setok.serving.schemas import ErrorAnswer, ErrorDetail
from setok.serving.translation import FieldError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1
CLIENT_CLOSED_REQUEST = 499
"""Of nginx: the client left before there was an answer. Nobody reads it but the log."""


class ClientGoneError(Exception):
    """The client has hung up."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What an error is to a client."""

    status: int
    kind: str
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further ones, such as the methods that an address does have."""

    def body(self) -> dict[str, object]:
        """As JSON."""
        detail = ErrorDetail(message=self.message, type=self.kind, param=self.param, code=self.code)
        return ErrorAnswer(error=detail).model_dump()

    def response(self) -> JSONResponse:
        """As an answer."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status in (408, 413):  # or what is still to come of the body would be read for nothing
            headers["connection"] = "close"
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def problem_of(error: Exception) -> Problem:
    """What a client is told of an exception."""
    if isinstance(error, OverloadedError):
        return Problem(
            status=503, kind="server_error", code="overloaded", message=_sentence(error), retry_after=RETRY_AFTER_S
        )
    if isinstance(error, SetokError) and not isinstance(error, TrainingError):
        param = error.field if isinstance(error, FieldError) else None
        return Problem(status=400, kind="invalid_request_error", message=_sentence(error), param=param)
    if isinstance(error, TimeoutError):
        return Problem(
            status=504, kind="server_error", code="timeout", message="the answer was not ready in time; ask for less"
        )
    if isinstance(error, ClientGoneError):
        return Problem(status=CLIENT_CLOSED_REQUEST, kind="server_error", message="the client has left")
    if isinstance(error, RequestValidationError):
        place, message = complaint_of(error.errors(), error.body)
        return Problem(
            status=400,
            kind="invalid_request_error",
            message=f"{place}: {message}" if place else message,
            param=place or None,
        )
    if isinstance(error, HTTPException):
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        return Problem(status=error.status_code, kind=kind, message=str(error.detail), headers=error.headers or {})
    logger.error("a request failed", exc_info=error)
    return Problem(status=500, kind="server_error", message="an internal error; the server's log has it")


def no_such_model(asked: str, served: str) -> Problem:
    """Another model than the one there is."""
    return Problem(
        status=404,
        kind="invalid_request_error",
        code="model_not_found",
        param="model",
        message=f"there is no model {asked[:100]!r} here; use {served!r}",
    )


class ProblemError(Exception):
    """A problem that is known where it is met."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


def install(app: FastAPI) -> None:
    """Answer all exceptions of an application in one shape."""

    async def handle(_: Request, error: Exception) -> JSONResponse:
        known = error.problem if isinstance(error, ProblemError) else problem_of(error)
        return known.response()

    for kind in (
        SetokError,
        TimeoutError,
        ClientGoneError,
        ProblemError,
        RequestValidationError,
        HTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, handle)


def _sentence(error: SetokError) -> str:
    return f"{error.problem}: {error.remedy}" if error.remedy else error.problem
