"""The life of a KernelModule, seen from kubectl and from each system."""

import asyncio
import base64
import json
from uuid import uuid4

import asyncpg
import pytest
from e2e_cluster import eventually
from e2e_manifests import module, namespace, tenant
from redis.asyncio import Redis

from kernel_common.ids import tenant_id

FINALIZED = json.dumps({"metadata": {"finalizers": ["platform-kernel.io/finalizer"]}})


@pytest.fixture(scope="module")
def tenants(cluster):
    mark = uuid4().hex[:6]
    found = {word: f"{word}-{mark}" for word in ("root", "alpha", "beta")}
    cluster.apply(
        tenant(found["root"], tier="owner"),
        tenant(found["alpha"], parent=found["root"], labels={"plan": f"growth-{mark}"}),
        tenant(found["beta"], parent=found["root"]),
    )
    cluster.wait_ready("tenant", *found.values())
    yield found
    for word in ("alpha", "beta", "root"):
        cluster.delete("tenant", found[word])


@pytest.fixture
def place(cluster):
    name = f"mod-{uuid4().hex[:6]}"
    cluster.apply(namespace(name))
    yield name
    cluster.delete("kernelmodules", "--all", "-n", name)
    cluster.delete("namespace", name, wait=False)


@pytest.fixture
def slug() -> str:
    return f"m{uuid4().hex[:8]}"


async def test_a_module_is_in_every_system(cluster, provider, tenants, place, slug) -> None:
    cluster.apply(module(slug, namespace=place, tenants={"names": [tenants["alpha"], tenants["beta"]]}))
    cluster.wait_ready("kmod", slug, "-n", place)
    status = cluster.get("kmod", slug, "-n", place)["status"]
    assert (status["slug"], status["phase"], status["installedVersion"], status["tenants"]) == (
        slug,
        "Active",
        "1.0.0",
        2,
    )
    assert await provider.topic_hours(f"platform.{slug}.events") == 168
    assert await provider.topic_hours(f"platform.{slug}.events.dlq") == 720
    assert await provider.clickhouse_rows(
        "SELECT engine, sorting_key FROM system.tables WHERE name = {n:String}", n=f"module_{slug}__notes"
    ) == [("ReplacingMergeTree", "tenant_id, record_id")]
    async with Redis.from_url(provider.valkey_admin_url, decode_responses=True) as valkey:
        for word in ("alpha", "beta"):
            assert slug in await valkey.smembers(f"modules:active:{tenant_id(tenants[word])}")
        assert slug not in await valkey.smembers(f"modules:active:{tenant_id(tenants['root'])}")
        assert json.loads(await valkey.hget("permissions:registry", slug)) == [f"{slug}.notes.read"]
        assert json.loads(await valkey.hget("routes:table", slug))["prefix"] == f"/api/v1/{slug}"


async def test_rows_of_a_tenant_are_seen_by_that_tenant_alone(cluster, provider, tenants, place, slug) -> None:
    cluster.apply(module(slug, namespace=place, tenants={"names": [tenants["alpha"], tenants["beta"]]}))
    cluster.wait_ready("kmod", slug, "-n", place)
    alpha, beta = tenant_id(tenants["alpha"]), tenant_id(tenants["beta"])
    connection = await asyncpg.connect(service_url(cluster, slug, place))

    async def as_tenant(identity, statement, *values):
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", str(identity or ""))
            return await connection.fetch(statement, *values)

    try:
        table = f"module_{slug}.notes"
        await as_tenant(alpha, f"INSERT INTO {table} (body) VALUES ('of alpha')")
        assert [r["body"] for r in await as_tenant(alpha, f"SELECT body FROM {table}")] == ["of alpha"]
        assert await as_tenant(beta, f"SELECT body FROM {table}") == []
        assert await as_tenant(None, f"SELECT body FROM {table}") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_tenant(alpha, f"INSERT INTO {table} (tenant_id, body) VALUES ($1, 'forged')", beta)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM kernel.tenants")
        await as_tenant(beta, f"INSERT INTO {table} (body) VALUES ('of beta')")
        async with asyncio.timeout(30):
            for identity, body in ((alpha, "of alpha"), (beta, "of beta")):
                question = f"SELECT body FROM module_{slug}__notes__current"
                while not (rows := await provider.clickhouse_as(identity, question)):
                    await asyncio.sleep(0.05)
                assert rows == [(body,)]
    finally:
        await connection.close()


