"""The outbox: in the change's transaction, ahead of the days, published once."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kernel_common.events import Envelope, NotInTransaction, emit
from kernel_common.ids import uuid7
from kernel_operator.targets.postgres import PostgresTarget
from kernel_operator.targets.postgres.outbox import make_partitions

SLOT = "test_outbox"


@pytest.fixture
async def stream(admin: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """The superuser, with a replication slot from here on."""
    await admin.execute(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
    yield admin
    await admin.execute(f"SELECT pg_drop_replication_slot('{SLOT}')")


async def published(admin: asyncpg.Connection) -> list[bytes]:
    """Row messages of the outbox's publication since the last call: pgoutput's I, U and D."""
    rows = await admin.fetch(
        f"SELECT data FROM pg_logical_slot_get_binary_changes('{SLOT}', NULL, NULL, "
        "'proto_version', '1', 'publication_names', 'platform_outbox')"
    )
    return [row["data"] for row in rows if row["data"][:1] in (b"I", b"U", b"D")]


def an_event() -> Envelope:
    tenant = uuid7()
    data = {"tenantId": str(tenant), "name": "ada", "tier": "client"}
    return Envelope(type="auth.tenant.deleted", source="kernel-operator", tenant_id=tenant, data=data)


async def test_an_event_lives_and_dies_with_its_transaction(pool: asyncpg.Pool, stream: asyncpg.Connection) -> None:
    kept, undone = an_event(), an_event()
    async with pool.acquire() as connection:
        async with connection.transaction():
            await emit(connection, kept)
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await emit(connection, undone)
                raise ZeroDivisionError
        with pytest.raises(NotInTransaction):
            await emit(connection, undone)
    [message] = await published(stream)
    assert str(kept.id).encode() in message
    assert await stream.fetchval("SELECT count(*) FROM kernel.outbox WHERE id = $1", undone.id) == 0
    stored = await stream.fetchrow("SELECT * FROM kernel.outbox WHERE id = $1", kept.id)
    assert Envelope.model_validate_json(stored["envelope"]) == kept
    assert (stored["topic"], stored["key"], stored["tenant_id"]) == (kept.topic, kept.key, kept.tenant_id)
    assert stored["created_at"] - datetime.now(UTC) < timedelta(minutes=1)


async def test_partitions_are_there_ahead_of_the_days(target: PostgresTarget, admin: asyncpg.Connection) -> None:
    today = await admin.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    names = {f"outbox_{today + timedelta(days=n):%Y%m%d}" for n in range(15)} | {"outbox_default"}
    attached = await admin.fetch(
        "SELECT relname, relrowsecurity FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid "
        "WHERE inhparent = 'kernel.outbox'::regclass"
    )
    assert names <= {row["relname"] for row in attached}
    assert all(row["relrowsecurity"] for row in attached)
    assert (await target.upkeep()).changes == ()


async def test_rows_of_the_default_partition_move_and_are_not_published_again(
    pool: asyncpg.Pool, stream: asyncpg.Connection
) -> None:
    await stream.execute(
        "INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope, created_at) "
        "SELECT id, 'platform.a.events', 'k', 'a.b.c', t, "
        "jsonb_build_object('id', id, 'type', 'a.b.c', 'tenantId', t), at "
        "FROM (SELECT uuidv7() AS id, uuidv7() AS t, at FROM unnest(ARRAY['2021-03-04 23:59:59.999999Z', "
        "'2021-03-05 00:00:00Z', '2021-03-05 12:00:00Z']::timestamptz[]) AS at)"
    )
    assert await stream.fetchval("SELECT count(*) FROM ONLY kernel.outbox_default") == 3
    assert len(await published(stream)) == 3
    made = await make_partitions(pool)
    assert made.changes == ("made partition kernel.outbox_20210304", "made partition kernel.outbox_20210305")
    assert await stream.fetchval("SELECT count(*) FROM kernel.outbox_default") == 0
    assert await stream.fetchval("SELECT count(*) FROM kernel.outbox_20210305") == 2
    assert await stream.fetchval("SELECT count(*) FROM kernel.outbox WHERE created_at < '2022-01-01'") == 3
    assert await published(stream) == []
    assert (await make_partitions(pool)).changes == ()
    await stream.execute("DROP TABLE kernel.outbox_20210304, kernel.outbox_20210305")


async def test_making_partitions_locks_no_writer_out(
    target: PostgresTarget, pool: asyncpg.Pool, admin: asyncpg.Connection
) -> None:
    """A writer with an open transaction is in today's partition while tomorrow's is made."""
    day = await admin.fetchval("SELECT to_char((now() AT TIME ZONE 'UTC')::date + 14, 'YYYYMMDD')")
    await admin.execute(f"DROP TABLE kernel.outbox_{day}")
    async with pool.acquire() as writer, writer.transaction():
        await emit(writer, an_event())
        assert (await target.upkeep()).changes == (f"made partition kernel.outbox_{day}",)
        await emit(writer, an_event())


async def test_an_envelope_that_disagrees_with_its_row_is_refused(pool: asyncpg.Pool) -> None:
    event = an_event()
    wrong = [
        (uuid7(), event.type, event.tenant_id),
        (event.id, "auth.tenant.created", event.tenant_id),
        (event.id, event.type, uuid7()),
    ]
    for identity, kind, tenant in wrong:
        with pytest.raises(asyncpg.CheckViolationError, match="outbox_envelope_agrees"):
            await pool.execute(
                "INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope) "
                "VALUES ($1, $2, 'k', $3, $4, $5)",
                identity,
                event.topic,
                kind,
                tenant,
                event.to_json(),
            )
