"""One connection to Valkey for decisions: everything that is asked in one turn of the loop goes out in one write.

Answers come back in the order of the questions, so a queue of callbacks is all the bookkeeping there is. A client
library costs more than the whole rest of a decision here: see ``bench/decision.py``.

A question is never kept waiting for a connection. While there is none it fails at once, and a background task goes on
connecting; a server that takes longer than ``TIMEOUT`` to answer has its connection broken, which fails whatever is
asked of it, and is left alone until it greets us again. So a dead server delays one burst of requests, not each.

What a server is told of changed rights it may lose: it restarts from a log that lacks the last second, or a replica
takes over. So rights carry an *era*, a random text that changes with every start of a server: scripts are not kept over
a restart, hence a server that does not know ours is a new one. The era is set before the scripts are there, the last of
them being the one that we ask for, so no other replica takes the server for a known one too early.
"""

import asyncio
import contextlib
import logging
import secrets
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit

import hiredis

from kernel_gateway import metrics
from kernel_gateway.decision.script import ERA, MARK, SCRIPTS, command

TIMEOUT = 0.25
"""Seconds for an answer."""
_SECOND_LOOK = 0.01
_GREETING_TIMEOUT = 1.0
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds between attempts to connect; the last one again and again."""
_STEADY = 1.0
"""Seconds after which a connection that broke counts as one that worked."""
_MOST_WAITING = 20_000
_USELESS = ("NOSCRIPT", "READONLY", "LOADING", "MASTERDOWN", "NOAUTH")

Reply = Callable[[Any], None]
"""Called once with what hiredis read, or with an exception: ``ValkeyAway``, or ``hiredis.ReplyError`` of the server."""

log = logging.getLogger(__name__)


class ValkeyAway(Exception):
    """Valkey is not connected, or did not answer in time."""


class Valkey:
    """``ask`` and ``call`` may be used from the loop that ``start`` ran in, before it and after ``close`` too: then
    nothing is connected. Raises ValueError when ``url`` is no ``redis(s)://user:password@host:port/database``."""

    def __init__(self, url: str) -> None:
        self._url = _checked(url)
        self._line: _Line | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._line is not None and not self._line.lost.is_set()

    async def start(self) -> None:
        """Connects, and keeps connecting until ``close``. Returns after the first attempt, whatever came of it."""
        first = asyncio.Event()
        self._task = asyncio.create_task(self._keep_connected(first))
        await first.wait()

    async def close(self) -> None:
        """Breaks the connection; questions under way fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        line, self._line = self._line, None
        if line is not None:
            line.abort()

    def ask(self, question: bytes, reply: Reply) -> None:
        """``question`` is a whole command, sent at the end of this turn of the loop. ``reply`` may come at once."""
        if self._line is None:
            reply(ValkeyAway("Valkey is not connected"))
        else:
            self._line.ask(question, reply)

    async def call(self, question: bytes) -> Any:
        """The answer to ``question``. Raises ValkeyAway and hiredis.ReplyError."""
        if self._line is None:
            raise ValkeyAway("Valkey is not connected")
        return await self._line.call(question)

    def doubt(self, error: hiredis.ReplyError) -> None:
        """Connects anew when ``error`` says that this server can't serve us as it is; a single bad key is no reason."""
        if self._line is not None and str(error).startswith(_USELESS):
            self._line.abort()

    async def _keep_connected(self, first: asyncio.Event) -> None:
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            self._line = None
            try:
                async with asyncio.timeout(_GREETING_TIMEOUT):
                    self._line = await self._connect()
            except (OSError, TimeoutError, ValkeyAway, hiredis.HiredisError) as error:
                if attempt == 0:
                    log.warning("Valkey can't be used; while it can't, limits are off: %s", _reason(error))
                first.set()
                await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
                attempt += 1
                continue
            connected = loop.time()
            log.info("connected to Valkey")
            first.set()
            await self._line.lost.wait()
            metrics.valkey_lost.inc()
            if loop.time() - connected >= _STEADY:
                attempt = 0
            else:
                await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
                attempt += 1
            if attempt <= 1:
                log.warning("the connection to Valkey was lost; while there is none, limits are off")

    async def _connect(self) -> "_Line":
        secure = ssl.create_default_context() if self._url.scheme == "rediss" else None
        line = _Line()
        await asyncio.get_running_loop().create_connection(
            lambda: line, self._url.hostname or "", self._url.port or 6379, ssl=secure
        )
        try:
            await self._greet(line)
        except BaseException:
            line.abort()
            raise
        return line

    async def _greet(self, line: "_Line") -> None:
        if self._url.password is not None:
            await line.call(command("AUTH", unquote(self._url.username or "default"), unquote(self._url.password)))
        if (database := self._url.path.strip("/")) not in {"", "0"}:
            await line.call(command("SELECT", database))
        known = ["NX"]
        try:
            await line.call(command("EVALSHA", MARK.sha, 0))
        except hiredis.ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            known = []
        # Written in any case: a replica, which refuses it, is of no use.
        await line.call(command("SET", ERA, secrets.token_hex(8), *known))
        for script in (*SCRIPTS, MARK):
            await line.call(command("SCRIPT", "LOAD", script.text))


