"""The life of a Tenant, seen from kubectl and from each system."""

import json
from uuid import uuid4

import asyncpg
import pytest
from e2e_cluster import eventually
from e2e_manifests import tenant
from redis.asyncio import Redis

from kernel_common.ids import tenant_id


@pytest.fixture
def names() -> dict[str, str]:
    mark = uuid4().hex[:6]
    return {word: f"{word}-{mark}" for word in ("root", "partner", "client", "other")}


@pytest.fixture
def family(cluster, names):
    """An owner, a partner and a client below each other, ready; deleted afterwards."""
    cluster.apply(
        tenant(names["client"], parent=names["partner"]),
        tenant(names["partner"], tier="partner", parent=names["root"]),
        tenant(names["root"], tier="owner"),
    )
    for word in ("root", "partner", "client"):
        cluster.wait_ready("tenant", names[word])
    yield names
    for word in ("client", "partner", "root"):
        cluster.delete("tenant", names[word])


async def test_a_tenant_is_in_every_system(cluster, provider, family) -> None:
    identity = tenant_id(family["client"])
    status = cluster.get("tenant", family["client"])["status"]
    assert status["tenantId"] == str(identity)
    assert status["phase"] == "Ready"
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Ready": "True",
        "DatabaseReady": "True",
        "AnalyticsReady": "True",
        "RateLimitReady": "True",
    }
    connection = await asyncpg.connect(provider.database_admin_url)
    try:
        row = await connection.fetchrow("SELECT name, tier, status FROM kernel.tenants WHERE id = $1", identity)
        assert row is not None
        assert (row["name"], row["tier"], row["status"]) == (family["client"], "client", "active")
        ancestors = await connection.fetch(
            "SELECT ancestor_id, depth FROM kernel.tenant_closure WHERE descendant_id = $1 ORDER BY depth", identity
        )
        assert [(r["ancestor_id"], r["depth"]) for r in ancestors] == [
            (identity, 0),
            (tenant_id(family["partner"]), 1),
            (tenant_id(family["root"]), 2),
        ]
    finally:
        await connection.close()
    async with Redis.from_url(provider.valkey_admin_url, decode_responses=True) as valkey:
        config = json.loads(await valkey.get(f"rate_limit:config:{identity}") or "{}")
        assert (config["rps"], config["burst"]) == (1000, 200)
    assert await provider.clickhouse_rows(
        "SELECT count() FROM system.users WHERE name = {n:String}", n=f"tenant_{identity}"
    ) == [(1,)]


async def test_suspending_a_partner_blocks_its_clients_and_resuming_frees_them(cluster, provider, family) -> None:
    blocked = f"tenant:blocked:{tenant_id(family['client'])}"
    async with Redis.from_url(provider.valkey_admin_url, decode_responses=True) as valkey:
        assert not await valkey.exists(blocked)
        cluster.run("patch", "tenant", family["partner"], "--type=merge", "-p", '{"spec":{"suspended":true}}')
        eventually(lambda: cluster.get("tenant", family["client"])["status"]["phase"], lambda p: p == "Blocked")
        assert cluster.get("tenant", family["partner"])["status"]["phase"] == "Suspended"
        assert await valkey.exists(blocked)
        cluster.run("patch", "tenant", family["partner"], "--type=merge", "-p", '{"spec":{"suspended":false}}')
        eventually(lambda: cluster.get("tenant", family["client"])["status"]["phase"], lambda p: p == "Ready")
        assert not await valkey.exists(blocked)


def test_a_missing_parent_is_named_and_waited_for(cluster, names) -> None:
    cluster.apply(tenant(names["client"], parent=names["root"]))
    try:
        condition = cluster.wait_reason("ParentNotFound", "tenant", names["client"])
        assert names["root"] in condition["message"]
        assert "spec.parent" in condition["message"]
        cluster.apply(tenant(names["root"], tier="owner"))
        cluster.wait_ready("tenant", names["client"])
    finally:
        cluster.delete("tenant", names["client"])
        cluster.delete("tenant", names["root"])


