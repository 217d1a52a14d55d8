"""Tables read beside the stream: a consumer that does as it is told holds, in the end, what PostgreSQL holds."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from cdc_replica import Replica, held
from cdc_source_world import DATA, Install, Installed, Reader, SourceProcess, reading, source_process, write_events

from kernel_cdc.settings import SourceSettings
from kernel_cdc.source import slot
from kernel_cdc.source.ledger import Ledger
from kernel_cdc.source.request import request
from kernel_cdc.source.source import Source
from kernel_common.events import Envelope
from kernel_local.testing import KafkaServer, PostgresServer

MONEY = "platform.money.events"
PARTITIONS = 12

pytestmark = pytest.mark.usefixtures("topics")


@pytest.fixture(scope="module", autouse=True)
async def _only_ours(admin: asyncpg.Pool) -> None:
    """The large tables of other tests are not captured any more: reading them all would take long."""
    for row in await admin.fetch(
        "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = 'platform_cdc'"
    ):
        await admin.execute(f"ALTER PUBLICATION platform_cdc DROP TABLE {row['schemaname']}.{row['tablename']}")


@pytest.fixture
async def world(install: Install) -> Installed:
    return await install()


async def fill(admin: asyncpg.Pool, world: Installed, count: int) -> None:
    await admin.execute(
        f"INSERT INTO {world.table} (tenant_id, a_integer) SELECT $1, n FROM generate_series(1, $2::int) AS n",
        world.tenant,
        count,
    )


async def finished(admin: asyncpg.Pool, *worlds: Installed, seconds: float = 30) -> None:
    """Waits until the tables have been read."""
    async with asyncio.timeout(seconds):
        while await admin.fetchval(
            "SELECT count(*) FROM kernel.cdc_snapshots WHERE name = ANY ($1) AND finished_at IS NOT NULL",
            [world.table for world in worlds],
        ) < len(worlds):
            await asyncio.sleep(0.05)


async def confirmed(admin: asyncpg.Pool, seconds: float = 30) -> None:
    """Waits until all that is in the log now is in Kafka."""
    reached = await admin.fetchval("SELECT pg_current_wal_insert_lsn()")
    async with asyncio.timeout(seconds):
        while not await admin.fetchval(
            "SELECT coalesce(bool_or(confirmed_flush_lsn >= $2), false) FROM pg_replication_slots WHERE slot_name = $1",
            slot.SLOT,
            reached,
        ):
            await asyncio.sleep(0.05)


def of(reader: Reader, world: Installed, op: str) -> list[str]:
    """Keys, or for sweeps partitions, of what was read from a table."""
    found = [got for got in reader.tables if (got.body["op"], got.body["module"]) == (op, world.module.slug)]
    return [str(got.partition) if op == "w" else got.key for got in found]


@asynccontextmanager
async def changing(admin: asyncpg.Pool, world: Installed) -> AsyncIterator[None]:
    """Meanwhile rows are inserted, updated and deleted."""
    stop = asyncio.Event()

    async def change() -> None:
        number = 1_000_000
        while not stop.is_set():
            number += 1
            await admin.execute(
                f"INSERT INTO {world.table} (tenant_id, a_integer) VALUES ($1, $2)", world.tenant, number
            )
            pick = f"(SELECT id FROM {world.table} WHERE a_integer < 1000000 ORDER BY md5(id::text || $1) LIMIT 2)"
            await admin.execute(f"UPDATE {world.table} SET a_integer = a_integer + 1 WHERE id IN {pick}", f"u{number}")
            await admin.execute(f"DELETE FROM {world.table} WHERE id IN {pick}", f"d{number}")

    task = asyncio.create_task(change())
    try:
        yield
    finally:
        stop.set()
        await task


async def test_tables_are_read_while_they_change(
    environment: dict[str, str],
    settings: SourceSettings,
    admin: asyncpg.Pool,
    kafka: KafkaServer,
    install: Install,
    world: Installed,
) -> None:
    """First since it is new; then because somebody asks, and nothing that was missed in between stays."""
    with reading(kafka.admin_conf, DATA) as reader:
        async with source_process(environment):
            await fill(admin, world, 3000)
            async with changing(admin, world):
                await finished(admin, world)
                assert await request(settings, [f"{world.module.slug}.things"]) == [world.table]
                await finished(admin, world)
            await confirmed(admin)
        await reader.to_the_end()
    assert Replica(world).take(reader.changes).present == await held(admin, world)
    assert sorted(of(reader, world, "w")) == sorted(2 * [str(partition) for partition in range(PARTITIONS)])
    assert len(of(reader, world, "s")) >= 2000
    # Without the log: what was read and swept alone holds all that was there.
    lsns = {got.body["lsn"] for got in reader.tables if got.body["module"] == world.module.slug}
    assert len(lsns) == 2, "each reading has one place in the log"


@pytest.mark.parametrize("how", ["dropped", "lost"])
async def test_without_its_slot_nothing_is_missed(
    environment: dict[str, str], admin: asyncpg.Pool, kafka: KafkaServer, world: Installed, how: str
) -> None:
    """Rows are deleted, updated and inserted and events are emitted while no log is kept for the source."""
    events = [
        Envelope(type="money.wallet.credited", source="tests", tenant_id=world.tenant, data={"walletId": how, "n": n})
        for n in range(30)
    ]

    async def emit_some(some: list[Envelope]) -> None:
        for event in some:
            async with admin.acquire() as connection, connection.transaction():
                await write_events(connection, event)

    with reading(kafka.admin_conf, DATA, MONEY) as reader:
        async with source_process(environment):
            await fill(admin, world, 500)
            await emit_some(events[:10])
            await finished(admin, world)
            await confirmed(admin)
        await reader.to_the_end()
        assert len(Replica(world).take(reader.changes).present) == 500
        before = len(reader.messages)
        if how == "dropped":
            await admin.execute("SELECT pg_drop_replication_slot($1)", slot.SLOT)
            await _detach_today(admin)
        else:
            await _lose(admin)
        await emit_some(events[10:20])
        await admin.execute(f"DELETE FROM {world.table} WHERE a_integer <= 200")
        await admin.execute(f"UPDATE {world.table} SET a_integer = 7 WHERE a_integer <= 300")
        await fill(admin, world, 10)
        async with source_process(environment):
            await emit_some(events[20:])
            await finished(admin, world)
            await confirmed(admin)
        await reader.to_the_end()
    assert Replica(world).take(reader.changes).present == await held(admin, world)
    assert await admin.fetchval("SELECT why FROM kernel.cdc_snapshots WHERE name = $1", world.table) == "slot lost"
    again = [got.body["data"]["n"] for got in reader.messages[before:] if got.topic == MONEY and got.key == how]
    assert again[:20] == list(range(20)), "all that the outbox holds, in its order"
    assert list(dict.fromkeys(again)) == list(range(30))


async def _detach_today(admin: asyncpg.Pool) -> None:
    """As the operator does with an old day: what comes from now on goes to the default partition."""
    day = await admin.fetchval("SELECT 'outbox_' || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD')")
    await admin.execute(f"ALTER TABLE kernel.outbox DETACH PARTITION kernel.{day}")
    await admin.execute(f"GRANT SELECT ON kernel.{day} TO kernel_cdc")


async def _lose(admin: asyncpg.Pool) -> None:
    """PostgreSQL gives the slot up, as it does when the log grows too long for it."""
    await admin.execute("ALTER SYSTEM SET idle_replication_slot_timeout = '1s'")
    try:
        async with asyncio.timeout(30):
            while (
                await admin.fetchval("SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1", slot.SLOT)
                != "lost"
            ):
                await admin.execute("SELECT pg_reload_conf()")
                await asyncio.sleep(0.3)
                await admin.execute("CHECKPOINT")
    finally:
        await admin.execute("ALTER SYSTEM RESET idle_replication_slot_timeout")
        await admin.execute("SELECT pg_reload_conf()")


async def test_killed_in_the_middle_it_goes_on_from_what_kafka_has(
    environment: dict[str, str], settings: SourceSettings, admin: asyncpg.Pool, kafka: KafkaServer, world: Installed
) -> None:
    count = 20_000
    with reading(kafka.admin_conf, DATA) as reader:
        source = SourceProcess({**environment, "CDC_SOURCE_BUFFER_MB": "1"})
        await fill(admin, world, count)
        await source.start()
        async with asyncio.timeout(30):
            while not await admin.fetchval(
                "SELECT done_up_to IS NOT NULL FROM kernel.cdc_snapshots WHERE name = $1", world.table
            ):
                await asyncio.sleep(0.01)
        await source.kill()
        state = (
            "SELECT finished_at IS NULL AS unfinished, done_up_to, sweep_lsn FROM kernel.cdc_snapshots WHERE name = $1"
        )
        left = await admin.fetchrow(state, world.table)
        assert left["unfinished"]
        await reader.to_the_end()
        assert len(of(reader, world, "s")) < count, "it was killed too late to show anything"
        done = len({key for key in of(reader, world, "s") if key <= left["done_up_to"][1]})
        behind = len(reader.tables)
        async with source_process(environment):
            await finished(admin, world)
        await reader.to_the_end()
        # Of the second process: what was done is not read again.
        second = [
            got.key
            for got in reader.tables[behind:]
            if got.body["op"] == "s" and got.body["module"] == world.module.slug
        ]
        assert min(second) > left["done_up_to"][1]
        assert len(set(second)) == count - done
        assert (await admin.fetchrow(state, world.table))["sweep_lsn"] == left["sweep_lsn"]
        assert set(of(reader, world, "s")) == set(await held(admin, world))
        assert sorted(of(reader, world, "w")) == sorted(str(partition) for partition in range(PARTITIONS))
    await admin.execute(f"ALTER PUBLICATION platform_cdc DROP TABLE {world.table}")


async def test_a_snapshot_starts_over_when_the_stream_goes_back_before_it(
    environment: dict[str, str], admin: asyncpg.Pool, kafka: KafkaServer, world: Installed
) -> None:
    """Else a change that comes again would make the row that was read behind it look old."""
    await fill(admin, world, 3)
    with reading(kafka.admin_conf, DATA) as reader:
        async with source_process(environment):
            await finished(admin, world)
        last = await admin.fetchval(
            f"SELECT ARRAY[tenant_id, id]::text[] FROM {world.table} ORDER BY tenant_id, id DESC LIMIT 1"
        )
        await admin.execute(
            "UPDATE kernel.cdc_snapshots SET finished_at = NULL, stream_lsn = stream_lsn + 10000000000, "
            "done_up_to = $2 WHERE name = $1",
            world.table,
            last,
        )
        await reader.to_the_end()
        before = len(of(reader, world, "s"))
        async with source_process(environment):
            await finished(admin, world)
        await reader.to_the_end()
    assert len(of(reader, world, "s")) == before + 3


async def test_it_waits_for_transactions_that_may_have_written_before(
    environment: dict[str, str], admin: asyncpg.Pool, kafka: KafkaServer, world: Installed
) -> None:
    with reading(kafka.admin_conf, DATA) as reader:
        async with admin.acquire() as writer, source_process(environment):
            await finished(admin, world)
            transaction = writer.transaction()
            await transaction.start()
            await writer.execute(f"INSERT INTO {world.table} (tenant_id, a_integer) VALUES ($1, 5)", world.tenant)
            await make_due(admin, "requested", world)
            beats = len(reader.beats)
            await reader.until(lambda: len(reader.beats) >= beats + 4 * PARTITIONS)
            started = "SELECT started_at FROM kernel.cdc_snapshots WHERE name = $1"
            assert await admin.fetchval(started, world.table) is None
            await transaction.commit()
            await finished(admin, world)
            await confirmed(admin)
        await reader.to_the_end()
    assert Replica(world).take(reader.changes).present == await held(admin, world)
    assert len(of(reader, world, "s")) == 1


async def test_a_table_that_is_locked_or_goes_stops_no_other(
    environment: dict[str, str], admin: asyncpg.Pool, install: Install
) -> None:
    locked, dropped, free = await install(), await install(), await install()
    async with source_process(environment):
        await finished(admin, locked, dropped, free)
        async with admin.acquire() as holder:
            lock = holder.transaction()
            await lock.start()
            await holder.execute(f"LOCK TABLE {locked.table}, {dropped.table} IN ACCESS EXCLUSIVE MODE")
            await make_due(admin, "lag spike", locked, dropped, free)
            await finished(admin, free)
            assert await admin.fetchval(
                "SELECT bool_and(finished_at IS NULL) FROM kernel.cdc_snapshots WHERE name = ANY ($1)",
                [locked.table, dropped.table],
            )
            await holder.execute(f"DROP TABLE {dropped.table}")
            await lock.commit()
        await finished(admin, locked)
        async with asyncio.timeout(10):
            while await admin.fetchval("SELECT true FROM kernel.cdc_snapshots WHERE name = $1", dropped.table):
                await asyncio.sleep(0.05)


async def make_due(admin: asyncpg.Pool, why: str, *worlds: Installed) -> None:
    await admin.execute(
        "UPDATE kernel.cdc_snapshots SET started_at = NULL, finished_at = NULL, sweep_lsn = NULL, stream_lsn = NULL, "
        "done_up_to = NULL, why = $2, requested_at = clock_timestamp() WHERE name = ANY ($1)",
        [world.table for world in worlds],
        why,
    )


async def test_a_table_that_leaves_and_comes_back_is_read_again(
    environment: dict[str, str], admin: asyncpg.Pool, kafka: KafkaServer, world: Installed
) -> None:
    """Within one look of the source, even: what changed meanwhile is not in the stream."""
    await fill(admin, world, 3)
    with reading(kafka.admin_conf, DATA) as reader:
        async with source_process(environment):
            await finished(admin, world)
            async with admin.acquire() as connection, connection.transaction():
                await connection.execute(f"ALTER PUBLICATION platform_cdc DROP TABLE {world.table}")
                await connection.execute(f"DELETE FROM {world.table} WHERE a_integer = 1")
                await connection.execute(f"ALTER PUBLICATION platform_cdc ADD TABLE {world.table}")
            await reader.until(lambda: len(of(reader, world, "w")) == 2 * PARTITIONS)
        await reader.to_the_end()
    replica = Replica(world).take(reader.changes)
    assert sorted(replica.present.values(), key=str) == [2, 3]
    assert replica.present == await held(admin, world)


async def test_far_behind_the_tables_are_read_ahead_once_and_nothing_is_swept(
    environment: dict[str, str],
    settings: SourceSettings,
    admin: asyncpg.Pool,
    kafka: KafkaServer,
    postgres: PostgresServer,
    world: Installed,
) -> None:
    await fill(admin, world, 3)
    async with source_process(environment):
        await finished(admin, world)
    await admin.execute("UPDATE kernel.cdc_snapshots SET why = 'requested' WHERE why = 'lag spike'")
    pool = await asyncpg.create_pool(postgres.cdc_url, min_size=0, max_size=1)
    ledger, source = Ledger(pool), Source(settings.model_copy(update={"cdc_lag_snapshot_sec": 60.0}))
    lagging = "SELECT count(*) FROM kernel.cdc_snapshots WHERE why = 'lag spike'"

    async def look(lag: float, *, unreserved: bool = False) -> int:
        source._position.lag = lag
        await source._look_behind(ledger, unreserved)
        return int(await admin.fetchval(lagging))

    try:
        assert await look(61) == 0, "while nothing is streamed, nothing can be ahead of it"
        source._reason = None
        assert await look(59) == 0
        assert (due := await look(61)) > 0
        asked = await admin.fetchval("SELECT max(requested_at) FROM kernel.cdc_snapshots WHERE why = 'lag spike'")
        with reading(kafka.admin_conf, DATA) as reader:
            async with source_process(environment) as process, asyncio.timeout(30):
                while await process.metric("kernel_cdc_source_snapshot_due") or not await process.metric(
                    'kernel_cdc_source_snapshots_total{why="lag spike"}'
                ):
                    await asyncio.sleep(0.05)
            await reader.to_the_end()
        assert {got.body["op"] for got in reader.tables} == {"s"}
        # Neither again while it stays behind, nor by a process that was started again meanwhile, ...
        await look(62)
        source._calm = True
        await look(3600)
        assert (
            await admin.fetchval("SELECT max(requested_at) FROM kernel.cdc_snapshots WHERE why = 'lag spike'") == asked
        )
        # ... but when it had caught up, and is about to lose the log.
        await look(1)
        await asyncio.sleep(0.02)
        assert await look(0.01, unreserved=True) == due
        assert (
            await admin.fetchval("SELECT max(requested_at) FROM kernel.cdc_snapshots WHERE why = 'lag spike'") > asked
        )
    finally:
        pool.terminate()


async def test_heartbeats_come_behind_all_that_was_committed_before_them(
    environment: dict[str, str], admin: asyncpg.Pool, kafka: KafkaServer, world: Installed
) -> None:
    with reading(kafka.admin_conf, DATA) as reader:
        async with source_process(environment):
            began = time.time()
            await fill(admin, world, 100)
            reached = await admin.fetchval("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint")
            # Every login may write such messages; only the source's own count.
            await admin.execute(
                "SELECT pg_logical_emit_message(false, 'platform_cdc', 'x 2100-01-01T00:00:00.000000Z')"
            )
            await admin.execute("SELECT pg_logical_emit_message(true, 'platform_cdc', 'x 2100-01-01T00:00:00.000000Z')")

            def later() -> set[int]:
                return {got.partition for got in reader.beats if got.body["lsn"] >= reached}

            await reader.until(lambda: len(later()) == PARTITIONS)
        assert len([got for got in reader.messages if got.headers["module"] == world.module.slug]) == 100
    for got in reader.beats:
        assert (got.body["op"], got.body["partition"], got.body["partitions"]) == ("h", got.partition, PARTITIONS)
        assert got.headers == {"type": "data.heartbeat"}
        assert got.body["committedAt"] < "2100"
    assert began - 60 < time.time()


async def test_the_source_writes_its_own_table_and_nobody_else_reads_it(
    admin: asyncpg.Pool, postgres: PostgresServer, environment: dict[str, str]
) -> None:
    capture = await asyncpg.connect(postgres.cdc_url)
    try:
        await capture.execute("DELETE FROM kernel.cdc_snapshots WHERE name = 'nothing'")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await capture.execute("TRUNCATE kernel.cdc_snapshots")
    finally:
        await capture.close()
    grantees = await admin.fetch(
        "SELECT DISTINCT grantee::regrole::text AS name FROM pg_class, aclexplode(relacl) "
        "WHERE oid = 'kernel.cdc_snapshots'::regclass"
    )
    assert {row["name"] for row in grantees} == {"kernel_operator", "kernel_cdc"}


async def test_the_command_asks_and_names_what_is_not_captured(
    environment: dict[str, str], admin: asyncpg.Pool, world: Installed
) -> None:
    async def say(model: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kernel_cdc", "snapshot", "--table", model),
            env={"PATH": os.environ["PATH"], **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    assert await say(f"{world.module.slug}.things") == (0, f"{world.table}\n", "")
    asked = "SELECT why FROM kernel.cdc_snapshots WHERE name = $1"
    assert await admin.fetchval(asked, world.table) == "requested"
    refusal = "kernel-cdc: --table: crm.nothing is not a model that is captured\n"
    assert await say("crm.nothing") == (2, "", refusal)
