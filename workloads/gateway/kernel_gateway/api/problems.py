"""Every error of the API as a problem document: ours, the framework's, and those that nobody expected."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, ResponseValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from kernel_common.database import DatabaseUnavailable, reason_to_wait
from kernel_common.problems import MEDIA_TYPE, FieldError, Problem
from kernel_common.web.problems import ProblemError
from kernel_gateway.access import Refused
from kernel_gateway.api import openapi, trace
from kernel_gateway.decision.rights import RightsUnavailable
from kernel_gateway.tokens.keyring import KeysError

__all__ = ["ProblemError", "install", "invalid", "refused", "response", "translate", "unavailable", "unexpected"]

log = logging.getLogger(__name__)

_SLUGS = {400: "validation-error", 404: "not-found", 405: "method-not-allowed", 413: "payload-too-large"}

_CODES = {
    "missing": "REQUIRED",
    "extra_forbidden": "UNKNOWN_FIELD",
    "string_too_short": "TOO_SHORT",
    "string_too_long": "TOO_LONG",
    "too_short": "TOO_SHORT",
    "too_long": "TOO_LONG",
    "json_invalid": "INVALID_JSON",
}
"""What pydantic calls an error to the code that clients see; INVALID_FORMAT for all others."""


def refused(verdict: Refused) -> ProblemError:
    """What the decision has refused."""
    return ProblemError(verdict.status, verdict.slug, verdict.detail, headers=verdict.headers)


def invalid(field: str, message: str, code: str = "INVALID_FORMAT") -> ProblemError:
    """A validation error of one field that only a look at something else could find."""
    return ProblemError(400, "validation-error", f"{field}: {message}", [FieldError(field, message, code)])


def unavailable(detail: str, retry_after: int = 5) -> ProblemError:
    """503: the same request may succeed in ``retry_after`` seconds."""
    return ProblemError(503, "service-unavailable", detail, headers={"Retry-After": str(retry_after)})


def response(path: str, error: ProblemError) -> Response:
    """The answer that ``error`` is. ``path`` becomes its ``instance``."""
    problem = Problem(error.status, error.slug, error.detail, path, trace.current.get(), error.errors)
    return Response(problem.body(), error.status, {**error.headers, "Cache-Control": "no-store"}, MEDIA_TYPE)


def translate(error: Exception) -> ProblemError:
    """What ``error`` is to a client. What can't be told apart from a fault of ours is a 500 that says nothing."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError):
        return _validation(error)
    if isinstance(error, HTTPException):
        return _framework(error)
    if isinstance(error, RightsUnavailable):
        return unavailable(str(error))
    if isinstance(error, KeysError | DatabaseUnavailable) or reason_to_wait(error):
        what = "no key signs tokens" if isinstance(error, KeysError) else "the database can't answer"
        return unavailable(f"{what} now; try again later")
    return ProblemError(500, "internal-error", "it was logged under the trace_id; try again, or report that id")


def install(app: FastAPI) -> None:
    """Has every error of ``app`` answered by ``translate``. The last resort is the middleware's."""

    async def handle(request: Request, error: Exception) -> Response:
        problem = translate(error)
        if problem.status >= 500:
            _log(error, problem)
        if problem.status == 405 and (methods := openapi.methods_at(app, request.url.path)):
            problem.headers["Allow"] = ", ".join(methods)
        return response(request.url.path, problem)

    for kind in (ProblemError, RequestValidationError, HTTPException, ResponseValidationError):
        app.add_exception_handler(kind, handle)


def unexpected(path: str, error: Exception) -> Response:
    """The answer to an error that reached the outermost layer; logs it."""
    problem = translate(error)
    _log(error, problem)
    return response(path, problem)


def _log(error: Exception, problem: ProblemError) -> None:
    if problem.status == 500:
        log.error("an unexpected error", exc_info=error)
    elif error is not problem:
        log.warning("%s [%s]", problem.detail, type(error).__name__)


def _validation(error: RequestValidationError) -> ProblemError:
    errors = [_field_error(each) for each in error.errors()[:20]]
    detail = "; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in errors)
    return ProblemError(400, "validation-error", detail[:1000], errors)


def _field_error(error: Mapping[str, Any]) -> FieldError:
    place = [str(part) for part in error["loc"]]
    if error["type"] == "json_invalid":
        return FieldError("", "the body is no valid JSON", "INVALID_JSON")
    field = ".".join(place[1:] if place[0] in ("body", "query", "path", "header", "cookie") else place)
    # Clients send names of their own here; a long one is not told back whole.
    return FieldError(field[:200], str(error["msg"]), _CODES.get(error["type"], "INVALID_FORMAT"))


def _framework(error: HTTPException) -> ProblemError:
    status = error.status_code
    slug = _SLUGS.get(status) or HTTPStatus(status).phrase.lower().replace(" ", "-")
    detail = {
        400: "the body can't be read as JSON",
        404: "nothing answers at this path",
        405: "this path knows other methods: see the header Allow",
    }.get(status, str(error.detail))
    return ProblemError(
        status, slug, detail, headers={name.title(): value for name, value in (error.headers or {}).items()}
    )
