"""Whatever dies under load, nothing is lost, nothing comes twice, and both sides end the same."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Producer
from e2e_cdc import KEPT, World, a_row, streaming, until
from e2e_cluster import Cluster
from e2e_invariants import TopicLog

from kernel_common.tenancy import tenant_transaction

DATA = "platform.data.events"
SLOT = "platform_cdc_slot"
MEMORY = 200 * 2**20


@pytest.fixture(scope="module")
async def world(cluster: Cluster, provider) -> AsyncIterator[World]:
    async with streaming(cluster, provider) as world:
        yield world


@pytest.mark.parametrize("part", ["source", "sink", "clickhouse", "kafka"])
async def test_a_part_that_is_killed_loses_nothing(provider, world: World, part: str) -> None:
    """Who writes notices nothing of it: what is committed meanwhile comes through afterwards."""
    async with world.load(seed=len(part)) as load:
        await load.more(30)
        await provider.kill(part)
        try:
            await load.more(30)
        finally:
            await provider.start(part)
        await load.more(30)
    await world.check(45)


async def test_a_database_that_is_killed_loses_nothing_committed(provider, world: World) -> None:
    """The source may send again what it had sent since the last checkpoint."""
    async with world.load(seed=5) as load:
        await load.more(30)
        await provider.kill("postgres")
        await provider.start("postgres")
        await load.more(30)
    await world.check(45)


async def test_a_slot_that_is_dropped_costs_time_and_nothing_else(provider, world: World) -> None:
    """What was inserted, changed and deleted between two slots is in no log: it has to be read again."""
    async with world.load(seed=6) as load:
        await load.more(20)
        await provider.kill("source")
        try:
            await _drop_slot(provider.database_admin_url)
            await load.more(60)
        finally:
            await provider.start("source")
        await load.more(20)
    await world.check(60)


async def _drop_slot(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:

        async def dropped() -> bool:
            await connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active",
                SLOT,
            )
            try:
                await connection.execute("SELECT pg_drop_replication_slot($1)", SLOT)
            except asyncpg.ObjectInUseError:
                return False
            return True

        await until(dropped, what="the slot is dropped")
    finally:
        await connection.close()


async def test_what_comes_twice_changes_nothing(provider, world: World) -> None:
    """All changes and events so far are delivered once more, old versions after newer ones."""
    async with world.load(seed=7) as load:
        await load.more(30)
        for topic in (DATA, f"platform.{world.slug}.events"):
            assert await asyncio.to_thread(_send_again, provider.kafka_admin, topic, world.slug) > 0
        await load.more(30)
    await world.check(45)


def _send_again(configuration: dict[str, Any], topic: str, slug: str) -> int:
    log = TopicLog(configuration, topic)
    try:
        log.read()
    finally:
        log.close()
    producer, sent = Producer({**configuration, "log_level": 0}), 0
    for message in log.messages:
        headers = dict(message.headers() or [])
        if topic != DATA or headers.get("module") == slug.encode():
            producer.produce(
                topic, message.value(), message.key(), partition=message.partition(), headers=message.headers()
            )
            producer.poll(0)
            sent += 1
    assert producer.flush(30) == 0
    return sent


async def test_a_second_sink_comes_and_dies(provider, world: World) -> None:
    async with world.load(seed=8) as load:
        await load.more(20)
        async with provider.another_sink():
            await load.more(80)
        await load.more(20)
    await world.check(45)


async def test_a_clock_that_steps_back_loses_no_change(provider, world: World) -> None:
    """The host's clock can't be moved here. What it would leave behind can: a row whose ``updated_at`` lies an hour
    ahead of the clock, written past the trigger (as a replica does). The trigger and the tombstone have to go on from
    there, because analytics keeps the newest ``updated_at``."""
    tenant = next(iter(world.tenants.values()))
    async with tenant_transaction(world.pool, tenant) as connection:
        changed, deleted = [await world.insert(connection, a_row(random.Random(n))) for n in range(2)]
    admin = await asyncpg.connect(provider.database_admin_url)
    try:
        async with admin.transaction():
            await admin.execute("SET LOCAL session_replication_role = replica")
            ahead = await admin.fetchval("SELECT clock_timestamp() + interval '1 hour'")
            await admin.execute(
                f"UPDATE {world.table} SET updated_at = $1, a_text = 'before the step' WHERE id = ANY ($2)",
                ahead,
                [changed, deleted],
            )
    finally:
        await admin.close()
    await world.check()
    async with tenant_transaction(world.pool, tenant) as connection:
        await connection.execute(f"UPDATE {world.table} SET a_text = 'after the step' WHERE id = $1", changed)
        await connection.execute(f"DELETE FROM {world.table} WHERE id = $1", deleted)
        now = await connection.fetchval(f"SELECT updated_at FROM {world.table} WHERE id = $1", changed)
    assert now == ahead + timedelta(microseconds=1)
    await world.check()


async def test_ten_thousand_changes_of_one_row_end_with_the_last(world: World) -> None:
    tenant = next(iter(world.tenants.values()))
    async with tenant_transaction(world.pool, tenant) as connection:
        one = await world.insert(connection, {"a_integer": 0, "a_text": KEPT})
    async with world.load(seed=9) as load:
        for _ in range(10):
            async with tenant_transaction(world.pool, tenant) as connection:
                await connection.execute(
                    "DO $$ BEGIN FOR n IN 1..1000 LOOP UPDATE "
                    f"{world.table} SET a_integer = a_integer + 1 WHERE id = '{one}'; END LOOP; END $$"
                )
        await load.more(10)
    await world.check(45)
    view = f"module_{world.slug}__things__current"
    rows = await world.provider.clickhouse_as(tenant, f"SELECT a_integer FROM {view} WHERE record_id = '{one}'")
    assert rows == [(10_000,)]


@pytest.mark.soak
async def test_kafka_is_away_for_a_minute(provider, world: World) -> None:
    async with world.load(seed=10) as load:
        await load.more(30)
        await provider.kill("kafka")
        await asyncio.sleep(60)  # the outage itself
        await load.more(30)
        await provider.start("kafka")
        await load.more(30)
    await world.check(120)
    assert await provider.memory("source") < MEMORY


@pytest.mark.soak
async def test_a_transaction_of_a_million_rows_comes_through(provider, world: World) -> None:
    """Source and sink stay within their memory, and the other tenant's small changes are not lost behind it."""
    tenant = next(iter(world.tenants.values()))
    most = dict.fromkeys(("source", "sink"), 0)

    async def watch() -> None:
        while True:
            for part in most:
                most[part] = max(most[part], await provider.memory(part))
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    try:
        connection = await world.pool.acquire()
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL statement_timeout = 0")
                await connection.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant))
                insert = (
                    f"INSERT INTO {world.table} (a_text, a_integer) SELECT $1, n FROM generate_series(1, 1000000) n"
                )
                await connection.execute(insert, KEPT, timeout=300)
        finally:
            await world.pool.release(connection)
        async with world.load(seed=11) as load:
            await load.more(100)
        await world.check(300)
    finally:
        watching.cancel()
        async with tenant_transaction(world.pool, tenant) as connection:
            await connection.execute("SET LOCAL statement_timeout = 0")
            await connection.execute(f"DELETE FROM {world.table} WHERE a_text = $1", KEPT, timeout=300)
    assert max(most.values()) < MEMORY, most
    await world.check(300)


@pytest.mark.soak
async def test_everything_dies_in_turn_under_load(provider, world: World) -> None:
    rng = random.Random(12)
    async with world.load(seed=12) as load:
        for _ in range(25):
            part = rng.choice(["source", "sink", "kafka", "clickhouse", "postgres"])
            await provider.kill(part)
            await asyncio.sleep(rng.random() * 2)
            await provider.start(part)
            await load.more(rng.randrange(1, 30), 60)
    await world.check(120)
