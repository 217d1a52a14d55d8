"""The replication protocol, on libpq's own calls, beside an asyncio loop.

psycopg makes the connection; its cursor can't stream. After START_REPLICATION the server sends copy data for as long as
the connection lives: messages of the log (``w``) and keepalives (``k``). We answer with status updates (``r``): what
was received and what may be forgotten. The socket is watched only while we wait for it, because what is not read
must stay in it: that is how a full Kafka queue reaches PostgreSQL, which then stops decoding.

The session's settings fix how values are written as text: UTC, ISO dates, shortest floats that read back the same.
"""

import asyncio
import struct
import time
from collections.abc import Sequence
from contextlib import suppress

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.conninfo import make_conninfo

from kernel_cdc.source.values import EPOCH_SECONDS

WAL, KEEPALIVE = ord("w"), ord("k")
_STATUS = struct.Struct("!cQQQQ?")
_OPTIONS = "-c timezone=UTC -c datestyle=ISO -c extra_float_digits=1 -c intervalstyle=iso_8601 -c bytea_output=hex"
SILENCE = 90.0
"""Seconds of listening without a word, after which the server counts as gone: it answers each sign of life that the
source writes into the log, which comes more often."""

_REASONS = {
    "55006": "the slot is in use by another process",
    "55000": "the slot is lost",
    "28P01": "the login was refused",
    "28000": "the login was refused",
    "42501": "the login lacks a right",
    "3D000": "the database is not there",
    "53300": "the server has no connection left for replication",
    "57P03": "the server is starting or stopping",
    "57P01": "the server has ended the connection",
    "53400": "the server has no replication slot left",
    "42710": "another process has just made the slot",
}


class StreamUnavailable(Exception):
    """The log can't be streamed now; the message is fit to show, without addresses."""


class ReplicationStream:
    """One connection that streams. ``received`` is the highest place in the log that the server has named."""

    def __init__(self, connection: AsyncConnection[object]) -> None:
        self._connection, self._libpq = connection, connection.pgconn
        self._silent = 0.0
        self.received = 0

    @classmethod
    async def open(cls, url: str, slot: str, publications: Sequence[str]) -> "ReplicationStream":
        """Starts where the slot was confirmed. Raises StreamUnavailable."""
        connection = await connected(url, replication="database")
        names = ",".join(f'"{name}"' for name in publications)
        start = (
            f'START_REPLICATION SLOT "{slot}" LOGICAL 0/0 '
            f"(proto_version '1', publication_names '{names}', messages 'true')"
        )
        try:
            await _command(connection, start, pq.ExecStatus.COPY_BOTH)
        except BaseException:
            await connection.close()
            raise
        return cls(connection)

    def take(self) -> bytes | None:
        """The next message that has arrived whole; None when there is none. Raises StreamUnavailable."""
        try:
            size, data = self._libpq.get_copy_data(1)
        except psycopg.Error:
            raise StreamUnavailable(_lost(self._libpq)) from None
        if size > 0:
            return bytes(data)
        if size < 0:
            raise StreamUnavailable(_lost(self._libpq))
        return None

    async def readable(self, seconds: float) -> bool:
        """Waits for more to arrive; False when nothing came in time. Raises StreamUnavailable."""
        waited = await _readable(self._libpq, seconds)
        if waited:
            try:
                self._libpq.consume_input()
            except psycopg.Error:
                raise StreamUnavailable(_lost(self._libpq)) from None
            self._silent = 0.0
        else:
            self._silent += seconds
            if self._silent > SILENCE:
                raise StreamUnavailable("PostgreSQL is silent")
        return waited

    def report(self, confirmed: int) -> None:
        """Tells the server that the log before ``confirmed`` may be forgotten. Raises StreamUnavailable."""
        clock = int((time.time() - EPOCH_SECONDS) * 1_000_000)
        try:
            self._libpq.put_copy_data(
                _STATUS.pack(b"r", max(self.received, confirmed), confirmed, confirmed, clock, False)
            )
            self._libpq.flush()
        except psycopg.Error:
            raise StreamUnavailable(_lost(self._libpq)) from None

    async def close(self) -> None:
        await self._connection.close()


async def create_slot(url: str, slot: str) -> None:
    """Makes the slot. PostgreSQL first waits for the transactions that are open. Raises StreamUnavailable."""
    connection = await connected(url, replication="database")
    try:
        await _command(
            connection,
            f"CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL pgoutput (SNAPSHOT 'nothing')",
            pq.ExecStatus.TUPLES_OK,
        )
    finally:
        await connection.close()


async def connected(url: str, options: str = "", **more: str) -> AsyncConnection[object]:
    """A connection that writes values as the stream does. Raises StreamUnavailable."""
    where = make_conninfo(
        url,
        application_name="kernel-cdc-source",
        options=f"{_OPTIONS} {options}",
        connect_timeout=5,
        keepalives_idle=15,
        keepalives_interval=5,
        keepalives_count=3,
        **more,
    )
    try:
        return await AsyncConnection.connect(where, autocommit=True)
    except psycopg.Error as error:
        raise StreamUnavailable(explained(error, "can't be reached")) from None
    except OSError:
        raise StreamUnavailable("PostgreSQL: can't be reached") from None


def explained(error: psycopg.Error, otherwise: str) -> str:
    """Why PostgreSQL did not do it, fit to show."""
    return f"PostgreSQL: {_REASONS.get(error.sqlstate or '', otherwise)}"


async def _command(connection: AsyncConnection[object], text: str, wanted: pq.ExecStatus) -> None:
    """Runs a replication command, which the ordinary protocol does not take."""
    libpq = connection.pgconn
    try:
        libpq.send_query(text.encode())
        libpq.flush()
        while libpq.is_busy():
            await _readable(libpq, None)
            libpq.consume_input()
        result = libpq.get_result()
    except psycopg.Error:
        raise StreamUnavailable(_lost(libpq)) from None
    if result is not None and result.status == wanted:
        return
    code = result.error_field(pq.DiagnosticField.SQLSTATE) if result is not None else None
    sqlstate = code.decode() if code else ""
    raise StreamUnavailable(f"PostgreSQL: {_REASONS.get(sqlstate, f'the server refused (SQLSTATE {sqlstate})')}")


async def _readable(libpq: pq.abc.PGconn, seconds: float | None) -> bool:
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    socket = libpq.socket
    loop.add_reader(socket, arrived.set)
    try:
        async with asyncio.timeout(seconds):
            await arrived.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(socket)
    return True


def _lost(libpq: pq.abc.PGconn) -> str:
    """Why a connection that worked is gone."""
    result = None
    with suppress(psycopg.Error):
        result = libpq.get_result()
    code = result.error_field(pq.DiagnosticField.SQLSTATE) if result is not None else None
    return f"PostgreSQL: {_REASONS.get(code.decode() if code else '', 'the connection broke')}"