def service_url(cluster, name: str, place: str) -> str:
    data = cluster.get("secret", f"{name}-database", "-n", place)["data"]
    return base64.b64decode(data["DATABASE_URL"]).decode()


async def test_a_lost_secret_is_made_again_and_works(cluster, tenants, place, slug) -> None:
    cluster.apply(module(slug, namespace=place, tenants={"names": [tenants["alpha"]]}))
    cluster.wait_ready("kmod", slug, "-n", place)
    before = service_url(cluster, slug, place)
    cluster.delete("secret", f"{slug}-database", "-n", place)
    cluster.run("annotate", "kmod", slug, "-n", place, "touched=1")
    eventually(lambda: cluster.exists("secret", f"{slug}-database", "-n", place), bool)
    after = service_url(cluster, slug, place)
    assert after != before

    async def works(url: str) -> bool:
        try:
            connection = await asyncpg.connect(url)
        except asyncpg.InvalidPasswordError:
            return False
        await connection.close()
        return True

    async with asyncio.timeout(30):
        while not await works(after):
            await asyncio.sleep(0.05)
    assert not await works(before), "the old password is no longer taken"


def test_a_module_waits_for_a_tenant_that_is_not_there_yet(cluster, tenants, place, slug) -> None:
    late = f"late-{slug}"
    cluster.apply(module(slug, namespace=place, tenants={"names": [tenants["alpha"], late]}))
    condition = cluster.wait_reason("TenantNotFound", "kmod", slug, "-n", place)
    assert late in condition["message"]
    assert cluster.get("kmod", slug, "-n", place)["status"]["phase"] == "Active", "it serves the tenants that exist"
    cluster.apply(tenant(late, parent=tenants["root"]))
    cluster.wait_ready("kmod", slug, "-n", place)
    assert cluster.get("kmod", slug, "-n", place)["status"]["tenants"] == 2
    cluster.delete("tenant", late)
    cluster.wait_reason("TenantNotFound", "kmod", slug, "-n", place)


def test_a_slug_and_a_route_are_held_by_the_first(cluster, tenants, place, slug) -> None:
    names = {"names": [tenants["alpha"]]}
    cluster.apply(module(slug, namespace=place, tenants=names))
    cluster.wait_ready("kmod", slug, "-n", place)
    second = module(slug, namespace=place, tenants=names, moduleName=f"@rival/{slug}")
    second["metadata"]["name"] = "rival"
    third = module(f"{slug}x", namespace=place, tenants=names)
    third["spec"]["route"]["prefix"] = f"/api/v1/{slug}/below"
    cluster.apply(second, third)
    assert f"@test/{slug}" in cluster.wait_reason("SlugTaken", "kmod", "rival", "-n", place)["message"]
    assert f"/api/v1/{slug}" in cluster.wait_reason("RouteTaken", "kmod", f"{slug}x", "-n", place)["message"]
    cluster.delete("kmod", "rival", "-n", place)
    cluster.delete("kmod", slug, "-n", place)
    cluster.wait_ready("kmod", f"{slug}x", "-n", place)


async def test_a_rival_that_was_refused_takes_nothing_with_it(cluster, provider, tenants, place, slug) -> None:
    names = {"names": [tenants["alpha"]]}
    rival = module(
        slug,
        namespace=place,
        tenants=names,
        moduleName=f"@rival/{slug}",
        deletionPolicy="Delete",
        annotations={"platform-kernel.io/confirm-deletion": slug},
    )
    rival["metadata"]["name"] = "rival"
    cluster.apply(module(slug, namespace=place, tenants=names))
    cluster.wait_ready("kmod", slug, "-n", place)
    cluster.apply(rival)
    cluster.wait_reason("SlugTaken", "kmod", "rival", "-n", place)
    # With a finalizer the operator has its say on the deletion, as if the rival had once been accepted.
    cluster.run("patch", "kmod", "rival", "-n", place, "--type=merge", "-p", FINALIZED)
    cluster.delete("kmod", "rival", "-n", place)
    assert await provider.topic_hours(f"platform.{slug}.events") == 168
    assert await provider.clickhouse_rows(f"SELECT count() FROM module_{slug}__notes") == [(0,)]
    async with Redis.from_url(provider.valkey_admin_url) as valkey:
        assert await valkey.hget("routes:table", slug) is not None
    connection = await asyncpg.connect(service_url(cluster, slug, place))
    try:
        assert await connection.fetch(f"SELECT * FROM module_{slug}.notes") == []
    finally:
        await connection.close()


