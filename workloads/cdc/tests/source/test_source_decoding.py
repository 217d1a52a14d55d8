"""From the log to messages, without Kafka: every type, and what becomes of each kind of change."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from cdc_source_world import DATA, EVERY_TYPE, Install, Installed, write_events
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_cdc.source import slot
from kernel_cdc.source.decoder import Decoder
from kernel_cdc.source.replication import WAL, ReplicationStream
from kernel_common.events import Envelope
from kernel_common.ids import uuid7
from kernel_local.testing import PostgresServer
from kernel_operator.desired import Column, ColumnType, Model

Message = tuple[str, bytes, dict[str, Any], dict[str, Any]]

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)
INSTANT = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
VALUES: dict[ColumnType, st.SearchStrategy[Any]] = {
    ColumnType.TEXT: TEXT,
    ColumnType.INTEGER: st.integers(-(2**31), 2**31 - 1),
    ColumnType.BIGINT: st.integers(-(2**63), 2**63 - 1),
    ColumnType.DECIMAL: st.decimals("-99999999999999", "99999999999999", places=6) | st.just(Decimal("NaN")),
    ColumnType.FLOAT: st.floats(allow_nan=True, allow_infinity=True),
    ColumnType.BOOLEAN: st.booleans(),
    ColumnType.DATE: st.dates(),
    ColumnType.TIMESTAMP: INSTANT,
    ColumnType.UUID: st.uuids(),
    ColumnType.JSON: JSON,
}
ROW = st.fixed_dictionaries({kind: st.none() | values for kind, values in VALUES.items()})


class Log:
    """A slot of the tests' own, read by the product's stream and decoder."""

    def __init__(self, stream: ReplicationStream) -> None:
        self._stream, self.messages = stream, list[Message]()
        self.decoder = Decoder(self._send)

    def _send(self, topic: str, key: bytes, value: bytes, headers: Any) -> None:
        self.messages.append((topic, key, json.loads(value), dict(headers)))

    async def next(self, count: int, seconds: float = 10) -> list[Message]:
        """The next ``count`` messages, when their transaction has ended."""
        async with asyncio.timeout(seconds):
            while len(self.messages) < count or self.decoder.in_transaction:
                if (message := self._stream.take()) is None:
                    await self._stream.readable(1)
                elif message[0] == WAL and (end := self.decoder.feed(message)) is not None:
                    self._stream.report(end)
        found, self.messages = self.messages[:count], self.messages[count:]
        return found

    async def next_rows(self, count: int = 1) -> list[dict[str, Any]]:
        """The bodies of the next ``count`` rows; events, which the operator emits too, are passed over."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            found += [body for topic, _, body, _ in await self.next(1) if topic == DATA]
        return found


@pytest.fixture(scope="session")
async def world(install: Install) -> Installed:
    return await install()


@pytest.fixture(scope="module")
async def log(postgres: PostgresServer, admin: asyncpg.Pool, world: Installed) -> AsyncIterator[Log]:
    await admin.fetchval("SELECT pg_create_logical_replication_slot('tests_decoding', 'pgoutput')")
    stream = await ReplicationStream.open(postgres.cdc_url, "tests_decoding", slot.PUBLICATIONS)
    yield Log(stream)
    await stream.close()
    async with asyncio.timeout(10):
        while await admin.fetchval("SELECT active FROM pg_replication_slots WHERE slot_name = 'tests_decoding'"):
            await asyncio.sleep(0.02)
    await admin.execute("SELECT pg_drop_replication_slot('tests_decoding')")


def expected(kind: ColumnType, value: Any) -> Any:
    """The JSON form of a value, worked out without the product."""
    if value is None:
        return None
    match kind:
        case ColumnType.DECIMAL:
            return "NaN" if value.is_nan() else f"{value:.6f}"
        case ColumnType.FLOAT:
            return value if value - value == 0 else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
        case ColumnType.DATE:
            return value.isoformat()
        case ColumnType.TIMESTAMP:
            return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
        case ColumnType.UUID:
            return str(value)
    return value


async def insert(admin: asyncpg.Pool, world: Installed, rows: list[dict[ColumnType, Any]]) -> list[UUID]:
    ids = [uuid7() for _ in rows]
    columns = ", ".join(f"a_{kind}" for kind in ColumnType)
    places = ", ".join(f"${at + 3}" for at in range(len(ColumnType)))
    await admin.executemany(
        f"INSERT INTO {world.table} (id, tenant_id, {columns}) VALUES ($1, $2, {places})",
        [
            (
                row_id,
                world.tenant,
                *(json.dumps(row[k]) if k is ColumnType.JSON and row[k] is not None else row[k] for k in ColumnType),
            )
            for row_id, row in zip(ids, rows, strict=True)
        ],
    )
    return ids


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=20))
async def test_every_value_arrives_as_it_was(
    log: Log, admin: asyncpg.Pool, world: Installed, rows: list[dict[ColumnType, Any]]
) -> None:
    ids = await insert(admin, world, rows)
    for row_id, row, (topic, key, body, headers) in zip(ids, rows, await log.next(len(rows)), strict=True):
        assert (topic, key.decode(), body["recordId"]) == ("platform.data.events", str(row_id), str(row_id))
        assert (body["op"], body["module"], body["model"]) == ("c", world.module.slug, "things")
        assert body["tenantId"] == str(world.tenant)
        assert {k: v.decode() for k, v in headers.items()} == {
            "type": "data.record.changed",
            "module": world.module.slug,
            "model": "things",
            "tenantId": str(world.tenant),
        }
        assert {kind: body["row"][f"a_{kind}"] for kind in ColumnType} == {k: expected(k, v) for k, v in row.items()}


