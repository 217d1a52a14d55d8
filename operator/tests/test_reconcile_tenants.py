"""Tenants against a real API server: each branch, what it asks of the systems, and what it writes."""

import asyncio
from pathlib import Path

import pytest
from reconcile_world import World, logged_in, operator_kubeconfig

from kernel_local.testing import KubernetesServer
from kernel_operator.desired import Outcome, Refusal, Unavailable
from kernel_operator.kube import FINALIZER, TENANTS
from kernel_operator.queue import Key

RETAINED = Refusal("RetainedDataFound", "a deleted Tenant left its data behind")
AWAY = Unavailable("PostgreSQL", "can't be reached")


async def test_a_new_tenant_costs_two_writes_and_an_event_and_an_unchanged_one_none(world: World) -> None:
    key = await world.tenant("a")
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert world.kube.writes == ["PATCH object", "PATCH status", "POST events"]
    status = await world.status(key)
    assert (status["phase"], status["tenantId"]) == ("Ready", str(world.id(key)))
    assert await world.tell(key) == [], "what we wrote ourselves brings nothing"
    assert await world.reconcile(key) == set()
    assert world.kube.writes == []
    assert [system for system, _, _ in world.calls] == ["PostgreSQL", "ClickHouse", "Valkey"]


async def test_a_restart_writes_nothing(world: World) -> None:
    parent = await world.tenant("p")
    child = await world.tenant("c", "client", parent)
    await world.settle(parent, child)
    world.restart()
    await world.tell(child, parent)
    assert world.cluster.bound == {parent.name, child.name}
    assert await world.reconcile(child, parent) == set()
    assert world.kube.writes == []


async def test_who_is_refused_by_the_plan_gets_no_finalizer_and_goes_freely(world: World) -> None:
    child = await world.tenant("c", "client", Key(TENANTS, "", "no-such-tenant"))
    await world.tell(child)
    assert await world.reconcile(child) == set()
    assert world.kube.writes == ["PATCH status", "POST events"]
    assert world.calls == []
    assert (await world.condition(child))["reason"] == "ParentNotFound"
    await world.delete(child)
    assert await world.read(child) is None


async def test_tenants_that_name_each_other_as_parents_can_be_deleted(world: World) -> None:
    a = await world.tenant("a", "partner", Key(TENANTS, "", f"b-{world.mark}"))
    b = await world.tenant("b", "partner", a)
    await world.tell(a, b)
    assert await world.reconcile(a, b) == set()
    for key in (a, b):
        assert (await world.condition(key))["reason"] == "ParentTierTooLow"
        await world.delete(key)
        assert await world.read(key) is None


async def test_who_was_refused_retained_data_never_deletes_it(world: World) -> None:
    key = await world.tenant("a", deletionPolicy="Delete")
    world.postgres.refusals[world.id(key)] = RETAINED
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert [system for system, _, _ in world.calls] == ["PostgreSQL"], "nothing is made for it elsewhere"
    assert "tenantId" not in await world.status(key)
    world.postgres.trouble = AWAY
    assert await world.reconcile(key) == {key}
    assert world.called("Valkey") == [], "nor when PostgreSQL can't say no"
    world.postgres.trouble = None
    await world.delete(key)
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert world.called("PostgreSQL") == ["retire"]
    assert world.called("ClickHouse") == ["close"]
    assert await world.read(key) is None


async def test_adopted_data_is_deleted_with_the_tenant(world: World) -> None:
    key = await world.tenant("a", deletionPolicy="Delete")
    world.postgres.refusals[world.id(key)] = RETAINED
    await world.settle(key)
    del world.postgres.refusals[world.id(key)]
    await world.edit(key, {"metadata": {"annotations": {"platform-kernel.io/adopt": str(world.id(key))}}})
    await world.settle(key)
    assert (await world.status(key))["tenantId"] == str(world.id(key))
    await world.delete(key)
    await world.tell(key)
    await world.reconcile(key)
    assert world.called("PostgreSQL") == ["delete"]


async def test_a_tenant_that_lost_its_row_to_retirement_is_no_longer_counted(world: World) -> None:
    key = await world.tenant("a")
    await world.settle(key)
    world.postgres.refusals[world.id(key)] = RETAINED
    await world.reconcile(key)
    assert key.name not in world.cluster.bound
    assert "tenantId" not in await world.status(key)


