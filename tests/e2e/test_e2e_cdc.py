"""From a row in PostgreSQL to what the tenant sees in ClickHouse, and from an event to its topic."""

import asyncio
import random
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from e2e_cdc import LARGE, World, a_row, streamed, streaming, things, until
from e2e_cluster import Cluster
from e2e_invariants import TopicLog, Witness
from e2e_sample import secret_url

from kernel_common.database import open_pool
from kernel_common.tenancy import tenant_transaction


@pytest.fixture(scope="module")
async def world(cluster: Cluster, provider) -> AsyncIterator[World]:
    async with streaming(cluster, provider) as world:
        yield world


@pytest.fixture
def tenant(world: World) -> UUID:
    return next(iter(world.tenants.values()))


async def shown(world: World, tenant: UUID, one: UUID, column: str = "a_text") -> list:
    """The column of the record, for each row that the tenant sees of it."""
    view = f"module_{world.slug}__things__current"
    rows = await world.provider.clickhouse_as(tenant, f"SELECT {column} FROM {view} WHERE record_id = '{one}'")
    return [value for (value,) in rows]


async def test_what_is_written_is_seen_until_it_is_deleted(world: World, tenant: UUID) -> None:
    """A large value that an update does not touch is not in the log, and is kept all the same."""
    large = random.Random(1).randbytes(LARGE // 2).hex()

    async def sees(*wanted: object, column: str = "a_text") -> None:
        async def same() -> bool:
            return await shown(world, tenant, one, column) == list(wanted)

        await until(same, what=f"{column} is {wanted}")

    async with tenant_transaction(world.pool, tenant) as connection:
        one = await world.insert(connection, {"a_text": "first", "large": large})
    await sees("first")
    async with tenant_transaction(world.pool, tenant) as connection:
        await connection.execute(f"UPDATE {world.table} SET a_text = 'second' WHERE id = $1", one)
    await sees("second")
    await sees(large, column="large")
    other = list(world.tenants.values())[1]
    assert await shown(world, other, one) == []
    async with tenant_transaction(world.pool, tenant) as connection:
        await connection.execute(f"UPDATE {world.table} SET deleted_at = now() WHERE id = $1", one)
    await sees()
    async with tenant_transaction(world.pool, tenant) as connection:
        await connection.execute(f"UPDATE {world.table} SET deleted_at = NULL WHERE id = $1", one)
    await sees("second")
    async with tenant_transaction(world.pool, tenant) as connection:
        await connection.execute(f"DELETE FROM {world.table} WHERE id = $1", one)
    await sees()


async def test_random_work_ends_the_same_on_both_sides(world: World) -> None:
    async with world.load(seed=1) as load:
        await load.more(150)
    await world.check()


async def test_a_column_comes_while_the_stream_runs(cluster: Cluster, provider, world: World, tenant: UUID) -> None:
    """Rows with the column may be on their way before ClickHouse has it; none is lost and none stands in the way."""
    more = things()
    more["fields"] = [*more["fields"], {"name": "added", "type": "decimal"}]
    names = list(world.tenants)
    async with world.load(seed=2) as load:
        await load.more(20)
        await asyncio.to_thread(cluster.apply, streamed(world.slug, world.place, names, more))

        async def written() -> bool:
            try:
                async with tenant_transaction(world.pool, tenant) as connection:
                    await world.insert(connection, a_row(random.Random(3)) | {"added": "12.5"})
            except Exception as error:
                assert "added" in str(error), error
                return False
            return True

        await until(written, what="the column is there")
        await load.more(20)
    await asyncio.to_thread(cluster.wait_ready, "kmod", world.slug, "-n", world.place)
    await world.check()
    await provider.cdc_ready("sink")


async def test_a_module_comes_while_the_stream_runs(cluster: Cluster, provider, world: World) -> None:
    """... and what a stranger writes into its table in ClickHouse is found, or the check would mean nothing."""
    slug, names = f"n{uuid4().hex[:8]}", list(world.tenants)
    async with world.load(seed=4) as load:
        await asyncio.to_thread(cluster.apply, streamed(slug, world.place, names, things()))
        await asyncio.to_thread(cluster.wait_ready, "kmod", slug, "-n", world.place)
        await load.more(10)
        await _write_into(cluster, world, slug)
    async with Witness(provider, slug, ["things"], world.tenants) as witness:
        await until(lambda: _same(witness), what="the new module's rows are in ClickHouse")
        stray = next(iter(world.tenants.values()))
        await provider.clickhouse_insert(f"module_{slug}__things", stray, uuid4(), {"a_text": "nobody's"})
        assert any("in ClickHouse" in difference for difference in await witness.rows())
    await world.check()
    await asyncio.to_thread(cluster.delete, "kmod", slug, "-n", world.place)


async def test_rows_that_were_there_before_analytics_follow(cluster: Cluster, provider, world: World) -> None:
    slug, names = f"b{uuid4().hex[:8]}", list(world.tenants)
    before = things(analytics={"enabled": False})
    await asyncio.to_thread(cluster.apply, streamed(slug, world.place, names, before))
    await asyncio.to_thread(cluster.wait_ready, "kmod", slug, "-n", world.place)
    await _write_into(cluster, world, slug)
    await asyncio.to_thread(cluster.apply, streamed(slug, world.place, names, things()))
    async with Witness(provider, slug, ["things"], world.tenants) as witness:
        await until(lambda: _same(witness), 40, "the rows from before are in ClickHouse")
    await asyncio.to_thread(cluster.delete, "kmod", slug, "-n", world.place)


async def _same(witness: Witness) -> bool:
    try:
        return not await witness.rows()
    except DatabaseError:  # the table is not there yet
        return False


async def _write_into(cluster: Cluster, world: World, slug: str, rows: int = 20) -> None:
    """Some rows of each tenant in the table ``things`` of another module."""
    url = await asyncio.to_thread(secret_url, cluster, f"{slug}-database", world.place)
    rng = random.Random(slug)
    async with await open_pool(url, application="e2e", max_size=2) as pool:
        other = World(slug, world.place, world.tenants, pool, world.witness, world.provider)
        for tenant in world.tenants.values():
            async with tenant_transaction(pool, tenant) as connection:
                for _ in range(rows):
                    await other.insert(connection, a_row(rng))


async def test_an_event_is_on_its_topic_with_its_headers(world: World, tenant: UUID) -> None:
    async with tenant_transaction(world.pool, tenant) as connection:
        await world.announce(connection, tenant)
    await world.check()
    log = TopicLog(world.provider.kafka_admin, f"platform.{world.slug}.events")
    try:
        await asyncio.to_thread(log.read)
    finally:
        log.close()
    headers = {name: value.decode() for name, value in log.messages[-1].headers()}
    assert headers["type"] == f"{world.slug}.thing.changed"
    assert UUID(headers["tenantId"]) in world.tenants.values()
