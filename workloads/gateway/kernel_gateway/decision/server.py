"""The server that Envoy asks about each request: HTTP/1.1 on the loopback address, nothing but decisions.

A request carries the method and path of the one it is about, and the headers that Envoy adds; bodies never come here.
200 lets it pass, and its headers go on to the service or the client; any other answer goes to the client as it is.
It is written on the protocol level because a framework would cost more than the decision: see ``bench/decision.py``.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import quote

import httptools

from kernel_common.problems import MEDIA_TYPE, Problem
from kernel_common.traces import new_trace_id, trace_id, traceparent
from kernel_gateway import metrics
from kernel_gateway.access import (
    ACTOR_HEADER,
    ROLES_HEADER,
    RULE_HEADER,
    TENANT_HEADER,
    USER_HEADER,
    Allowed,
    Identity,
    Refused,
    Rule,
    Verdict,
)
from kernel_gateway.decision.decider import Decider

CLIENT_HEADER = "x-kernel-client"
"""The client's address, as Envoy knows it."""
REPORT_PATH = b"/internal/breaker"
"""Where Envoy's breakers tell of themselves. A request that is to be decided on carries a rule, whatever its path."""
MAX_REPORT = 1024
"""Bytes."""
MAX_REQUEST = 128 * 1024
"""Bytes of one request: more than Envoy lets a client send in headers."""
_MOST_AT_ONCE = 32
"""Requests of one connection that may wait; Envoy sends one at a time."""

_RULE, _CLIENT = RULE_HEADER.encode(), CLIENT_HEADER.encode()
_PHRASES = {status.value: status.phrase for status in HTTPStatus}

log = logging.getLogger(__name__)


Reports = Callable[[bytes], None]
"""Takes the body of a report; raises ValueError when it is none."""


class DecisionServer:
    """``reports`` is given what Envoy's breakers tell; without it nothing listens to them."""

    def __init__(self, decider: Decider, reports: Reports | None = None) -> None:
        self._decider, self._reports = decider, reports
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self.port = 0
        """Where it listens; known after ``start``."""

    async def start(self, port: int, host: str = "127.0.0.1") -> None:
        """Listens. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self._decider, self._reports, self._connections), host, port, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, timeout: float) -> None:
        """Takes no more connections, answers what is under way for at most ``timeout`` seconds, and closes."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.finish()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(connection.closed for connection in list(self._connections)))
        except TimeoutError:
            log.warning("decisions were still under way after %g s", timeout)
        for connection in list(self._connections):
            connection.abort()
        await self._server.wait_closed()


class _Exchange:
    """One request and its answer, which goes out when those before it have."""

    __slots__ = (
        "_connection",
        "authorization",
        "body",
        "client",
        "head_only",
        "keep_alive",
        "path",
        "request_id",
        "response",
        "rule",
        "trace",
    )

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection
        self.authorization: list[str] = []
        self.path, self.rule, self.client, self.body = b"", b"", b"", b""
        self.trace, self.request_id = b"", b""
        self.head_only, self.keep_alive = False, True
        self.response: bytes | None = None

    def __call__(self, verdict: Verdict) -> None:
        self._connection.answered(self, verdict)