async def test_a_database_that_is_away_holds_back_a_new_tenant_and_not_an_old_one(world: World) -> None:
    old, new = await world.tenant("old"), await world.tenant("new")
    await world.settle(old)
    world.postgres.trouble = AWAY
    await world.tell(new)
    assert await world.reconcile(old, new) == {old, new}
    applied = [subject for system, _, subject in world.calls if system == "Valkey"]
    assert applied == [str(world.id(old))]
    assert (await world.condition(old))["reason"] == "PostgreSQLUnavailable"
    assert (await world.status(old))["tenantId"], "who is in the database stays known over an outage"
    world.restart()
    await world.tell(old, new)
    assert world.cluster.bound == {old.name}


async def test_a_parent_that_the_database_has_lost_wakes_its_child_when_it_is_back(world: World) -> None:
    parent = await world.tenant("p")
    child = await world.tenant("c", "client", parent)
    await world.settle(parent, child)
    world.postgres.living.clear()
    assert await world.reconcile(child) == {child}, "to wait for, not to refuse"
    assert (await world.condition(child))["reason"] == "PostgreSQLUnavailable"
    woken = await world.queue.take(TENANTS, 10)
    assert parent in woken
    for key in woken:
        world.queue.done(key)
    assert await world.reconcile(parent) == set()
    assert child in await world.queue.take(TENANTS, 10)
    await world.settle(child)
    assert (await world.condition(child))["status"] == "True"


async def test_a_child_waits_for_a_parent_that_is_refused(world: World) -> None:
    parent = await world.tenant("p")
    child = await world.tenant("c", "client", parent)
    world.postgres.refusals[world.id(parent)] = RETAINED
    await world.tell(parent, child)
    await world.reconcile(parent)
    assert await world.reconcile(child) == set()
    assert (await world.condition(child, "ParentReady"))["status"] == "Unknown"
    world.postgres.refusals.clear()
    assert world.queue.depth(TENANTS) == 0
    await world.reconcile(parent)
    assert child in await world.queue.take(TENANTS, 10)


async def test_a_parent_waits_for_children_for_which_something_was_made(world: World) -> None:
    parent = await world.tenant("p")
    child = await world.tenant("c", "client", parent)
    await world.settle(parent, child)
    await world.delete(parent)
    await world.tell(parent)
    assert await world.reconcile(parent) == set()
    assert world.calls == []
    assert (await world.condition(parent))["reason"] == "HasChildren"
    await world.delete(child)
    await world.tell(child)
    await world.reconcile(child)
    assert parent in await world.tell(child), "the end of the last child brings it back"
    assert await world.reconcile(parent) == set()
    assert await world.read(parent) is None


@pytest.mark.parametrize(
    ("policy", "database", "analytics"), [("Retain", "retire", "close"), ("Delete", "delete", "drop")]
)
async def test_readers_lose_their_right_before_the_rows_go(
    world: World, policy: str, database: str, analytics: str
) -> None:
    key = await world.tenant("a", deletionPolicy=policy)
    await world.settle(key)
    await world.delete(key)
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert [(system, call) for system, call, _ in world.calls] == [
        ("Valkey", "remove"),
        ("ClickHouse", analytics),
        ("PostgreSQL", database),
    ]
    assert world.kube.writes == ["PATCH object"]
    assert await world.read(key) is None
    assert key in await world.tell(key)
    assert await world.reconcile(key) == set(), "and what was kept about it goes too"


@pytest.mark.parametrize("system", ["postgres", "clickhouse", "valkey"])
async def test_a_deletion_waits_for_a_system_that_is_away_and_says_so(world: World, system: str) -> None:
    key = await world.tenant("a")
    await world.settle(key)
    getattr(world, system).trouble = Unavailable("X", "away")
    await world.delete(key)
    await world.tell(key)
    assert await world.reconcile(key) == {key}
    assert (await world.status(key))["phase"] == "Deleting"
    assert (await world.condition(key))["reason"] == "XUnavailable"
    getattr(world, system).trouble = None
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert await world.read(key) is None


async def test_a_long_deletion_is_broken_off_and_holds_up_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel_operator.reconcile.tenants._REMOVAL_SECONDS", 0.05)
    big, other = await world.tenant("big", deletionPolicy="Delete"), await world.tenant("other")
    await world.settle(big)
    never = asyncio.Event()

    async def endless(_: object) -> Outcome:
        await never.wait()
        return Outcome()

    monkeypatch.setattr(world.postgres, "delete_tenant", endless)
    await world.delete(big)
    await world.tell(big, other)
    async with asyncio.timeout(10):
        assert await world.reconcile(big, other) == {big}
    assert "it goes on" in (await world.condition(big))["message"]
    assert (await world.condition(other))["status"] == "True"


async def test_what_others_still_hold_is_left_to_them(world: World) -> None:
    key = await world.tenant("a", finalizers=["others.example/finalizer"])
    await world.settle(key)
    await world.delete(key)
    await world.settle(key)
    body = await world.read(key)
    assert body is not None
    assert body["metadata"]["finalizers"] == ["others.example/finalizer"]
    assert await world.reconcile(key) == set()
    assert (world.calls, world.kube.writes) == ([], []), "all of ours is gone"


