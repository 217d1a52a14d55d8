"""What wraps every request of the API: its trace, the bound on its body, its line in the log, and the last resort."""

import logging
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel_common.logs import about
from kernel_gateway.api import metrics, problems, trace

MAX_BODY = 1_000_000
"""Bytes of a request's body."""
_TOO_LARGE = f"a body may have at most {MAX_BODY} bytes"

log = logging.getLogger("kernel_gateway.access")


class Passage:
    """Pure ASGI, so that nothing stands between a request and its handler but function calls."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        token = trace.current.set(trace.of(_header(scope, b"traceparent")))
        started, status = time.perf_counter(), 0

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HARDENING, *_limit(scope, message["headers"])]
            await send(message)

        try:
            length = _header(scope, b"content-length")
            if length.isdigit() and int(length) > MAX_BODY:
                raise problems.ProblemError(413, "payload-too-large", _TOO_LARGE)
            await self._app(scope, _bounded(receive), watched_send)
        except Exception as error:
            if status:
                raise  # half an answer is out: only breaking off tells the client
            await problems.unexpected(scope["path"], error)(scope, receive, watched_send)
        finally:
            _note(scope, status or HTTPStatus.INTERNAL_SERVER_ERROR, time.perf_counter() - started)
            trace.current.reset(token)


_PROBES = frozenset({"/live", "/ready", "/health/live", "/health/ready", "/metrics"})
"""Asked every few seconds: counted, not logged."""

_HARDENING = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def _limit(scope: Scope, there: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The state of the caller's rate limit, on errors too; a refusal has brought its own."""
    names = {name.lower() for name, _ in there}
    told: Mapping[str, str] = scope.get("state", {}).get("limit") or {}
    headers = [(name.lower().encode(), value.encode()) for name, value in told.items()]
    return [header for header in headers if header[0] not in names]


def _bounded(receive: Receive) -> Receive:
    """Counts the body as it comes in: a body in chunks tells no length."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return bounded


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _note(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    metrics.requests.labels(scope["method"] if route != "unmatched" else "other", route, str(int(status))).inc()
    metrics.seconds.labels(route).observe(seconds)
    if route in _PROBES and status < 500:
        return
    identity = scope.get("state", {}).get("identity")
    who = {"user": str(identity.user), "tenant": str(identity.tenant)} if identity else {}
    # The path without its query: tokens may stand there.
    log.info(
        "%s %s",
        scope["method"],
        scope["path"],
        extra=about(
            status=int(status),
            ms=round(seconds * 1000, 1),
            trace_id=trace.current.get(),
            client=_header(scope, b"x-kernel-client") or (scope.get("client") or ("",))[0],
            **who,
        ),
    )