class _Line(asyncio.Protocol):
    """One connection, from its making to its end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost = asyncio.Event()
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._waiting: deque[tuple[Reply, float]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._broken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so

    def ask(self, question: bytes, reply: Reply) -> None:
        if self._broken or len(self._waiting) >= _MOST_WAITING:
            reply(ValkeyAway("Valkey can't keep up"))
            return
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(question)
        self._waiting.append((reply, self._loop.time()))
        if self._watch is None:
            self._watch = self._loop.call_later(TIMEOUT, self._look)

    async def call(self, question: bytes) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()

        def reply(answer: Any) -> None:
            if not future.done():  # whoever asked may have gone
                future.set_result(answer)

        self.ask(question, reply)
        answer = await future
        if isinstance(answer, Exception):
            raise answer
        return answer

    def abort(self) -> None:
        self._broken = True
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while self._waiting:
            try:
                answer = self._reader.gets()
            except hiredis.ProtocolError:
                self.abort()
                return
            if answer is False:
                return
            reply = self._waiting.popleft()[0]
            try:
                reply(answer)
            except Exception:  # whoever asked has a fault; the others must have their answers
                log.exception("an answer of Valkey could not be used")

    def connection_lost(self, exc: Exception | None) -> None:
        self._broken = True
        self.lost.set()
        if self._watch is not None:
            self._watch.cancel()
        waiting, self._waiting = self._waiting, deque()
        for reply, _ in waiting:
            reply(ValkeyAway("the connection to Valkey is lost"))

    def _send(self) -> None:
        if self._transport is not None and not self._broken:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _look(self, again: bool = False) -> None:
        """Runs at most once in TIMEOUT, whatever the load: the oldest question tells all. It looks twice: if it was our
        own loop that stood still, the answer lies in the socket and is read before the second look."""
        self._watch = None
        if not self._waiting:
            return
        left = self._waiting[0][1] + TIMEOUT - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        elif not again:
            self._watch = self._loop.call_later(_SECOND_LOOK, self._look, True)
        else:
            self.abort()


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    with contextlib.suppress(ValueError):
        port = parts.port or 6379
        if parts.scheme in {"redis", "rediss"} and parts.hostname and port:
            return parts
    raise ValueError("VALKEY_URL must be redis(s)://user:password@host:port/database")


def _reason(error: Exception) -> str:
    """Without addresses and names."""
    if isinstance(error, hiredis.ReplyError):
        return str(error).partition(" ")[0]
    return "no answer in time" if isinstance(error, TimeoutError) else "it can't be reached"