def test_a_client_can_have_no_tenants(cluster, family, names) -> None:
    cluster.apply(tenant(names["other"], parent=family["client"]))
    try:
        assert "client" in cluster.wait_reason("ParentTierTooLow", "tenant", names["other"])["message"]
    finally:
        cluster.delete("tenant", names["other"])


def test_a_parent_waits_for_its_children(cluster, names) -> None:
    cluster.apply(tenant(names["root"], tier="owner"), tenant(names["client"], parent=names["root"]))
    cluster.wait_ready("tenant", names["root"], names["client"])
    cluster.delete("tenant", names["root"], wait=False)
    condition = cluster.wait_reason("HasChildren", "tenant", names["root"])
    assert names["client"] in condition["message"]
    cluster.delete("tenant", names["client"])
    eventually(lambda: cluster.exists("tenant", names["root"]), lambda there: not there)


async def test_a_retained_name_is_given_again_only_on_request(cluster, provider, names) -> None:
    cluster.apply(tenant(names["root"], tier="owner"))
    cluster.wait_ready("tenant", names["root"])
    cluster.delete("tenant", names["root"])
    identity = tenant_id(names["root"])
    connection = await asyncpg.connect(provider.database_admin_url)
    try:
        assert await connection.fetchval("SELECT status FROM kernel.tenants WHERE id = $1", identity) == "retired"
        assert await provider.clickhouse_rows(
            "SELECT count() FROM system.users WHERE name = {n:String}", n=f"tenant_{identity}"
        ) == [(0,)]
        async with Redis.from_url(provider.valkey_admin_url, decode_responses=True) as valkey:
            assert await valkey.exists(f"tenant:blocked:{identity}"), "tokens of a deleted tenant stop working"
        cluster.apply(tenant(names["root"], tier="owner"))
        condition = cluster.wait_reason("RetainedDataFound", "tenant", names["root"])
        assert str(identity) in condition["message"]
        assert "platform-kernel.io/adopt" in condition["message"]
        cluster.run("annotate", "tenant", names["root"], f"platform-kernel.io/adopt={identity}")
        cluster.wait_ready("tenant", names["root"])
        assert await connection.fetchval("SELECT status FROM kernel.tenants WHERE id = $1", identity) == "active"
    finally:
        await connection.close()
        cluster.delete("tenant", names["root"])


async def test_a_deleted_tenant_leaves_nothing_personal(cluster, provider, names) -> None:
    cluster.apply(tenant(names["root"], tier="owner", deletionPolicy="Delete", displayName="Very Personal"))
    cluster.wait_ready("tenant", names["root"])
    cluster.delete("tenant", names["root"])
    connection = await asyncpg.connect(provider.database_admin_url)
    try:
        row = await connection.fetchrow("SELECT * FROM kernel.tenants WHERE id = $1", tenant_id(names["root"]))
        assert row is not None
        assert row["status"] == "deleted"
        assert "Very Personal" not in str(dict(row))
        assert "@" not in str(row["owner_email"] or "")
    finally:
        await connection.close()
    cluster.apply(tenant(names["root"], tier="owner"))
    cluster.wait_ready("tenant", names["root"])
    cluster.delete("tenant", names["root"])


def test_kubectl_get_answers_the_question(cluster, family) -> None:
    lines = cluster.run("get", "tnt", family["client"]).splitlines()
    assert lines[0].split() == ["NAME", "READY", "PHASE", "TIER", "PARENT", "AGE"]
    assert lines[1].split()[:5] == [family["client"], "True", "Ready", "client", family["partner"]]
    events = cluster.run(
        "get", "events", "-n", "default", "--field-selector", f"involvedObject.name={family['client']}"
    )
    assert "Reconciled" in events
