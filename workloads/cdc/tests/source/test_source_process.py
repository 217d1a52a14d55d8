"""The source as a process under its own limited logins, with writers at work, while it and its servers are killed."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from cdc_source_world import DATA, Install, Installed, Reader, SourceProcess, reading, source_process, write_events

from kernel_cdc.source import slot
from kernel_common.events import Envelope
from kernel_common.ids import uuid7
from kernel_local.testing import KafkaServer, PostgresServer

MONEY = "platform.money.events"

pytestmark = pytest.mark.usefixtures("topics")


@pytest.fixture(scope="session")
async def world(install: Install) -> Installed:
    return await install()


@asynccontextmanager
async def slot_confirmed(admin: asyncpg.Pool, seconds: float = 15) -> AsyncIterator[None]:
    """On the way out: waits until PostgreSQL has been told that all that was written meanwhile is in Kafka."""
    yield
    reached = await admin.fetchval("SELECT pg_current_wal_insert_lsn()")
    async with asyncio.timeout(seconds):
        while not await admin.fetchval(
            "SELECT confirmed_flush_lsn >= $2 FROM pg_replication_slots WHERE slot_name = $1", slot.SLOT, reached
        ):
            await asyncio.sleep(0.05)


def an_event(world: Installed, data: dict[str, object]) -> Envelope:
    return Envelope(type="money.wallet.credited", source="tests", tenant_id=world.tenant, data=data)


class Writer:
    """Changes rows and emits events, in transactions, until it is told to stop; remembers what was committed.

    A transaction whose commit got no answer is in neither list: nobody promised anything about it."""

    def __init__(self, admin: asyncpg.Pool, world: Installed) -> None:
        self._admin, self._world = admin, world
        # Nobody else's: PostgreSQL may forget in a crash what was confirmed, and older tests' events come again.
        self.wallet = str(uuid7())
        self.rows: dict[UUID, int] = {uuid7(): 0 for _ in range(5)}
        self.events: list[UUID] = []
        self._stop = asyncio.Event()

    async def run(self, most: int = 10**6) -> None:
        table = self._world.table
        for number in range(most):
            if self._stop.is_set():
                return
            row_id = list(self.rows)[number % len(self.rows)]
            event = an_event(self._world, {"walletId": self.wallet, "n": number})
            try:
                async with self._admin.acquire() as connection, connection.transaction():
                    await connection.execute(
                        f"INSERT INTO {table} (id, tenant_id, a_integer) VALUES ($1, $2, $3) "
                        "ON CONFLICT (tenant_id, id) DO UPDATE SET a_integer = $3",
                        row_id,
                        self._world.tenant,
                        number,
                    )
                    await write_events(connection, event)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                await asyncio.sleep(0.05)
                continue
            self.rows[row_id] = number
            self.events.append(event.id)

    def stop(self) -> None:
        self._stop.set()


@asynccontextmanager
async def writing(admin: asyncpg.Pool, world: Installed) -> AsyncIterator[list[Writer]]:
    writers = [Writer(admin, world) for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        for writer in writers:
            group.create_task(writer.run())
        try:
            yield writers
        finally:
            for writer in writers:
                writer.stop()


async def everything_arrived(admin: asyncpg.Pool, reader: Reader, writers: list[Writer], seconds: float = 30) -> None:
    """Every committed row and event at least once, and in order per key: the first of each, and the last."""
    for writer in writers:
        writer.stop()
    async with slot_confirmed(admin, seconds):
        pass
    await reader.to_the_end()
    events = {got.body["id"] for got in reader.messages if got.topic == MONEY}
    assert {str(event) for writer in writers for event in writer.events} <= events
    last = {got.key: got.body["row"].get("a_integer") for got in reader.messages if got.topic == DATA}
    for writer in writers:
        for row_id, number in writer.rows.items():
            assert last[str(row_id)] >= number
    ours = {str(row_id) for writer in writers for row_id in writer.rows} | {writer.wallet for writer in writers}
    for key, messages in reader.by_key().items():
        if key not in ours:
            continue
        assert len({got.partition for got in messages}) == 1
        numbers = [got.body["row"]["a_integer"] if got.topic == DATA else got.body["data"]["n"] for got in messages]
        first = list(dict.fromkeys(numbers))
        assert first == sorted(first), key
        assert numbers[-1] == max(numbers), key


async def test_it_starts_with_the_slot_that_it_makes_and_confirms_what_kafka_has(
    environment: dict[str, str], admin: asyncpg.Pool, kafka: KafkaServer, world: Installed
) -> None:
    older, event = uuid7(), an_event(world, {"walletId": "w", "n": -1})
    async with admin.acquire() as connection, connection.transaction():
        await connection.execute(f"INSERT INTO {world.table} (id, tenant_id) VALUES ($1, $2)", older, world.tenant)
        await write_events(connection, event)
    with reading(kafka.admin_conf, DATA, MONEY) as reader:
        async with source_process(environment) as source:
            writer = Writer(admin, world)
            await writer.run(20)
            await everything_arrived(admin, reader, [writer])
            assert await source.metric("kernel_cdc_source_lag_seconds") < 5
            assert await source.metric("kernel_cdc_source_wal_bloat") == 0
            assert await source.metric("kernel_cdc_source_connected") == 1
            assert await source.get("/live") == (200, '{"status": "ok"}')
            # What was there before the slot is read, the event before anything of the stream.
            assert str(event.id) in [got.body["id"] for got in reader.messages if got.topic == MONEY]
            await reader.until(lambda: len(_sweeps(reader, world)) == 12)
            assert str(older) in {got.key for got in reader.tables if got.body["op"] == "s"}
            async with asyncio.timeout(10):
                while await source.metric("kernel_cdc_source_snapshot_due") != 0:
                    await asyncio.sleep(0.05)
            assert await source.kill(signal.SIGTERM) == 0
        ours = {str(row_id) for row_id in writer.rows} | {writer.wallet}
        assert len([got for got in reader.messages if got.key in ours]) == 40, "nothing came twice"


def _sweeps(reader: Reader, world: Installed) -> set[int]:
    return {got.partition for got in reader.tables if (got.body["op"], got.body["module"]) == ("w", world.module.slug)}


async def test_the_slot_moves_on_in_a_quiet_database(environment: dict[str, str], admin: asyncpg.Pool) -> None:
    async with source_process(environment), slot_confirmed(admin):
        await admin.execute("CREATE TABLE kernel.unpublished AS SELECT generate_series(1, 1000)")
        await admin.execute("DROP TABLE kernel.unpublished")


async def test_a_second_source_waits_and_says_so(environment: dict[str, str]) -> None:
    async with source_process(environment) as first, source_process(environment, ready=False) as second:
        body = await second.until(lambda status, body: status == 503 and "in use" in body)
        assert json.loads(body)["reason"] == "PostgreSQL: the slot is in use by another process"
        await first.kill()
        await second.until_ready()


async def test_killed_at_work_it_loses_nothing(
    environment: dict[str, str], admin: asyncpg.Pool, kafka: KafkaServer, world: Installed
) -> None:
    with reading(kafka.admin_conf, DATA, MONEY) as reader:
        source = SourceProcess(environment)
        async with writing(admin, world) as writers:
            for _ in range(3):
                await source.start()
                await source.until_ready()
                seen = len(reader.messages)
                await reader.until(lambda: len(reader.messages) >= seen + 50)  # noqa: B023 - awaited here
                await source.kill()
        async with source_process(environment):
            await everything_arrived(admin, reader, writers)


async def test_kafka_killed_at_work_costs_time_and_nothing_else(
    environment: dict[str, str], admin: asyncpg.Pool, kafka: KafkaServer, world: Installed
) -> None:
    with reading(kafka.admin_conf, DATA, MONEY) as reader:
        async with source_process(environment) as source, writing(admin, world) as writers:
            await reader.until(lambda: len(reader.messages) >= 50)
            await asyncio.to_thread(kafka.kill)
            try:
                body = await source.until(lambda status, body: status == 503 and "Kafka" in body)
                assert "127.0.0.1" not in body
                before = sum(len(writer.events) for writer in writers)
                async with asyncio.timeout(10):
                    while sum(len(writer.events) for writer in writers) < before + 50:
                        await asyncio.sleep(0.02)
            finally:
                await asyncio.to_thread(kafka.start)
            await source.until_ready()
            await everything_arrived(admin, reader, writers)


async def test_postgresql_killed_at_work(
    environment: dict[str, str], admin: asyncpg.Pool, kafka: KafkaServer, postgres: PostgresServer, world: Installed
) -> None:
    with reading(kafka.admin_conf, DATA, MONEY) as reader:
        async with source_process(environment) as source, writing(admin, world) as writers:
            await reader.until(lambda: len(reader.messages) >= 50)
            await asyncio.to_thread(postgres.kill)
            try:
                body = await source.until(lambda status, _: status == 503)
                assert "127.0.0.1" not in body
            finally:
                await asyncio.to_thread(postgres.start)
            await source.until_ready()
            seen = len(reader.messages)
            await reader.until(lambda: len(reader.messages) >= seen + 50)
            await everything_arrived(admin, reader, writers)


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
async def test_a_large_transaction_passes_in_bounded_memory(
    environment: dict[str, str], admin: asyncpg.Pool, kafka: KafkaServer, world: Installed, count: int
) -> None:
    """So many rows in one transaction, with a buffer that holds a few thousand of them."""
    await admin.execute(f"DELETE FROM {world.table} WHERE a_text = repeat('x', 200)")
    with reading(kafka.admin_conf, DATA, bodies=False) as reader:
        async with source_process({**environment, "CDC_SOURCE_BUFFER_MB": "4"}) as source:
            await admin.execute(f"INSERT INTO {world.table} (tenant_id) VALUES ($1)", world.tenant)
            async with slot_confirmed(admin):
                pass
            before = _resident(source.pid)
            async with slot_confirmed(admin, 300):
                await admin.execute(
                    f"INSERT INTO {world.table} (tenant_id, a_integer, a_text) "
                    "SELECT $1, n, repeat('x', 200) FROM generate_series(1, $2::int) AS n",
                    world.tenant,
                    count,
                )
            peak = _resident(source.pid, "VmHWM")
            await reader.to_the_end(300)
    written = await admin.fetch(f"SELECT id::text FROM {world.table} WHERE a_text = repeat('x', 200)")
    assert len(written) == count
    assert {row["id"] for row in written} <= {got.key for got in reader.messages}
    assert peak - before < 60_000_000, f"{before / 1e6:.0f} MB grew to {peak / 1e6:.0f} MB"


async def test_a_message_that_kafka_never_takes_stops_nobody(
    environment: dict[str, str], admin: asyncpg.Pool, kafka: KafkaServer, world: Installed
) -> None:
    """Random text does not compress: 2 MB of it are above the topic's limit."""
    with reading(kafka.admin_conf, DATA) as reader:
        async with source_process(environment) as source, slot_confirmed(admin, 30):
            small = uuid7()
            await admin.execute(
                f"INSERT INTO {world.table} (tenant_id, a_text) SELECT $1, "
                "string_agg(gen_random_uuid()::text, '') FROM generate_series(1, 100000)",
                world.tenant,
            )
            await admin.execute(f"INSERT INTO {world.table} (id, tenant_id) VALUES ($1, $2)", small, world.tenant)
            await reader.until(lambda: str(small) in reader.by_key())
            async with asyncio.timeout(10):
                while await source.metric('kernel_cdc_source_undeliverable_total{reason="too large"}') != 1:
                    await asyncio.sleep(0.05)


async def test_settings_that_are_missing_are_named(environment: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("kernel-cdc"),
        "source",
        env={"KAFKA_BROKERS": "nowhere:1", "DATABASE_URL": "mysql://u:secret-word@h/x"},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        _, said = await process.communicate()
    assert process.returncode == 2
    assert said.decode().splitlines() == [
        "kernel-cdc: DATABASE_URL: Value error, must be a URL, postgres://user:password@host:port/database"
    ]


def _resident(pid: int, field: str = "VmRSS") -> int:
    """Bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