async def test_what_no_calendar_holds_keeps_its_text(log: Log, admin: asyncpg.Pool, world: Installed) -> None:
    await admin.execute(
        f"INSERT INTO {world.table} (tenant_id, a_timestamp, a_date) VALUES ($1, 'infinity', '0044-03-15 BC')",
        world.tenant,
    )
    [body] = await log.next_rows()
    assert (body["row"]["a_timestamp"], body["row"]["a_date"]) == ("infinity", "0044-03-15 BC")


async def test_an_update_carries_large_values_that_it_did_not_touch(
    log: Log, admin: asyncpg.Pool, world: Installed
) -> None:
    await admin.execute(f"ALTER TABLE {world.table} ALTER COLUMN a_text SET STORAGE EXTERNAL")
    row_id, large = uuid7(), "ä" * 100_000
    await admin.execute(
        f"INSERT INTO {world.table} (id, tenant_id, a_text) VALUES ($1, $2, $3)", row_id, world.tenant, large
    )
    await admin.execute(f"UPDATE {world.table} SET a_integer = 7 WHERE id = $1", row_id)
    created, updated = await log.next_rows(2)
    assert (created["op"], updated["op"]) == ("c", "u")
    assert updated["row"]["a_text"] == created["row"]["a_text"] == large
    assert updated["row"]["a_integer"] == 7
    assert updated["row"]["updated_at"] > created["row"]["updated_at"]
    assert updated["lsn"] > created["lsn"]


async def test_a_value_that_the_log_does_not_hold_is_left_out_not_null(
    log: Log, admin: asyncpg.Pool, world: Installed
) -> None:
    row_id = uuid7()
    await admin.execute(
        f"INSERT INTO {world.table} (id, tenant_id, a_text) VALUES ($1, $2, $3)", row_id, world.tenant, "x" * 100_000
    )
    await admin.execute(f"ALTER TABLE {world.table} REPLICA IDENTITY DEFAULT")
    try:
        await admin.execute(f"UPDATE {world.table} SET a_integer = 1 WHERE id = $1", row_id)
        _, updated = await log.next_rows(2)
        assert "a_text" not in updated["row"]
        assert updated["row"]["a_integer"] == 1
        assert updated["row"]["a_bigint"] is None
    finally:
        await admin.execute(f"ALTER TABLE {world.table} REPLICA IDENTITY FULL")


