"""What wraps every request: its line in the log, its place in the metrics, and the last resort."""

import logging
import time
from uuid import UUID

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel_common.logs import about
from kernel_common.traces import trace_id
from kernel_common.web.caller import TENANT_HEADER, USER_HEADER
from kernel_data import metrics

_PROBES = frozenset({"/live", "/ready", "/health/live", "/health/ready", "/metrics"})
"""Asked every few seconds: counted, not logged."""

_log = logging.getLogger("kernel_data.access")


class Passage:
    """Pure ASGI. Outermost, so that it sees the answer to an error that nobody foresaw."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                message["headers"] = [
                    *message["headers"],
                    (b"cache-control", b"no-store"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            _note(scope, status, time.perf_counter() - started)


def _note(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    metrics.requests.labels(scope["method"] if route != "unmatched" else "other", route, str(status)).inc()
    metrics.seconds.labels(route).observe(seconds)
    if route in _PROBES and status < 500:
        return
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    who = {name: _id(headers.get(header.encode(), "")) for name, header in _WHO.items()}
    # The path without its query: values to filter by stand there.
    _log.info(
        "%s %s",
        scope["method"],
        scope["path"],
        extra=about(
            status=status,
            ms=round(seconds * 1000, 1),
            trace_id=trace_id(headers.get(b"traceparent")),
            **{name: value for name, value in who.items() if value},
        ),
    )


_WHO = {"tenant": TENANT_HEADER, "user": USER_HEADER}


def _id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        return ""
