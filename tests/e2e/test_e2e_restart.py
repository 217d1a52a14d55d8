"""The operator or the API server starts again: whoever is served goes on being served, and nothing is said twice."""

import asyncio
from uuid import uuid4

import pytest
from e2e_cluster import eventually
from e2e_manifests import module, namespace, tenant
from redis.asyncio import Redis

from kernel_common.ids import tenant_id

CHILDREN = 40


@pytest.fixture
def served(cluster):
    """A module and its tenants, whose names come before their parent's in every list."""
    mark = uuid4().hex[:6]
    root, place, slug = f"z-root-{mark}", f"mod-{mark}", f"m{mark}"
    names = [f"a-{mark}-{n}" for n in range(CHILDREN)]
    cluster.apply(
        namespace(place),
        tenant(root, tier="owner"),
        *(tenant(name, parent=root, labels={"of": root}) for name in names),
        module(slug, namespace=place, tenants={"names": names}),
    )
    cluster.wait_ready("tenant", root)
    cluster.wait_ready("tenants", "-l", f"of={root}")
    cluster.wait_ready("kmod", slug, "-n", place)
    yield root, names, place, slug
    cluster.delete("kmod", slug, "-n", place)
    cluster.run("delete", "tenants", "-l", f"of={root}", "--timeout=90s")
    cluster.delete("tenant", root)
    cluster.delete("namespace", place, wait=False)


def versions(cluster, place: str, root: str) -> dict[str, str]:
    """The resource versions of everything of ours: an object that nobody wrote keeps its own."""
    items = cluster.get("tenants", "-l", f"of={root}")["items"] + cluster.get("kmod", "-n", place)["items"]
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in items}


async def changes(provider) -> str | None:
    """The stamp that moves whenever a module comes to a tenant or is taken from one."""
    async with Redis.from_url(provider.valkey_admin_url, decode_responses=True) as valkey:
        stamp: str | None = await valkey.get("kernel:version:modules")
        return stamp


async def test_a_restart_of_the_operator_is_seen_by_nobody(cluster, provider, served) -> None:
    root, _, place, _ = served
    before = versions(cluster, place, root), await changes(provider)
    for _ in range(2):
        await provider.kill("operator")
        await provider.start("operator")
    probe = f"{root}-probe"
    cluster.apply(tenant(probe, parent=root, labels={"of": root}))
    cluster.wait_ready("tenant", probe)  # the queue is served in order: what came before is done
    cluster.delete("tenant", probe)
    assert (versions(cluster, place, root), await changes(provider)) == before


async def test_a_restart_in_an_outage_of_the_database_takes_no_module_from_a_tenant(cluster, provider, served) -> None:
    root, names, place, slug = served
    before = await changes(provider)
    await provider.kill("postgres")
    try:
        eventually(
            lambda: {cluster.condition("Ready", "tenant", name).get("status") for name in names[:3]},
            lambda found: found == {"False"},
            90,
            "the outage is told",
        )
        await provider.kill("operator")
    finally:
        await asyncio.gather(provider.start("postgres"), provider.start("operator"))
    cluster.wait_ready("tenants", "-l", f"of={root}", seconds=90)
    cluster.wait_ready("kmod", slug, "-n", place, seconds=90)
    assert cluster.get("kmod", slug, "-n", place)["status"]["tenants"] == CHILDREN
    assert await changes(provider) == before
    async with Redis.from_url(provider.valkey_admin_url, decode_responses=True) as valkey:
        assert slug in await valkey.smembers(f"modules:active:{tenant_id(names[0])}")


async def test_a_restart_of_the_api_server_needs_none_of_the_operator(cluster, provider, platform, served) -> None:
    root, _, _, _ = served
    operator = platform.operator.pid
    await provider.kill("kubernetes")
    await provider.start("kubernetes")
    late = f"{root}-late"
    eventually(lambda: cluster.run("get", "--raw", "/readyz", check=False), lambda text: text == "ok", 60)
    cluster.apply(tenant(late, parent=root, labels={"of": root}))
    cluster.wait_ready("tenant", late, seconds=90)
    assert platform.operator.pid == operator
