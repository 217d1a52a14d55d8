"""What a FastAPI application raises, as the problem document that its client reads."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from kernel_common.database import DatabaseUnavailable, reason_to_wait
from kernel_common.problems import MEDIA_TYPE, FieldError, Problem
from kernel_common.traces import trace_id

_SLUGS = {401: "unauthenticated", 403: "forbidden", 404: "not-found", 405: "method-not-allowed", 409: "conflict"}
_CODES = {
    "missing": "REQUIRED",
    "string_too_short": "TOO_SHORT",
    "too_short": "TOO_SHORT",
    "string_too_long": "TOO_LONG",
    "too_long": "TOO_LONG",
    "extra_forbidden": "UNKNOWN_FIELD",
}
"""Pydantic's names to those that clients see; any other is INVALID_FORMAT."""

_log = logging.getLogger(__name__)


class ProblemError(Exception):
    """Ends the request with this problem. ``detail`` says what to do and is shown; ``headers`` go with the answer."""

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail, self.errors = status, slug, detail, errors
        self.headers = dict(headers or {})


def invalid(*errors: FieldError) -> ProblemError:
    """400 for fields that are wrong."""
    return ProblemError(400, "validation-error", "; ".join(f"{e.field}: {e.message}" for e in errors), errors)


def unavailable(what: str) -> ProblemError:
    """503: the same request may succeed in a moment."""
    return ProblemError(503, "service-unavailable", f"{what}; try again in a moment", headers={"Retry-After": "1"})


def answer_problems(app: FastAPI) -> None:
    """Makes every error of ``app`` a problem document: its own, a wrong request, no route, and what nobody foresaw."""
    app.add_exception_handler(ProblemError, _raised)
    app.add_exception_handler(RequestValidationError, _wrong_request)
    app.add_exception_handler(HTTPException, _framework)
    for kind in (DatabaseUnavailable, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        app.add_exception_handler(kind, _dependency)
    app.add_exception_handler(Exception, _unforeseen)


def answer(request: Request, problem: ProblemError) -> Response:
    """The response that ``problem`` is."""
    document = Problem(
        problem.status,
        problem.slug,
        problem.detail,
        request.url.path,
        trace_id(request.headers.get("traceparent")),
        problem.errors,
    )
    return Response(document.body(), problem.status, problem.headers, MEDIA_TYPE)


async def _raised(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return answer(request, error)


async def _wrong_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answer(request, invalid(*(_field(e) for e in error.errors())))


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    slug = _SLUGS.get(error.status_code, "validation-error" if error.status_code < 500 else "internal-error")
    return answer(request, ProblemError(error.status_code, slug, str(error.detail), headers=error.headers))


async def _dependency(request: Request, error: Exception) -> Response:
    reason = str(error) if isinstance(error, DatabaseUnavailable) else reason_to_wait(error)
    if reason is None:
        raise error
    _log.warning("the database can't answer: %s", reason)
    return answer(request, unavailable("the database can't answer now"))


async def _unforeseen(request: Request, error: Exception) -> Response:
    """The server logs the error itself: it is raised again after this answer."""
    return answer(request, ProblemError(500, "internal-error", "it is logged; if it stays, report the trace_id"))


def _field(error: Mapping[str, Any]) -> FieldError:
    where = error["loc"]
    path = "body" if error["type"] == "json_invalid" else ".".join(map(str, where[1:])) or str(where[0])
    return FieldError(path, error["msg"], _CODES.get(error["type"], "INVALID_FORMAT"))
