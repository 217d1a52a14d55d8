"""The audit sees what it is for: damage in each system is named, and a healthy platform is found healthy."""

import asyncio
import contextlib
from uuid import uuid4

import asyncpg
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from e2e_audit import audit, clean
from e2e_manifests import module, namespace, tenant
from redis.asyncio import Redis

from kernel_common.ids import tenant_id


@pytest.fixture
async def small_world(cluster, provider):
    mark = uuid4().hex[:6]
    name, slug, place = f"audit-{mark}", f"a{mark}", f"audit-{mark}"
    cluster.apply(tenant(name, tier="owner"), namespace(place))
    cluster.apply(module(slug, namespace=place, tenants={"names": [name]}))
    await clean(cluster, provider)
    await provider.kill("operator")
    yield name, slug, place
    await provider.start("operator")
    cluster.delete("kmod", slug, "-n", place)
    cluster.delete("tenant", name)
    cluster.delete("namespace", place, wait=False)
    await clean(cluster, provider)


async def test_it_names_what_is_wrong(cluster, provider, small_world) -> None:
    name, slug, place = small_world
    assert await audit(cluster, provider) == []
    identity, stranger = tenant_id(name), uuid4()
    database = await asyncpg.connect(provider.database_admin_url)
    admin = AdminClient(provider.kafka_admin)
    try:
        await database.execute("UPDATE kernel.tenants SET display_name = 'Mallory' WHERE id = $1", identity)
        await database.execute("DELETE FROM kernel.module_tenants WHERE slug = $1", slug)
        await database.execute(f"ALTER TABLE module_{slug}.notes NO FORCE ROW LEVEL SECURITY")
        await database.execute(f"ALTER PUBLICATION platform_cdc DROP TABLE module_{slug}.notes")
        await database.execute(f"CREATE SCHEMA module_{slug}_x; CREATE ROLE module_{slug}_x")
        await provider.clickhouse_command(f"DROP USER `tenant_{identity}`")
        await provider.clickhouse_command(f"CREATE USER `tenant_{stranger}` IDENTIFIED BY 'a-stranger'")
        await provider.clickhouse_command(f"DROP VIEW analytics.module_{slug}__notes__current")
        await provider.clickhouse_command(
            f"CREATE TABLE analytics.module_{slug}__x (a Int8) ENGINE = MergeTree ORDER BY a"
        )
        new = admin.create_topics([NewTopic(f"platform.{slug}_x.events", 1, 1)])
        await asyncio.wrap_future(new[f"platform.{slug}_x.events"])
        async with Redis.from_url(provider.valkey_admin_url) as valkey:
            await valkey.set(f"rate_limit:config:{stranger}", "{}")
            await valkey.delete(f"tenant:limits:{identity}")
            await valkey.sadd(f"modules:active:{stranger}", slug)
            await valkey.hset("routes:table", f"{slug}_x", "{}")
        cluster.run("label", "secret", f"{slug}-database", "-n", place, "platform-kernel.io/module-")
        found = "\n".join(await audit(cluster, provider))
        for finding in (
            f"kernel.tenants: {name}: display_name is 'Mallory'",
            f"kernel.module_tenants: {slug}: lacks",
            f"PostgreSQL: module_{slug}.notes does not keep tenants apart",
            f"PostgreSQL: module_{slug}.notes is in the publications []",
            f"PostgreSQL: schema module_{slug}_x is nobody's",
            f"PostgreSQL: role module_{slug}_x is nobody's",
            f"ClickHouse users: lacks ['tenant_{identity}']",
            f"ClickHouse users: has ['tenant_{stranger}'] too much",
            f"ClickHouse: view module_{slug}__notes__current is missing",
            f"ClickHouse: module_{slug}__x is nobody's",
            f"Kafka: topic platform.{slug}_x.events is nobody's",
            f"Valkey: rate_limit:config:{stranger} is nobody's",
            f"Valkey: {name}, tenant:limits:",
            f"Valkey: modules:active of {slug}: has ['{stranger}'] too much",
            f"Valkey: routes:table: has ['{slug}_x'] too much",
            f"Secret {place}/{slug}-database: owned by None",
        ):
            assert finding in found, found
    finally:
        await database.execute(f"DROP SCHEMA IF EXISTS module_{slug}_x; DROP ROLE IF EXISTS module_{slug}_x")
        await database.close()
        await provider.clickhouse_command(f"DROP USER IF EXISTS `tenant_{stranger}`")
        await provider.clickhouse_command(f"DROP TABLE IF EXISTS analytics.module_{slug}__x")
        with contextlib.suppress(KafkaException):  # it was never made
            await asyncio.wrap_future(admin.delete_topics([f"platform.{slug}_x.events"])[f"platform.{slug}_x.events"])
        async with Redis.from_url(provider.valkey_admin_url) as valkey:
            await valkey.delete(f"rate_limit:config:{stranger}")
            await valkey.hdel("routes:table", f"{slug}_x")
            await valkey.srem(f"modules:active:{stranger}", slug)
        cluster.run("label", "secret", f"{slug}-database", "-n", place, f"platform-kernel.io/module={slug}")
