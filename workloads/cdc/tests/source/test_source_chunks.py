"""Rows read from tables look as they do in the stream."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from cdc_source_world import Install, Installed
from psycopg.sql import SQL, Identifier

from kernel_cdc.source import slot
from kernel_cdc.source.chunks import Chunk, ChunkReader, TableUnreadable, fetch
from kernel_cdc.source.decoder import Decoder
from kernel_cdc.source.pgoutput import Relation
from kernel_cdc.source.replication import WAL, ReplicationStream
from kernel_cdc.source.rows import CapturedTable, Commit
from kernel_common.ids import uuid7
from kernel_local.testing import PostgresServer
from kernel_operator.desired import ColumnType

VALUES: dict[ColumnType, list[Any]] = {
    ColumnType.TEXT: ['ä "\\ \n\t\x01 \u2028 %', "", None],
    ColumnType.INTEGER: [-(2**31), 0, None],
    ColumnType.BIGINT: [2**63 - 1, -1, None],
    ColumnType.DECIMAL: [Decimal("12345678901234.000001"), Decimal("NaN"), None],
    ColumnType.FLOAT: [0.1, float("-inf"), None],
    ColumnType.BOOLEAN: [True, False, None],
    ColumnType.DATE: [date(1, 1, 2), date(2026, 2, 28), None],
    ColumnType.TIMESTAMP: [datetime(2026, 1, 2, 3, 4, 5, 600, UTC), datetime(9999, 12, 30, tzinfo=UTC), None],
    ColumnType.UUID: [uuid7(), uuid7(), None],
    ColumnType.JSON: ['{"b": [1e400, "ä%s", null]}', "0.10", None],
}


@pytest.fixture(scope="module")
async def world(install: Install) -> Installed:
    return await install()


@pytest.fixture
async def reader(postgres: PostgresServer) -> AsyncIterator[ChunkReader]:
    reader = ChunkReader(postgres.cdc_url)
    yield reader
    await reader.close()


async def rows_of(reader: ChunkReader, world: Installed, most_bytes: int = 4_000_000) -> Chunk:
    query = SQL("SELECT * FROM {} ORDER BY tenant_id, id LIMIT 1000").format(Identifier(*world.table.split(".")))
    async with reader.transaction() as cursor:
        return await fetch(cursor, query, most_bytes)


async def test_every_type_is_the_same_byte_by_byte(
    postgres: PostgresServer, admin: asyncpg.Pool, world: Installed, reader: ChunkReader
) -> None:
    streamed, read = dict[bytes, bytes](), dict[bytes, bytes]()
    await admin.fetchval("SELECT pg_create_logical_replication_slot('tests_chunks', 'pgoutput')")
    stream = await ReplicationStream.open(postgres.cdc_url, "tests_chunks", slot.PUBLICATIONS)
    try:
        columns = ", ".join(f"a_{kind}" for kind in ColumnType)
        places = ", ".join(f"${at + 2}" for at in range(len(ColumnType)))
        for values in zip(*(VALUES[kind] for kind in ColumnType), strict=True):
            await admin.execute(
                f"INSERT INTO {world.table} (tenant_id, {columns}) VALUES ($1, {places})", world.tenant, *values
            )
        decoder = Decoder(lambda _topic, key, value, _headers: streamed.update({key: value}))
        while len(streamed) < 3 or decoder.in_transaction:
            if (message := stream.take()) is None:
                assert await stream.readable(10)
            elif message[0] == WAL:
                decoder.feed(message)
    finally:
        await stream.close()
        await admin.execute(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = 'tests_chunks'"
        )
        await admin.execute("SELECT pg_drop_replication_slot('tests_chunks')")
    chunk = await rows_of(reader, world)
    schema, _, name = world.table.partition(".")
    table = CapturedTable(
        Relation(0, schema, name, chunk.columns), lambda _topic, key, value, _headers: read.update({key: value})
    )
    for row in chunk.rows:
        table.read(Commit(0, b"2000-01-01T00:00:00.000000Z"), 7, row)
    assert chunk.last
    assert {key: _row(value) for key, value in read.items()} == {key: _row(value) for key, value in streamed.items()}
    one = json.loads(next(iter(read.values())))
    assert (one["op"], one["module"], one["tenantId"]) == ("s", world.module.slug, str(world.tenant))
    assert (one["lsn"], one["committedAt"]) == (7, "2000-01-01T00:00:00.000000Z")


def _row(value: bytes) -> bytes:
    return value.partition(b'"row":')[2]


async def test_a_chunk_ends_when_it_is_large(admin: asyncpg.Pool, install: Install, reader: ChunkReader) -> None:
    world = await install()
    await admin.execute(
        f"INSERT INTO {world.table} (tenant_id, a_text) SELECT $1, repeat('x', 100000) FROM generate_series(1, 60)",
        world.tenant,
    )
    chunk = await rows_of(reader, world, 500_000)
    assert 5 <= len(chunk.rows) <= 10
    assert not chunk.last
    assert len((await rows_of(reader, world, 1)).rows) > 0


async def test_what_it_can_not_read_it_names(admin: asyncpg.Pool, install: Install, reader: ChunkReader) -> None:
    world = await install()
    await admin.execute(f"DROP TABLE {world.table}")
    with pytest.raises(TableUnreadable, match=r"^it is gone$"):
        await rows_of(reader, world)
    with pytest.raises(TableUnreadable, match=r"^the login may not read it$"):
        async with reader.transaction() as cursor:
            await cursor.execute("SELECT * FROM kernel.tenants")
    with pytest.raises(TableUnreadable):
        async with reader.transaction() as cursor:
            await cursor.execute("SELECT nothing FROM kernel.cdc_snapshots")
    async with reader.transaction() as cursor:
        await cursor.execute("SELECT 1")
        assert cursor.pgresult is not None
