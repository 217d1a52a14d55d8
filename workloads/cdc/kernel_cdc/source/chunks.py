"""Rows of tables in pieces, written as the stream writes them.

Values come as PostgreSQL's own text, under the stream's session settings, so a row looks the same wherever it was read.
A piece is one short read-only transaction and ends after so many rows or bytes: nothing is held open while Kafka is
away, and memory is bounded however large the rows are.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection
from psycopg.sql import SQL, Composable

from kernel_cdc.source.pgoutput import Column, Values
from kernel_cdc.source.replication import StreamUnavailable, connected, explained

ROWS = 1_000
_FEW_BYTES = 500_000
"""Rows are fetched by more and more, until so much comes at once."""
_MOST_AT_ONCE = 250
_OPTIONS = (
    "-c default_transaction_read_only=on -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s "
    "-c lock_timeout=500ms"
)
_UNREADABLE = {
    "42P01": "it is gone",
    "3F000": "it is gone",
    "42703": "it has other columns",
    "42501": "the login may not read it",
    "55P03": "it is locked",
    "40P01": "it is locked",
}


class TableUnreadable(Exception):
    """One table can't be read now, others can; the message says why."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """``last``: there are no more rows behind these."""

    columns: tuple[Column, ...]
    rows: list[Values]
    last: bool


class ChunkReader:
    """One connection, made when it is needed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: AsyncConnection[object] | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["AsyncClientCursor[object]"]:
        """Raises StreamUnavailable or TableUnreadable, whatever fails in it."""
        if self._connection is None:
            self._connection = await connected(self._url, _OPTIONS)
        try:
            async with self._connection.transaction():
                yield AsyncClientCursor(self._connection)
        except psycopg.Error as error:
            if reason := _UNREADABLE.get(error.sqlstate or ""):
                raise TableUnreadable(reason) from None
            await self.close()
            raise StreamUnavailable(explained(error, "a table could not be read")) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()


async def fetch(cursor: "AsyncClientCursor[object]", query: Composable, most_bytes: int) -> Chunk:
    """The first rows of ``query``, which must be ordered and limited to ``ROWS``; at least one if there is any."""
    await cursor.execute(SQL("DECLARE chunk NO SCROLL CURSOR FOR {}").format(query))
    columns: tuple[Column, ...] = ()
    rows: list[Values] = []
    size, at_once = 0, 10
    while size < most_bytes and len(rows) < ROWS:
        await cursor.execute(f"FETCH {at_once} FROM chunk".encode())
        result = cursor.pgresult
        assert result is not None
        places = range(result.nfields)
        columns = tuple(Column((result.fname(at) or b"").decode(), result.ftype(at)) for at in places)
        found = [[result.get_value(row, at) for at in places] for row in range(result.ntuples)]
        rows += found
        fetched = sum(len(value) for row in found for value in row if value)
        size += fetched
        if len(found) < at_once:
            return Chunk(columns, rows, last=len(rows) < ROWS)
        at_once = 1 if fetched > _FEW_BYTES else min(at_once * 2, _MOST_AT_ONCE)
    return Chunk(columns, rows, last=False)