def test_what_only_the_platform_team_may_do_is_refused(cluster, tenants, place, slug) -> None:
    everyone = module(slug, namespace=place, tenants={"all": True})
    kernel = module(f"{slug}k", namespace=place, tenants={"names": []}, moduleName=f"@kernel/{slug}k")
    future = module(f"{slug}f", namespace=place, tenants={"names": []}, kernelVersion=">=7")
    cluster.apply(everyone, kernel, future)
    assert (
        "OPERATOR_SELECTOR_NAMESPACES"
        in cluster.wait_reason("SelectionNotAllowed", "kmod", slug, "-n", place)["message"]
    )
    assert "@kernel" in cluster.wait_reason("ScopeNotAllowed", "kmod", f"{slug}k", "-n", place)["message"]
    assert ">=7" in cluster.wait_reason("KernelVersionMismatch", "kmod", f"{slug}f", "-n", place)["message"]


def test_tenants_come_and_go_with_their_labels(cluster, tenants, slug) -> None:
    place = "platform-kernel"  # the operator's own namespace may select by label
    label = cluster.get("tenant", tenants["alpha"])["metadata"]["labels"]["plan"]
    cluster.apply(module(slug, namespace=place, tenants={"selector": {"matchLabels": {"plan": label}}}))
    try:
        cluster.wait_ready("kmod", slug, "-n", place)

        def count() -> int:
            return int(cluster.get("kmod", slug, "-n", place)["status"]["tenants"])

        assert count() == 1
        cluster.run("label", "tenant", tenants["beta"], f"plan={label}")
        eventually(count, lambda n: n == 2)
        cluster.run("label", "tenant", tenants["beta"], "plan-")
        eventually(count, lambda n: n == 1)
    finally:
        cluster.delete("kmod", slug, "-n", place)


async def test_a_disabled_module_keeps_its_data_and_loses_its_rights(cluster, provider, tenants, place, slug) -> None:
    cluster.apply(module(slug, namespace=place, tenants={"names": [tenants["alpha"]]}))
    cluster.wait_ready("kmod", slug, "-n", place)
    cluster.run("patch", "kmod", slug, "-n", place, "--type=merge", "-p", '{"spec":{"enabled":false}}')
    eventually(lambda: cluster.get("kmod", slug, "-n", place)["status"]["phase"], lambda p: p == "Disabled")
    async with Redis.from_url(provider.valkey_admin_url, decode_responses=True) as valkey:
        assert slug not in await valkey.smembers(f"modules:active:{tenant_id(tenants['alpha'])}")
        assert await valkey.hget("routes:table", slug) is None
    connection = await asyncpg.connect(provider.database_admin_url)
    try:
        assert await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"module_{slug}.notes")
    finally:
        await connection.close()


@pytest.mark.parametrize("confirmed", [False, True], ids=["unconfirmed", "confirmed"])
async def test_tables_go_only_when_that_was_confirmed(cluster, provider, tenants, place, slug, confirmed) -> None:
    annotations = {"platform-kernel.io/confirm-deletion": slug} if confirmed else {}
    wanted = {"tenants": {"names": [tenants["alpha"]]}, "deletionPolicy": "Delete", "annotations": annotations}
    cluster.apply(module(slug, namespace=place, **wanted))
    cluster.wait_ready("kmod", slug, "-n", place)
    cluster.delete("kmod", slug, "-n", place)
    connection = await asyncpg.connect(provider.database_admin_url)
    try:
        there = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"module_{slug}.notes")
        assert there is not confirmed
        can_login = await connection.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", f"module_{slug}")
        assert not can_login
    finally:
        await connection.close()
    assert not cluster.exists("secret", f"{slug}-database", "-n", place)
    async with Redis.from_url(provider.valkey_admin_url, decode_responses=True) as valkey:
        assert await valkey.hget("routes:table", slug) is None
        assert slug not in await valkey.smembers(f"modules:active:{tenant_id(tenants['alpha'])}")


def test_kubectl_get_answers_the_question(cluster, tenants, place, slug) -> None:
    cluster.apply(module(slug, namespace=place, tenants={"names": [tenants["alpha"]]}))
    cluster.wait_ready("kmod", slug, "-n", place)
    lines = cluster.run("get", "kmod", "-n", place).splitlines()
    assert lines[0].split() == ["NAME", "READY", "PHASE", "MODULE", "VERSION", "TENANTS", "AGE"]
    assert lines[1].split()[:6] == [slug, "True", "Active", f"@test/{slug}", "1.0.0", "1"]
