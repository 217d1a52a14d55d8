"""ClickHouse's HTTP interface, as far as the operator needs it.

clickhouse-connect would do, at about 12 MB more of the operator's memory than the aiohttp that it has
anyway. Every statement is safe to repeat, so one whose connection broke is sent once more.
"""

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp

from kernel_operator import faults
from kernel_operator.desired import Unavailable
from kernel_operator.targets.clickhouse.quoting import parameter

CONNECT_SECONDS = 3.0
STATEMENT_SECONDS = 30.0
_CONNECTIONS = 16
_MESSAGE_CHARACTERS = 300
_HEX = re.compile(r"[0-9A-Fa-f]{32,}")

AUTHENTICATION_FAILED = 516
_REFUSED = {
    AUTHENTICATION_FAILED: "the user name or password was refused",
    497: "the operator's user lacks a right",
}


class ClickHouse:
    """One user's connection pool. Raises Unavailable for everything that goes wrong: no statement is
    made from what a person wrote without being checked first, so an error is the server's state."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.user = unquote(parts.username or "default")
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = parts.port or (8443 if parts.scheme == "https" else 8123)
        self._url = f"{parts.scheme}://{host}:{port}/"
        login = b64encode(f"{self.user}:{unquote(parts.password or '')}".encode()).decode("ascii")
        self._headers = {"Authorization": f"Basic {login}"}
        self._session: aiohttp.ClientSession | None = None

    async def rows(self, sql: str, **parameters: str | int | Sequence[str]) -> list[dict[str, Any]]:
        """The answer to a question, a dictionary a row."""
        body = await self._send(sql, parameters)
        return [json.loads(line) for line in body.splitlines() if line]

    async def run(self, sql: str, *, seconds: float = STATEMENT_SECONDS) -> None:
        """Runs a statement that has no answer."""
        await self._send(sql, {}, seconds)
        faults.wrote()

    async def ping(self) -> None:
        await self._send("SELECT 1", {})

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _send(
        self, sql: str, parameters: dict[str, Any], seconds: float = STATEMENT_SECONDS, *, again: bool = True
    ) -> str:
        arguments = {f"param_{name}": parameter(value) for name, value in parameters.items()}
        arguments |= {"default_format": "JSONEachRow", "wait_end_of_query": "1"}
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            async with self._opened().post(
                self._url, params=arguments, data=sql.encode(), timeout=timeout, allow_redirects=False
            ) as answer:
                body = (await answer.read()).decode("utf-8", "replace")
                if answer.status == 200 and "X-ClickHouse-Exception-Code" not in answer.headers:
                    return body
                raise _refused(answer.headers.get("X-ClickHouse-Exception-Code", ""), answer.status, body)
        except TimeoutError:
            raise Unavailable("ClickHouse", "no answer in time") from None
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            if again:
                return await self._send(sql, parameters, seconds, again=False)
            raise Unavailable("ClickHouse", "the server closed the connection") from None
        except (aiohttp.ClientError, OSError):
            raise Unavailable("ClickHouse", "the server can't be reached") from None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                headers=self._headers, connector=aiohttp.TCPConnector(limit=_CONNECTIONS), trust_env=False
            )
        return self._session


def _refused(code: str, status: int, body: str) -> Unavailable:
    """The server's own words, shortened, without anything that looks like a key or a hash."""
    first = body.strip().splitlines()[0] if body.strip() else ""
    first = first.partition("DB::Exception: ")[2] or first
    detail = _HEX.sub("...", first)[:_MESSAGE_CHARACTERS]
    if code.isdigit() and int(code) in _REFUSED:
        detail = _REFUSED[int(code)] if int(code) == AUTHENTICATION_FAILED else f"{_REFUSED[int(code)]}: {detail}"
    return Unavailable("ClickHouse", f"{detail or 'no reason given'} [code {code or f'HTTP {status}'}]")


async def bounded(limit: int, *work: Any) -> list[Any]:
    """Awaits all of ``work``, ``limit`` at a time; raises the first error when all have ended."""
    gate = asyncio.Semaphore(limit)

    async def one(item: Any) -> Any:
        async with gate:
            return await item

    results = await asyncio.gather(*(one(item) for item in work), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