async def test_a_deleted_row_ends_later_than_all_its_versions(log: Log, admin: asyncpg.Pool, world: Installed) -> None:
    row_id, later = uuid7(), datetime.now(UTC) + timedelta(days=1)
    await admin.execute(
        f"INSERT INTO {world.table} (id, tenant_id, a_text) VALUES ($1, $2, 'last words')", row_id, world.tenant
    )
    await admin.execute(f"DELETE FROM {world.table} WHERE id = $1", row_id)
    _, gone = await log.next_rows(2)
    assert gone["op"] == "d"
    assert gone["deletedAt"] == gone["committedAt"] == gone["row"]["updated_at"] == gone["row"]["deleted_at"]
    assert gone["row"]["a_text"] == "last words"

    # The row's stamp is ahead of the clock: the tombstone must be ahead of the row.
    async with admin.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            f"INSERT INTO {world.table} (id, tenant_id, updated_at) VALUES ($1, $2, $3)", row_id, world.tenant, later
        )
    await admin.execute(f"DELETE FROM {world.table} WHERE id = $1", row_id)
    _, gone = await log.next_rows(2)
    stamp = (later + timedelta(microseconds=1)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert gone["deletedAt"] == gone["row"]["updated_at"] == stamp > gone["committedAt"]


async def test_a_row_that_changes_its_key_leaves_under_the_old_one(
    log: Log, admin: asyncpg.Pool, world: Installed
) -> None:
    before, after = uuid7(), uuid7()
    await admin.execute(f"INSERT INTO {world.table} (id, tenant_id) VALUES ($1, $2)", before, world.tenant)
    await admin.execute(f"UPDATE {world.table} SET id = $2 WHERE id = $1", before, after)
    changes = [(body["op"], key.decode()) for _, key, body, _ in await log.next(3)]
    assert changes == [("c", str(before)), ("d", str(before)), ("c", str(after))]


async def test_events_and_rows_of_a_transaction_come_in_its_order_and_not_when_it_is_rolled_back(
    log: Log, admin: asyncpg.Pool, world: Installed
) -> None:
    ids = [uuid7(), uuid7()]
    event = Envelope(
        type="money.wallet.credited",
        source="tests",
        tenant_id=world.tenant,
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        data={"walletId": "w-1", "traceId": "not this one", "amount": 5},
    )
    quiet = Envelope(type="money.wallet.credited", source="tests", tenant_id=world.tenant, data={"walletId": "w-2"})
    async with admin.acquire() as connection:
        rolled_back = connection.transaction()
        await rolled_back.start()
        await write_events(connection, event)
        await rolled_back.rollback()
        async with connection.transaction():
            await connection.execute(f"INSERT INTO {world.table} (id, tenant_id) VALUES ($1, $2)", ids[0], world.tenant)
            await write_events(connection, event, quiet)
            await connection.execute(f"INSERT INTO {world.table} (id, tenant_id) VALUES ($1, $2)", ids[1], world.tenant)
    first, published, second_event, last = await log.next(4)
    assert (first[2]["recordId"], last[2]["recordId"]) == (str(ids[0]), str(ids[1]))
    assert first[2]["committedAt"] == last[2]["committedAt"]
    topic, key, body, headers = published
    assert (topic, key) == ("platform.money.events", b"w-1")
    assert Envelope.model_validate(body) == event
    assert headers == {
        "id": str(event.id).encode(),
        "type": b"money.wallet.credited",
        "tenantId": str(world.tenant).encode(),
        "traceId": b"4bf92f3577b34da6a3ce929d0e0e4736",
    }
    assert set(second_event[3]) == {"id", "type", "tenantId"}


async def test_the_moves_of_the_outbox_are_no_events(log: Log, admin: asyncpg.Pool, world: Installed) -> None:
    """A row ahead of all partitions moves when its day's is made; later it goes with it."""
    event = Envelope(type="auth.user.created", source="tests", tenant_id=world.tenant, data={"userId": "u"})
    await admin.execute(
        "INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope, created_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, now() + interval '20 days')",
        event.id,
        event.topic,
        event.key,
        event.type,
        event.tenant_id,
        event.to_json(),
    )
    assert await admin.fetch("SELECT kernel.outbox_make_partitions(14)")
    assert await admin.fetchval("SELECT tableoid::regclass::text FROM kernel.outbox WHERE id = $1", event.id) not in (
        None,
        "kernel.outbox_default",
    )
    await admin.execute("DELETE FROM kernel.outbox WHERE id = $1", event.id)
    row_id = uuid7()
    await admin.execute(f"INSERT INTO {world.table} (id, tenant_id) VALUES ($1, $2)", row_id, world.tenant)
    published, row = await log.next(2)
    assert (published[2]["id"], row[2]["recordId"]) == (str(event.id), str(row_id))


async def test_columns_and_tables_that_come_while_the_log_is_read(
    log: Log, admin: asyncpg.Pool, install: Install, world: Installed
) -> None:
    """A column is there from the first row written after it; a table from the first after it was published."""
    odd = Model("odd_names", (Column("ratio_pct", ColumnType.FLOAT),), analytics=True)
    new = await install(models=(odd,))
    await admin.execute(f"INSERT INTO {new.table} (tenant_id, ratio_pct) VALUES ($1, 0.5)", new.tenant)
    wider = Model(odd.name, (*odd.columns, Column("note", ColumnType.TEXT)), analytics=True)
    await install(new, models=(wider,), version="1.1.0")
    await admin.execute(f"INSERT INTO {new.table} (tenant_id, note) VALUES ($1, 'hello')", new.tenant)
    before, after = await log.next_rows(2)
    assert (before["module"], before["model"], before["row"]["ratio_pct"]) == (new.module.slug, "odd_names", 0.5)
    assert "note" not in before["row"]
    assert after["row"]["note"] == "hello"
    assert set(after["row"]) == {"created_at", "updated_at", "deleted_at", "idempotency_key", "ratio_pct", "note"}


async def test_a_published_table_that_is_no_models_is_left_out(
    log: Log, admin: asyncpg.Pool, world: Installed, caplog: pytest.LogCaptureFixture
) -> None:
    await admin.execute("CREATE TABLE kernel.stranger (n integer)")
    try:
        await admin.execute("ALTER PUBLICATION platform_cdc ADD TABLE kernel.stranger")
        await admin.execute("INSERT INTO kernel.stranger VALUES (1)")
        row_id = uuid7()
        await admin.execute(f"INSERT INTO {world.table} (id, tenant_id) VALUES ($1, $2)", row_id, world.tenant)
        [body] = await log.next_rows()
    finally:
        await admin.execute("DROP TABLE kernel.stranger")
    assert body["recordId"] == str(row_id)
    assert "kernel.stranger is published, but has no column" in caplog.text


def test_there_is_a_strategy_for_every_type() -> None:
    assert {column.type for column in EVERY_TYPE.columns} == set(VALUES) == set(ColumnType)