async def test_an_edit_at_the_same_moment_is_tried_again(world: World) -> None:
    key = await world.tenant("a")
    await world.tell(key)
    await world.edit(key, {"metadata": {"labels": {"plan": "growth"}}})
    assert await world.reconcile(key) == {key}, "the finalizer goes on what was seen, or not at all"
    assert world.calls == []
    await world.settle(key)


async def test_what_was_found_about_an_object_is_not_told_of_its_successor(world: World) -> None:
    key = await world.tenant("c", "client", Key(TENANTS, "", "no-such-tenant"))
    await world.tell(key)
    await world.delete(key)
    await world.tenant("c")
    assert await world.reconcile(key) == {key}
    assert await world.status(key) == {}
    await world.settle(key)
    assert (await world.condition(key))["status"] == "True"


async def test_a_tampered_status_is_put_right_in_silence(world: World) -> None:
    key = await world.tenant("a")
    await world.settle(key)
    wrong = {"type": "DatabaseReady", "status": "False", "reason": "Lies", "message": ""}
    wrong |= {"lastTransitionTime": "2026-01-01T00:00:00Z"}
    await world.edit(key, {"status": {"phase": "Failed", "tenantId": None, "conditions": [wrong]}}, "status")
    await world.tell(key)
    assert await world.reconcile(key) == set()
    status = await world.status(key)
    assert (status["phase"], status["tenantId"]) == ("Ready", str(world.id(key)))
    assert (await world.condition(key))["status"] == "True"
    await world.tell(key)
    await world.reconcile(key)
    assert world.kube.writes == []


async def test_a_repair_is_told_and_a_change_that_was_asked_for_is_not(world: World) -> None:
    key = await world.tenant("a")
    await world.settle(key)
    world.valkey.changes[world.id(key)] = ["set the rate limit in Valkey"]
    await world.reconcile(key)
    assert world.kube.writes == ["POST events"]
    assert "Repaired" in await world.events(key)
    world.kube.writes.clear()
    for suspended in (True, False):  # there and back, with a failure on the way
        await world.edit(key, {"spec": {"suspended": suspended}})
        await world.tell(key)
        world.valkey.trouble = Unavailable("Valkey", "away") if suspended else None
        world.postgres.changes[world.id(key)] = ["updated suspended"]
        await world.reconcile(key)
    assert (await world.events(key)).count("Repaired") == 1


async def test_an_unexpected_error_is_told_without_its_text_and_tried_again(world: World) -> None:
    key = await world.tenant("a")
    world.clickhouse.trouble = RuntimeError("http://operator:s3cret@host")
    await world.tell(key)
    assert await world.reconcile(key) == {key}
    condition = await world.condition(key, "AnalyticsReady")
    assert condition["reason"] == "InternalError"
    assert "s3cret" not in str(await world.read(key))


async def test_a_right_that_is_missing_for_one_object_is_told_and_harms_no_other(
    world: World, cluster_of_ours: KubernetesServer, tmp_path: Path
) -> None:
    good, bad, gone = await world.tenant("good"), await world.tenant("bad"), await world.tenant("gone")
    await world.settle(gone)
    await world.delete(gone)
    account = f"limited-{world.mark}"
    kubectl = cluster_of_ours.kubectl
    kubectl("create", "serviceaccount", account, "-n", "platform-kernel")
    kubectl("create", "clusterrole", account, "--verb=patch", "--resource=tenants", f"--resource-name={good.name}")
    kubectl("create", "clusterrole", f"{account}-status", "--verb=patch", "--resource=tenants/status")
    for role in (account, f"{account}-status"):
        subject = f"--serviceaccount=platform-kernel:{account}"
        kubectl("create", "clusterrolebinding", role, f"--clusterrole={role}", subject)
    session = await logged_in(operator_kubeconfig(cluster_of_ours, tmp_path / "limited", account))
    world.kube.use(session)
    await world.tell(good, bad, gone)
    async with asyncio.timeout(30):
        while await world.reconcile(good, bad, gone) != {bad, gone}:  # a binding takes a moment to be known
            await world.tell(good, bad, gone)
    assert (await world.condition(good))["status"] == "True"
    for key in (bad, gone):
        condition = await world.condition(key)
        assert condition["reason"] == "KubernetesRefused"
        assert "cannot patch" in condition["message"]
    assert FINALIZER not in ((await world.read(bad)) or {})["metadata"].get("finalizers", [])
    await session.aiohttp_session.close()