class _Connection(asyncio.Protocol):
    def __init__(self, decider: Decider, reports: Reports | None, connections: "set[_Connection]") -> None:
        self._decider, self._reports, self._connections = decider, reports, connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange = _Exchange(self)
        self._under_way: deque[_Exchange] = deque()
        self._size = 0
        self._ending = self._paused = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._connections.discard(self)
        self._under_way.clear()
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(400, "the request is no HTTP/1.1 that can be read here")
            return
        if self._size > MAX_REQUEST:
            self._refuse(431, f"the request is larger than {MAX_REQUEST} bytes")

    # What the parser calls

    def on_url(self, url: bytes) -> None:
        self._exchange.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"authorization":
            self._exchange.authorization.append(value.decode("latin-1"))
        elif name == _RULE:
            # Two rules can't both hold; joined like this they are none.
            self._exchange.rule = b"%b %b" % (self._exchange.rule, value) if self._exchange.rule else value
        elif name == _CLIENT:
            self._exchange.client = value
        elif name == b"traceparent":
            self._exchange.trace = value
        elif name == b"x-request-id":
            self._exchange.request_id = value

    def on_body(self, body: bytes) -> None:
        if len(self._exchange.body) <= MAX_REPORT:  # more is no report, and a question has none
            self._exchange.body += body

    def on_message_complete(self) -> None:
        self._size = 0
        exchange, self._exchange = self._exchange, _Exchange(self)
        exchange.keep_alive = self._parser.should_keep_alive()
        exchange.head_only = self._parser.get_method() == b"HEAD"
        self._under_way.append(exchange)
        if len(self._under_way) >= _MOST_AT_ONCE and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if not exchange.rule and exchange.path == REPORT_PATH and self._reports is not None:
            exchange(_taken(self._reports, exchange.body))
            return
        rule = _rule(exchange.rule)
        if rule is None:
            metrics.decisions["internal-error"].inc()
            exchange(Refused(500, "internal-error", f"the route carries no rule that can be read ({RULE_HEADER})"))
            return
        try:
            self._decider.ask(rule, exchange.authorization, exchange.client.decode("latin-1"), exchange)
        except Exception:
            log.exception("a request could not be decided on")
            exchange(Refused(500, "internal-error", "the request could not be decided on"))

    # Answers

    def answered(self, exchange: _Exchange, verdict: Verdict) -> None:
        if self._transport is None:
            return
        exchange.response = response(exchange, verdict)
        under_way = self._under_way
        while under_way and under_way[0].response is not None:
            first = under_way.popleft()
            assert first.response is not None
            self._transport.write(first.response)
            if not first.keep_alive or (self._ending and not under_way):
                self._end()
                return
        if self._paused and len(under_way) < _MOST_AT_ONCE:
            self._paused = False
            self._transport.resume_reading()

    def finish(self) -> None:
        """Takes no more requests; closes when those under way are answered."""
        self._ending = True
        if not self._under_way:
            self._end()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        """What came can't be read, and nothing after it can be: those before it are answered, then it ends."""
        self._ending = True
        refused = self._exchange
        refused.keep_alive = False
        self._under_way.append(refused)
        metrics.decisions["validation-error"].inc()
        self.answered(refused, Refused(status, "validation-error", detail))

    def _end(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _taken(reports: Reports, body: bytes) -> Verdict:
    try:
        reports(body)
    except ValueError as error:
        return Refused(400, "validation-error", str(error))
    return Allowed()


def response(exchange: Any, verdict: Verdict) -> bytes:
    """The whole answer to ``exchange``."""
    headers = "".join([f"{name}: {value}\r\n" for name, value in verdict.headers.items()])
    if not exchange.keep_alive:
        headers += "connection: close\r\n"
    trace = trace_id(exchange.trace.decode("latin-1")) if exchange.trace else ""
    if not isinstance(verdict, Refused):
        if verdict.identity is not None:
            headers += identity_headers(verdict.identity)
        if not trace:
            trace = new_trace_id(exchange.request_id.decode("latin-1"))
            headers += f"x-trace-id: {trace}\r\ntraceparent: {traceparent(trace)}\r\n"
        return f"HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n".encode("latin-1")
    path = exchange.path.partition(b"?")[0].decode("latin-1")
    trace = trace or new_trace_id(exchange.request_id.decode("latin-1"))
    body = Problem(verdict.status, verdict.slug, verdict.detail, path, trace).body()
    head = (
        f"HTTP/1.1 {verdict.status} {_PHRASES.get(verdict.status, '')}\r\n{headers}"
        f"x-kernel-decided: refused\r\nx-trace-id: {trace}\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + (b"" if exchange.head_only else body)


@lru_cache(20_000)
def identity_headers(identity: Identity) -> str:
    """What the service is told. Names of roles are percent-encoded where a comma or a letter beyond ASCII would lie."""
    roles = ",".join(quote(role, safe=" ") for role in identity.roles)
    lines = [f"{USER_HEADER}: {identity.user}", f"{TENANT_HEADER}: {identity.tenant}", f"{ROLES_HEADER}: {roles}"]
    if identity.actor is not None:
        lines.append(f"{ACTOR_HEADER}: {identity.actor}")
    return "".join(f"{line}\r\n" for line in lines)


@lru_cache(4096)
def _rule(text: bytes) -> Rule | None:
    try:
        return Rule.parse(text.decode("ascii"))
    except ValueError:
        return None
