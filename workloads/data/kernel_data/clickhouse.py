"""ClickHouse over HTTP, each question as the tenant's own user.

ClickHouse authenticates each request and not each connection, so all tenants share one small pool of connections and
none waits for a login. What one tenant can have under way is bounded, so that its slow questions don't stop the others.

A question that takes too long, or whose client has gone, ends in ClickHouse too: it is read-only, and the connection
closes under it.
"""

import asyncio
import json
import logging
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp

from kernel_common.analytics import tenant_password, tenant_user
from kernel_data import metrics

CONNECT_SECONDS = 3.0
SPARE_SECONDS = 2.0
"""What ClickHouse's own limit has before ours, which says less."""
WAIT_SECONDS = 5.0
"""For a place among the tenant's, or among all."""
MAX_RESULT_BYTES = 16_000_000

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})
_CODE = re.compile(r"Code: (\d+)")

_TOO_MUCH = {
    159: "takes too long",  # TIMEOUT_EXCEEDED
    160: "takes too long",  # TOO_SLOW
    158: "reads too many rows or makes too many groups",  # TOO_MANY_ROWS
    241: "takes too much memory",  # MEMORY_LIMIT_EXCEEDED
    307: "reads too much",  # TOO_MANY_BYTES
    396: "answers too much",  # TOO_MANY_ROWS_OR_BYTES
}
_CHANGED = frozenset({16, 47, 60, 81})  # no such column, unknown identifier, no such table, no such database
_NOBODY = frozenset({192, 193, 194, 516})  # unknown user, wrong password, no password, authentication failed

_log = logging.getLogger(__name__)


class Away(Exception):
    """ClickHouse can't answer now. Fit to show."""


class TooMany(Exception):
    """The tenant has too many questions under way: its own doing, and no failure of ours."""


class TooMuch(Exception):
    """The question is above a limit. Fit to show."""


class Changed(Exception):
    """The table or a column of it is not there."""


@dataclass(frozen=True, slots=True)
class Answer:
    rows: Sequence[Sequence[Any]]
    rows_read: int


class ClickHouse:
    """``async with``. ``seconds``, ``memory_mb`` and ``groups`` bound each question."""

    def __init__(
        self,
        url: str,
        master_key: bytes,
        *,
        connections: int,
        tenant_connections: int,
        seconds: int,
        memory_mb: int,
        groups: int,
    ) -> None:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self._url = f"{parts.scheme}://{host}:{parts.port or (8443 if parts.scheme == 'https' else 8123)}/"
        self._master_key = master_key
        self._lanes = _Lanes(connections, tenant_connections)
        self._connections, self._seconds = connections, seconds
        self._settings = {
            "default_format": "JSONCompactEachRow",
            "wait_end_of_query": "1",
            "readonly": "2",
            "cancel_http_readonly_queries_on_client_close": "1",
            "max_execution_time": str(seconds),
            "max_memory_usage": str(memory_mb << 20),
            "max_rows_to_group_by": str(groups),
            "group_by_overflow_mode": "throw",
            "max_result_bytes": str(MAX_RESULT_BYTES),
            "result_overflow_mode": "throw",
            "output_format_json_quote_64bit_integers": "0",
            "output_format_json_quote_decimals": "1",
            "output_format_json_quote_denormals": "1",
            "output_format_decimal_trailing_zeros": "1",
        }

    async def __aenter__(self) -> "ClickHouse":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections + 1),  # one to see whether it is there
            timeout=aiohttp.ClientTimeout(total=self._seconds + SPARE_SECONDS, sock_connect=CONNECT_SECONDS),
            trust_env=False,
            auto_decompress=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, tenant: UUID, sql: str, parameters: Mapping[str, str]) -> Answer:
        """The rows that ``tenant`` sees. ``parameters`` are texts, not escaped.
        Raises Away, TooMany, TooMuch and Changed."""
        login = b64encode(f"{tenant_user(tenant)}:{tenant_password(self._master_key, tenant)}".encode()).decode("ascii")
        arguments = self._settings | {f"param_{k}": v.translate(_ESCAPES) for k, v in parameters.items()}
        async with self._lanes.place(tenant):
            with metrics.clickhouse_seconds.time():
                return await self._send(arguments, {"Authorization": f"Basic {login}"}, sql.encode())

    async def _send(
        self, arguments: Mapping[str, str], headers: Mapping[str, str], body: bytes, *, again: bool = True
    ) -> Answer:
        try:
            async with self._session.post(
                self._url, params=arguments, headers=headers, data=body, allow_redirects=False
            ) as answer:
                text = await answer.read()
                code = answer.headers.get("X-ClickHouse-Exception-Code")
                if answer.status == 200 and code is None:
                    summary = json.loads(answer.headers.get("X-ClickHouse-Summary") or "{}")
                    rows = [json.loads(line) for line in text.splitlines() if line]
                    return Answer(rows, int(summary.get("read_rows", 0)))
        except TimeoutError:
            raise Away("no answer in time") from None
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            if again:  # a connection that the server had closed meanwhile; reading twice changes nothing
                return await self._send(arguments, headers, body, again=False)
            raise Away("the server closed the connection") from None
        except (aiohttp.ClientError, OSError):
            raise Away("it can't be reached") from None
        raise _judged(code, text.decode("utf-8", "replace"), answer.status)

    async def ping(self) -> None:
        """Raises Away."""
        try:
            async with self._session.get(f"{self._url}ping", timeout=aiohttp.ClientTimeout(total=2)) as answer:
                if answer.status != 200:
                    raise Away(f"it answers {answer.status}")
        except (aiohttp.ClientError, OSError, TimeoutError):
            raise Away("it can't be reached") from None


def _judged(header: str | None, body: str, status: int) -> Exception:
    """What the server's refusal means. Its words are not passed on: they hold the statement and values."""
    found = _CODE.search(body)
    text = header or (found[1] if found else "")
    code = int(text) if text.isdigit() else 0
    if code in _TOO_MUCH:
        return TooMuch(f"the question {_TOO_MUCH[code]}; ask for less, for example by a filter on created_at")
    if code in _CHANGED:
        return Changed()
    if code in _NOBODY:
        return Away("the tenant's user is not there yet, or is blocked")
    _log.warning("ClickHouse refused a question: code %s, HTTP %d", code or "?", status)
    return Away("it refused the question")


class _Lanes:
    """Places for questions: so many for all, and so many of them for one tenant."""

    def __init__(self, total: int, each: int) -> None:
        self._all, self._each = asyncio.Semaphore(total), each
        self._tenants: dict[UUID, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def place(self, tenant: UUID) -> AsyncIterator[None]:
        """Raises TooMany when the tenant has none for too long, Away when nobody has."""
        own, users = self._tenants.get(tenant) or (asyncio.Semaphore(self._each), 0)
        self._tenants[tenant] = own, users + 1
        held: list[asyncio.Semaphore] = []
        try:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    # The tenant's own first: whoever waits for it must not hold a place that others could have.
                    for semaphore in (own, self._all):
                        await semaphore.acquire()
                        held.append(semaphore)
            except TimeoutError:
                if not held:
                    raise TooMany from None
                raise Away("too many questions are under way") from None
            yield
        finally:
            for semaphore in held:
                semaphore.release()
            own, users = self._tenants[tenant]
            if users == 1:
                del self._tenants[tenant]
            else:
                self._tenants[tenant] = own, users - 1
