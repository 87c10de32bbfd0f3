"""Errors as answers: a status code, and one sentence that says what to do."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from xvit.utils.errors import XViTError, is_out_of_memory, one_line

_UNEXPECTED = "an unexpected error, which is in the server's log: please report it"
CLIENT_GONE = 499  # in the metrics only: nobody reads the answer

_logger = logging.getLogger("xvit")


class ServiceError(Exception):
    """An answer other than the result.

    Args:
        status: the HTTP status code.
        message: one sentence that says what to do.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


class ErrorAnswer(BaseModel):
    """What went wrong, and what to do."""

    error: str


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The entries of OpenAPI for these statuses."""
    return {status: {"model": ErrorAnswer, "description": _DESCRIPTIONS[status]} for status in statuses}


_DESCRIPTIONS = {
    400: "The body is not what its Content-Type says.",
    401: "The token is missing or wrong.",
    403: "Another host or origin than the service accepts.",
    404: "There is no such model, sample or page.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the limit.",
    415: "The Content-Type is no video.",
    422: "A parameter is wrong, or the video cannot be used.",
    429: "The queue is full; Retry-After says when to try again.",
    500: "An unexpected error.",
    503: "The service is shutting down, or its disk is full.",
    504: "The answer was not ready before the deadline.",
}


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


def describe_validation(error: Any) -> str:
    """The first problem that pydantic found, in one sentence."""
    first = error.errors()[0]
    *_, name = first["loc"] or ("body",)
    if first["type"] == "extra_forbidden":
        return f"{name}: no such parameter"
    return f"{name}={str(first.get('input'))[:80]!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def error_of(error: BaseException) -> ServiceError:
    """The answer for any error; those that are not expected are logged, and their details kept from the client."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, XViTError):
        return ServiceError(422, str(error))
    if is_out_of_memory(error):
        return ServiceError(503, "the server ran out of memory: send a smaller video, or fewer views")
    _logger.error("unexpected %s", one_line(error, name=True, length=1000), exc_info=error)
    return ServiceError(500, _UNEXPECTED)


@contextmanager
def expected_errors() -> Iterator[None]:
    """Turn all errors of some work into `ServiceError`, apart from a client that is gone."""
    try:
        yield
    except (ServiceError, ClientDisconnect):
        raise
    except Exception as error:
        raise error_of(error) from None


def add_error_handlers(app: FastAPI) -> None:
    """Let the application answer all errors as JSON."""

    async def service_error(request: Request, error: Exception) -> Response:
        answer = error_of(error)
        return error_response(answer.status, answer.message, answer.headers)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        texts = {404: "no such page: see /docs", 405: "this address does not accept this method: see /docs"}
        return error_response(error.status_code, texts.get(error.status_code, str(error.detail)), error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        return error_response(422, describe_validation(error))

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    async def unexpected(request: Request, error: Exception) -> Response:
        return error_response(500, _UNEXPECTED)  # logged by the ASGI server, to which starlette raises it again

    app.add_exception_handler(Exception, unexpected)
    for kind in (ServiceError, XViTError):
        app.add_exception_handler(kind, service_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ClientDisconnect, gone)
