"""The operator and the systems die and come back; everything converges and says meanwhile what it waits for."""

import asyncio
from uuid import uuid4

import asyncpg
import pytest
from e2e_cluster import eventually
from e2e_manifests import module, namespace, tenant
from redis.asyncio import Redis

from kernel_common.ids import tenant_id

BURST = 60


@pytest.fixture
def root(cluster):
    name = f"root-{uuid4().hex[:6]}"
    cluster.apply(tenant(name, tier="owner"))
    cluster.wait_ready("tenant", name)
    yield name
    cluster.run("delete", "tenants", "-l", f"of={name}", "--timeout=140s")
    cluster.delete("tenant", name)


async def test_an_operator_killed_again_and_again_loses_nothing(cluster, provider, root) -> None:
    names = [f"{root}-{n}" for n in range(BURST)]
    cluster.apply(*(tenant(name, parent=root, labels={"of": root}) for name in names))
    for _ in range(5):
        await provider.kill("operator")
        await provider.start("operator")
    cluster.wait_ready("tenants", "-l", f"of={root}", seconds=90)
    ids = [tenant_id(name) for name in names]
    connection = await asyncpg.connect(provider.database_admin_url)
    try:
        rows = await connection.fetch("SELECT status FROM kernel.tenants WHERE id = ANY($1)", ids)
        assert [row["status"] for row in rows] == ["active"] * BURST
        created = await connection.fetchval(
            "SELECT count(*) FROM kernel.outbox WHERE type = 'auth.tenant.created' AND tenant_id = ANY($1)", ids
        )
        assert created == BURST, "each tenant is announced once"
    finally:
        await connection.close()
    async with Redis.from_url(provider.valkey_admin_url) as valkey:
        assert await valkey.exists(*(f"rate_limit:config:{identity}" for identity in ids)) == BURST


@pytest.mark.parametrize(
    ("part", "condition", "reason"),
    [
        ("postgres", "DatabaseReady", "PostgreSQLUnavailable"),
        ("clickhouse", "AnalyticsReady", "ClickHouseUnavailable"),
        ("valkey", "RateLimitReady", "ValkeyUnavailable"),
    ],
)
async def test_a_system_that_is_away_is_named_and_waited_for(cluster, provider, root, part, condition, reason) -> None:
    name = f"{root}-{part}"
    await provider.kill(part)
    try:
        cluster.apply(tenant(name, parent=root, labels={"of": root}))
        told = cluster.wait_reason(reason, "tenant", name, type_=condition)
        assert told["status"] == "False"
    finally:
        await provider.start(part)
    cluster.wait_ready("tenant", name, seconds=90)


async def test_kafka_away_holds_back_a_module_and_nothing_else(cluster, provider, root) -> None:
    place, slug = f"mod-{uuid4().hex[:6]}", f"m{uuid4().hex[:8]}"
    cluster.apply(namespace(place))
    await provider.kill("kafka")
    try:
        cluster.apply(
            module(slug, namespace=place, tenants={"names": [root]}),
            tenant(f"{root}-k", parent=root, labels={"of": root}),
        )
        cluster.wait_reason("KafkaUnavailable", "kmod", slug, "-n", place, type_="EventsReady", seconds=90)
        cluster.wait_ready("tenant", f"{root}-k")
        async with Redis.from_url(provider.valkey_admin_url) as valkey:
            assert await valkey.hget("routes:table", slug) is None, "no route to a module that is not whole"
    finally:
        await provider.start("kafka")
    cluster.wait_ready("kmod", slug, "-n", place, seconds=120)
    cluster.delete("kmod", slug, "-n", place)
    cluster.delete("namespace", place, wait=False)


async def test_what_somebody_changed_is_put_right_and_told(cluster, provider, root) -> None:
    place, slug = f"mod-{uuid4().hex[:6]}", f"m{uuid4().hex[:8]}"
    cluster.apply(namespace(place), module(slug, namespace=place, tenants={"names": [root]}))
    cluster.wait_ready("kmod", slug, "-n", place)
    connection = await asyncpg.connect(provider.database_admin_url)
    try:
        await connection.execute(f"DROP POLICY tenant_isolation ON module_{slug}.notes")
        async with Redis.from_url(provider.valkey_admin_url) as valkey:
            await valkey.delete(f"rate_limit:config:{tenant_id(root)}")

            async def whole() -> bool:
                policy = await connection.fetchval(
                    "SELECT count(*) FROM pg_policies WHERE schemaname = $1 AND policyname = 'tenant_isolation'",
                    f"module_{slug}",
                )
                return policy == 1 and bool(await valkey.exists(f"rate_limit:config:{tenant_id(root)}"))

            async with asyncio.timeout(60):
                while not await whole():
                    await asyncio.sleep(0.1)
    finally:
        await connection.close()
    eventually(
        lambda: cluster.run("get", "events", "-n", place, "--field-selector", "reason=Repaired"),
        lambda text: "PostgreSQL" in text,
        what="a Repaired Event",
    )
    cluster.delete("kmod", slug, "-n", place)
    cluster.delete("namespace", place, wait=False)


def test_no_secret_is_in_a_log_or_a_status(cluster, provider) -> None:
    said = provider.operator_log() + cluster.run("get", "tenants,kernelmodules", "-A", "-o", "yaml")
    said += cluster.run("get", "events", "-A", "-o", "yaml")
    assert "Reconciled" in said, "the log and the statuses were read"
    found = [name for name, value in provider.secrets().items() if value in said]
    assert found == []
