"""Days of the outbox that are over: detached beside writers, dropped when the slot is past them and not before."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kernel_common.ids import uuid7
from kernel_operator import metrics
from kernel_operator.desired import Unavailable
from kernel_operator.targets.postgres import PostgresTarget, outbox
from kernel_operator.targets.postgres.outbox import SLOT, Held, days_over, make_partitions, retire_days

KEEP = timedelta(hours=48)
DAY = "outbox_20200102"
_INSERT = (
    "INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope, created_at) "
    "VALUES ($1, 'platform.auth.events', 'k', 'auth.b.c', $1, "
    "jsonb_build_object('id', $1::uuid, 'type', 'auth.b.c', 'tenantId', $1::uuid), $2)"
)


@pytest.fixture
async def old_day(pool: asyncpg.Pool, admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A day of long ago with one event, attached. Whatever is left of it goes."""
    await admin.execute(_INSERT, uuid7(), datetime(2020, 1, 2, 23, 59, 59, 999999, tzinfo=UTC))
    await make_partitions(pool)
    yield DAY
    await admin.execute(f"DROP TABLE IF EXISTS kernel.{DAY}")
    await admin.execute("DELETE FROM kernel.outbox_days")


@pytest.fixture
async def slot(admin: asyncpg.Connection) -> AsyncIterator[str]:
    await admin.execute(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
    yield SLOT
    await admin.execute(f"SELECT pg_drop_replication_slot('{SLOT}')")


async def confirm(admin: asyncpg.Connection) -> None:
    """The slot is past everything that was committed until now."""
    await admin.execute("SELECT pg_logical_emit_message(false, 'test', '', true)")
    await admin.execute(f"SELECT pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())")


async def is_attached(admin: asyncpg.Connection, name: str = DAY) -> bool | None:
    """None: there is no such table."""
    return await admin.fetchval(
        "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid) FROM pg_class AS c WHERE relname = $1", name
    )


def test_a_day_is_over_when_its_last_moment_is_old_enough() -> None:
    names = ["outbox_20261122", "outbox_20261123", "outbox_20261124"]
    midnight = datetime(2026, 11, 25, tzinfo=UTC)
    assert days_over(names, KEEP, midnight) == ["outbox_20261122"]
    assert days_over(names, KEEP, midnight - timedelta(microseconds=1)) == []
    elsewhere = midnight.astimezone(datetime.strptime("+0930", "%z").tzinfo)
    assert days_over(names, KEEP, elsewhere) == ["outbox_20261122"]
    assert days_over(names, timedelta(hours=1), midnight) == ["outbox_20261122", "outbox_20261123"]


async def test_a_day_goes_when_the_slot_is_past_it(
    pool: asyncpg.Pool, admin: asyncpg.Connection, old_day: str, slot: str
) -> None:
    await confirm(admin)
    outcome, held = await retire_days(pool, KEEP)
    assert outcome.changes == (f"detached kernel.{old_day}",)
    assert held == [Held(old_day, f"the slot {SLOT} has not passed it")]
    assert metrics.REGISTRY.get_sample_value("platform_kernel_outbox_days_held") == 1
    assert await admin.fetchval(f"SELECT count(*) FROM kernel.{old_day}") == 1, "the event is still there to be read"
    assert await admin.fetchval("SELECT has_table_privilege('kernel_cdc', $1, 'SELECT')", f"kernel.{old_day}")
    assert await pool.fetchval(f"SELECT count(*) FROM kernel.{old_day}") == 0, "not by the operator"
    await confirm(admin)
    outcome, held = await retire_days(pool, KEEP)
    assert (outcome.changes, held) == ((f"dropped kernel.{old_day}",), [])
    assert metrics.REGISTRY.get_sample_value("platform_kernel_outbox_days_held") == 0
    assert await admin.fetchval("SELECT count(*) FROM kernel.outbox_days") == 0
    assert (await retire_days(pool, KEEP))[0].changes == ()


async def test_no_day_goes_while_the_slot_is_missing_and_it_is_said_once(
    target: PostgresTarget, admin: asyncpg.Connection, old_day: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "kernel_operator.targets.postgres.target"):
        for _ in range(2):
            await target.upkeep()
    assert await is_attached(admin) is False
    assert [record.getMessage() for record in caplog.records] == [
        f"PostgreSQL: 1 old days of the outbox are kept, oldest {old_day}: the slot {SLOT} is missing"
    ]


async def test_no_day_goes_while_the_outbox_is_to_be_published_again(
    pool: asyncpg.Pool, admin: asyncpg.Connection, old_day: str, slot: str
) -> None:
    """A slot that was made anew is past every day at once; what is due was written down before."""
    await retire_days(pool, KEEP)
    await confirm(admin)
    await admin.execute(
        "INSERT INTO kernel.cdc_snapshots (name, why) VALUES ('kernel.outbox', 'slot lost') "
        "ON CONFLICT (name) DO UPDATE SET started_at = NULL, finished_at = NULL"
    )
    _, held = await retire_days(pool, KEEP)
    assert held == [Held(old_day, "the outbox is to be published again")]
    await admin.execute("UPDATE kernel.cdc_snapshots SET started_at = now(), finished_at = now()")
    outcome, held = await retire_days(pool, KEEP)
    assert (outcome.changes, held) == ((f"dropped kernel.{old_day}",), [])
    await admin.execute("DELETE FROM kernel.cdc_snapshots")


async def test_what_becomes_due_at_that_moment_is_waited_for(
    pool: asyncpg.Pool, admin: asyncpg.Connection, old_day: str, slot: str
) -> None:
    await retire_days(pool, KEEP)
    await confirm(admin)
    async with admin.transaction():
        await admin.execute("INSERT INTO kernel.cdc_snapshots (name, why) VALUES ('kernel.outbox', 'slot lost')")
        _, held = await retire_days(pool, KEEP)
        assert held == [Held(old_day, "somebody reads it")]
    _, held = await retire_days(pool, KEEP)
    assert held == [Held(old_day, "the outbox is to be published again")]
    await admin.execute("DELETE FROM kernel.cdc_snapshots")


async def test_writers_don_t_wait_for_a_day_to_go(pool: asyncpg.Pool, admin: asyncpg.Connection, old_day: str) -> None:
    """One transaction stays open in the outbox, so the lock can't be had; others go on beside the attempts."""
    slowest, stop = 0.0, asyncio.Event()

    async def write() -> int:
        nonlocal slowest
        count = 0
        async with pool.acquire() as connection:
            while not stop.is_set():
                started = time.monotonic()
                event = uuid7()
                await connection.execute(
                    "INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope) "
                    "VALUES ($1, 'platform.auth.events', 'k', 'auth.tenant.x', $1, jsonb_build_object('id', $1::uuid, "
                    "'type', 'auth.tenant.x', 'tenantId', $1::uuid, 'source', 'kernel-operator'))",
                    event,
                )
                slowest = max(slowest, time.monotonic() - started)
                count += 1
                await asyncio.sleep(0.001)
        return count

    writer = asyncio.create_task(write())
    async with admin.transaction():
        await admin.execute(_INSERT, uuid7(), datetime.now(UTC))
        outcome, held = await retire_days(pool, KEEP)
    assert (outcome.changes, held) == ((), []), "it is tried again at the next turn"
    assert await is_attached(admin) is True
    outcome, held = await retire_days(pool, KEEP)
    stop.set()
    assert await writer > 20
    assert slowest < 1, "far below the lock timeout of a login, 5 s"
    assert outcome.changes == (f"detached kernel.{old_day}",)
    assert [day.name for day in held] == [old_day]


async def test_a_day_that_was_detached_by_hand_is_noted_and_goes_like_the_others(
    pool: asyncpg.Pool, admin: asyncpg.Connection, old_day: str, slot: str
) -> None:
    await admin.execute(f"ALTER TABLE kernel.outbox DETACH PARTITION kernel.{old_day}")
    await confirm(admin)
    _, held = await retire_days(pool, KEEP)
    assert held == [Held(old_day, f"the slot {SLOT} has not passed it")]
    assert await admin.fetchval("SELECT has_table_privilege('kernel_cdc', $1, 'SELECT')", f"kernel.{old_day}")
    await confirm(admin)
    assert (await retire_days(pool, KEEP))[0].changes == (f"dropped kernel.{old_day}",)


async def test_an_operator_that_dies_while_detaching_leaves_the_day_attached(
    pool: asyncpg.Pool, admin: asyncpg.Connection, old_day: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is killed when the day is detached and its place in the log is not noted: both or neither."""

    async def killed(connection: asyncpg.Connection, name: str) -> None:
        assert not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = $1::regclass)", f"kernel.{name}"
        )
        await admin.execute("SELECT pg_terminate_backend($1, 5000)", connection.get_server_pid())
        await connection.execute("SELECT")

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "_note", killed)
        with pytest.raises(Unavailable):
            await retire_days(pool, KEEP)
    assert await is_attached(admin) is True
    assert (await retire_days(pool, KEEP))[0].changes == (f"detached kernel.{old_day}",)


async def test_a_note_of_a_day_that_is_no_more_is_forgotten(pool: asyncpg.Pool, admin: asyncpg.Connection) -> None:
    await admin.execute("INSERT INTO kernel.outbox_days (name, lsn) VALUES ('outbox_19990101', '0/1')")
    await retire_days(pool, KEEP)
    assert await admin.fetchval("SELECT count(*) FROM kernel.outbox_days") == 0
