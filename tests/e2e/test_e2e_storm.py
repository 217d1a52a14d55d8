"""Hundreds of applies and edits while what the operator relies on, and the operator itself, is killed and comes back.

Afterwards everything is Ready, and an audit of all systems finds no difference and no orphan. What is applied is drawn
from a seeded generator; when it meets which death differs from run to run, and must not matter.
"""

import asyncio
import random
from uuid import uuid4

import pytest
from e2e_audit import clean
from e2e_cluster import eventually
from e2e_manifests import module, namespace, tenant
from e2e_operator import OwnOperator
from e2e_storm import storm_of

pytestmark = pytest.mark.soak

APPLIES, KILLED_APPLIES, KILLS = 500, 200, 50
PATIENCE = 120.0
PARTS = ("valkey", "clickhouse", "postgres", "kafka", "kubernetes")


async def test_each_backend_dies_in_a_storm_of_changes(cluster, provider, platform) -> None:
    share = APPLIES // len(PARTS)
    async with storm_of(cluster, platform, seed=5) as storm:
        for part in PARTS:
            before = share // 4 if part != "kubernetes" else share // 2
            await storm.applies(before)
            await provider.kill(part)
            if part == "kubernetes":  # nothing can be applied while it is away
                _, _ = await asyncio.gather(provider.start(part), storm.applies(share - before))
            else:
                await storm.applies(share // 2)
                await asyncio.gather(provider.start(part), storm.applies(share - before - share // 2))
        assert storm.done.total() >= APPLIES
        assert len(storm.done) == 12, f"a kind of change is missing: {storm.done}"
        await clean(cluster, provider, PATIENCE)
    await clean(cluster, provider, PATIENCE)


async def test_the_operator_dies_fifty_times_in_a_storm_of_changes(cluster, provider, platform, tmp_path) -> None:
    own, dice = OwnOperator(platform, tmp_path / "operator.log"), random.Random(7)
    await provider.kill("operator")
    try:
        async with storm_of(cluster, platform, seed=7) as storm:
            for _ in range(KILLS):
                async with own.running() as process:
                    await asyncio.gather(own.ready(process), storm.applies(KILLED_APPLIES // KILLS))
                    await asyncio.sleep(dice.uniform(0, 0.4))  # the moment of its death is what is varied
                    assert process.is_alive(), "it died by itself"
            assert storm.done.total() >= KILLED_APPLIES
            await provider.start("operator")
            await clean(cluster, provider, PATIENCE)
    finally:
        await provider.start("operator")
    await clean(cluster, provider, PATIENCE)


@pytest.fixture
def deletable(cluster):
    """A tenant and a module whose deletion takes everything with it."""
    mark = uuid4().hex[:6]
    name, slug, place = f"going-{mark}", f"g{mark}", f"going-{mark}"
    cluster.apply(
        namespace(place),
        tenant(name, tier="owner", deletionPolicy="Delete"),
        module(
            slug,
            namespace=place,
            tenants={"names": [name]},
            deletionPolicy="Delete",
            annotations={"platform-kernel.io/confirm-deletion": slug},
        ),
    )
    cluster.wait_ready("tenant", name)
    cluster.wait_ready("kmod", slug, "-n", place)
    yield name, slug, place
    cluster.delete("namespace", place, wait=False)


@pytest.mark.parametrize(
    ("part", "system"),
    [("postgres", "PostgreSQL"), ("clickhouse", "ClickHouse"), ("valkey", "Valkey"), ("kafka", "Kafka")],
)
async def test_a_deletion_waits_for_a_backend_and_says_so(cluster, provider, deletable, part, system) -> None:
    name, slug, place = deletable
    await provider.kill(part)
    try:
        cluster.delete("kmod", slug, "-n", place, wait=False)
        cluster.delete("tenant", name, wait=False)
        cluster.wait_reason(f"{system}Unavailable", "kmod", slug, "-n", place, seconds=90)
        if part != "kafka":
            cluster.wait_reason(f"{system}Unavailable", "tenant", name, seconds=90)
    finally:
        await provider.start(part)
    eventually(lambda: cluster.exists("tenant", name) or cluster.exists("kmod", slug, "-n", place), lambda x: not x, 90)
    await clean(cluster, provider)


async def test_a_module_goes_although_its_secret_is_gone(cluster, provider, deletable) -> None:
    name, slug, place = deletable
    await provider.kill("operator")
    try:
        cluster.delete("secret", f"{slug}-database", "-n", place)
        cluster.delete("kmod", slug, "-n", place, wait=False)
    finally:
        await provider.start("operator")
    cluster.delete("kmod", slug, "-n", place)
    cluster.delete("tenant", name)
    await clean(cluster, provider)


async def test_ours_is_done_while_another_finalizer_waits(cluster, provider, deletable) -> None:
    name, slug, place = deletable
    holding = '[{"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/other"}]'
    free = '{"metadata": {"finalizers": null}}'
    subjects = [("tenant", name), ("kmod", slug, "-n", place)]
    for subject in subjects:
        cluster.run("patch", *subject, "--type=json", "-p", holding)
        cluster.delete(*subject, wait=False)
    try:
        await clean(cluster, provider)
        for subject in subjects:
            assert cluster.get(*subject)["metadata"]["finalizers"] == ["example.com/other"]
    finally:
        for subject in subjects:
            cluster.run("patch", *subject, "--type=merge", "-p", free)
    eventually(lambda: any(cluster.exists(*subject) for subject in subjects), lambda there: not there)
    await clean(cluster, provider)
