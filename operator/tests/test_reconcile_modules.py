"""Modules against a real API server: each branch, what it asks of the systems, and what it writes."""

import base64
from typing import Any

import pytest
from reconcile_world import World

from kernel_operator.desired import Refusal, Unavailable
from kernel_operator.kube import MODULES

TAKEN = Refusal("SlugTaken", "spec.moduleName: the slug belongs to another, whose data is retained")


def route(prefix: str) -> dict[str, Any]:
    rule = {"methods": ["GET"], "path": "/", "public": True}
    return {"prefix": prefix, "service": {"name": "s", "port": 80}, "rules": [rule]}


async def secret_of(world: World, name: str) -> dict[str, Any] | None:
    return await world.people.read_secret("default", f"{name}-database")


async def test_a_new_module_costs_three_writes_and_an_event_and_an_unchanged_one_none(world: World) -> None:
    key = await world.module("a")
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert world.kube.writes == ["PATCH object", "POST secrets", "PATCH status", "POST events"]
    status = await world.status(key)
    assert (status["phase"], status["installedVersion"], status["tenants"]) == ("Active", "1.0.0", 0)
    assert await world.tell(key) == []
    assert await world.reconcile(key) == set()
    assert world.kube.writes == []
    systems = [system for system, _, _ in world.calls]
    assert (systems[0], systems[-1]) == ("PostgreSQL", "Valkey"), "who decides first, what makes it visible last"
    assert set(systems) == {"PostgreSQL", "Kafka", "ClickHouse", "Valkey"}


async def test_who_is_refused_by_the_plan_gets_no_finalizer_and_no_login(world: World) -> None:
    key = await world.module("a", tenants={"all": True})
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert world.kube.writes == ["PATCH status", "POST events"]
    assert world.calls == []
    assert await secret_of(world, key.name) is None
    await world.delete(key)
    assert await world.read(key) is None


async def test_who_is_refused_a_retained_slug_changes_nothing_of_it(world: World) -> None:
    key = await world.module("a")
    slug = world.slug("a")
    world.postgres.refusals[slug] = TAKEN
    world.postgres.holders[slug] = ("@former/a", "default", "former")
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert [system for system, _, _ in world.calls] == ["PostgreSQL"], "its topics and tables keep their retention"
    assert (await world.condition(key))["reason"] == "SlugTaken"
    assert (await world.condition(key, "EventsReady"))["status"] == "Unknown"
    assert (await world.status(key))["phase"] == "Failed"
    await world.delete(key)
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert world.calls == [("PostgreSQL", "holder", slug)], "nor does it take anything with it"
    assert await world.read(key) is None


async def test_a_database_that_is_away_holds_back_a_new_module_and_not_an_old_one(world: World) -> None:
    old, new = await world.module("old"), await world.module("new")
    await world.settle(old)
    world.postgres.trouble = Unavailable("PostgreSQL", "away")
    await world.tell(new)
    assert await world.reconcile(old, new) == {old, new}
    assert [subject for system, _, subject in world.calls if system == "Kafka"] == [world.slug("old")]
    assert world.called("Valkey") == [], "the former version serves"
    assert (await world.status(old))["phase"] == "Active"
    assert (await world.status(new))["phase"] == "Installing"


@pytest.mark.parametrize("system", ["kafka", "clickhouse"])
async def test_nothing_is_shown_before_all_of_it_stands(world: World, system: str) -> None:
    key = await world.module("a")
    getattr(world, system).trouble = Unavailable("X", "away")
    await world.tell(key)
    assert await world.reconcile(key) == {key}
    assert world.called("Valkey") == []
    assert (await world.condition(key))["reason"] == "XUnavailable"
    assert (await world.condition(key, "GatewayReady"))["status"] == "Unknown"
    getattr(world, system).trouble = None
    assert await world.reconcile(key) == set()
    assert (await world.status(key))["phase"] == "Active"


async def test_an_update_that_is_refused_leaves_the_former_version(world: World) -> None:
    key = await world.module("a")
    await world.settle(key)
    world.postgres.refusals[world.slug("a")] = Refusal("IncompatibleChange", "spec.dataApi.models: ...")
    await world.edit(key, {"spec": {"version": "2.0.0", "events": {"retentionHours": 1}}})
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert [system for system, _, _ in world.calls] == ["PostgreSQL"]
    status = await world.status(key)
    assert (status["phase"], status["installedVersion"]) == ("Active", "1.0.0")
    assert (await world.condition(key))["reason"] == "IncompatibleChange"


async def test_a_secret_of_somebody_else_is_neither_used_nor_deleted(world: World) -> None:
    key = await world.module("a")
    await world.secret(f"{key.name}-database", token="theirs")
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert (await world.condition(key))["reason"] == "SecretTaken"
    assert world.called("PostgreSQL") == []
    await world.delete(key)
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert await world.read(key) is None
    found = await secret_of(world, key.name)
    assert found is not None
    assert base64.b64decode(found["data"]["token"]) == b"theirs"


@pytest.mark.parametrize("wrong", ["", "short", "with space and a length that would otherwise do very well here"])
async def test_a_secret_with_garbage_gets_a_new_password(world: World, wrong: str) -> None:
    key = await world.module("a")
    await world.settle(key)
    path = f"/api/v1/namespaces/default/secrets/{key.name}-database"
    change = {"data": {"password": base64.b64encode(wrong.encode()).decode(), "DATABASE_URL": None}}
    await world.people.call("PATCH", path, change, content_type="application/merge-patch+json")
    assert await world.reconcile(key) == set()
    data = {
        name: base64.b64decode(v).decode() for name, v in ((await secret_of(world, key.name)) or {})["data"].items()
    }
    assert len(data["password"]) >= 40
    expected = f"postgres://module_{world.slug('a')}:{data['password']}@db.example:5432/platform"
    assert data["DATABASE_URL"] == expected


async def test_a_secret_that_can_not_be_mended_is_told(world: World) -> None:
    key = await world.module("a")
    await world.settle(key)
    path = f"/api/v1/namespaces/default/secrets/{key.name}-database"
    for change in ({"data": {"host": base64.b64encode(b"elsewhere").decode()}}, {"immutable": True}):
        await world.people.call("PATCH", path, change, content_type="application/merge-patch+json")
    assert await world.reconcile(key) == {key}
    message = (await world.condition(key))["message"]
    assert f"{key.name}-database" in message
    assert "immutable" in message
    password = ((await secret_of(world, key.name)) or {})["data"]["password"]
    assert base64.b64decode(password).decode() not in str(await world.read(key))
    await world.delete(key)
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert await secret_of(world, key.name) is None


@pytest.mark.parametrize("confirmed", [True, False])
async def test_what_is_visible_goes_first_and_data_only_when_confirmed(world: World, confirmed: bool) -> None:
    annotations = {"platform-kernel.io/confirm-deletion": world.slug("a")} if confirmed else {}
    key = await world.module("a", deletionPolicy="Delete", annotations=annotations)
    await world.settle(key)
    await world.delete(key)
    await world.tell(key)
    assert await world.reconcile(key) == set()
    calls = [(system, call) for system, call, _ in world.calls]
    what = "drop" if confirmed else "close"
    assert calls[:2] == [("PostgreSQL", "holder"), ("Valkey", "remove")]
    assert set(calls[2:]) == {("PostgreSQL", what), ("ClickHouse", what), ("Kafka", what)}
    assert world.kube.writes == ["DELETE secrets", "PATCH object"]
    assert await secret_of(world, key.name) is None
    assert await world.read(key) is None


@pytest.mark.parametrize("system", ["postgres", "clickhouse", "valkey", "kafka"])
async def test_a_deletion_waits_for_a_system_that_is_away_and_says_so(world: World, system: str) -> None:
    key = await world.module("a")
    await world.settle(key)
    getattr(world, system).trouble = Unavailable("X", "away")
    await world.delete(key)
    await world.tell(key)
    assert await world.reconcile(key) == {key}
    assert (await world.status(key))["phase"] == "Deleting"
    assert (await world.condition(key))["reason"] == "XUnavailable"
    assert await secret_of(world, key.name) is not None
    getattr(world, system).trouble = None
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert await world.read(key) is None


async def test_a_rival_takes_nothing_with_it_while_the_database_knows_no_holder(world: World) -> None:
    first = await world.module("first", slug=world.slug("x"))
    await world.tell(first)
    world.postgres.trouble = Unavailable("PostgreSQL", "away")
    await world.reconcile(first)
    world.postgres.trouble = None
    rival = await world.module(
        "rival", slug=world.slug("x"), deletionPolicy="Delete", finalizers=["platform-kernel.io/finalizer"]
    )
    await world.delete(rival)
    await world.tell(rival)
    assert await world.reconcile(rival) == set()
    assert [call for _, call, _ in world.calls] == ["holder"]
    assert await world.read(rival) is None


async def test_nobody_edits_himself_into_the_route_of_another(world: World) -> None:
    """The older one asks for what the younger one has: who has it keeps it, also after a restart."""
    old = await world.module("old", route=route(f"/api/v1/old{world.mark}"))
    await world.settle(old)
    young = await world.module("young", route=route(f"/api/v1/young{world.mark}"))
    await world.settle(young)
    await world.edit(old, {"spec": {"route": route(f"/api/v1/young{world.mark}/deep")}})
    await world.tell(old)
    await world.reconcile(young, old)
    for restarted in (False, True):
        if restarted:
            world.restart()
            await world.tell(old, young)
            await world.reconcile(old, young)
            assert world.kube.writes == []
        assert (await world.condition(old))["reason"] == "RouteTaken"
        assert (await world.condition(young))["status"] == "True"
    await world.edit(young, {"spec": {"version": "1.0.1"}})
    await world.tell(young)
    await world.reconcile(old, young)
    assert (await world.condition(young))["status"] == "True", "nor while the holder is edited"
    await world.delete(young)
    await world.tell(young)
    await world.reconcile(young)
    assert old in await world.tell(young), "its end brings who waits for it"
    await world.reconcile(old)
    assert (await world.condition(old))["status"] == "True"


async def test_tenants_that_come_and_go_bring_the_modules(world: World) -> None:
    name = f"t-{world.mark}"
    key = await world.module("a", tenants={"names": [name]})
    await world.settle(key)
    assert (await world.condition(key))["reason"] == "TenantNotFound"
    tenant = await world.tenant("t")
    assert key in await world.tell(tenant)
    await world.reconcile(tenant)
    assert key in await world.queue.take(MODULES, 10), "when the tenant is in the database"
    world.queue.done(key)
    await world.settle(key)
    assert (await world.status(key))["tenants"] == 1
    await world.delete(tenant)
    assert key in await world.tell(tenant)
    await world.reconcile(tenant)
    assert key in await world.queue.take(MODULES, 10)
    await world.settle(key)
    assert (await world.condition(key))["reason"] == "TenantNotFound"


async def test_an_outage_of_the_database_takes_no_module_from_its_tenants(world: World) -> None:
    """Who is in the database is not forgotten with the outage, nor with a restart in it."""
    tenant = await world.tenant("t")
    await world.settle(tenant)
    key = await world.module("a", tenants={"names": [tenant.name]})
    await world.settle(key)
    world.postgres.trouble = Unavailable("PostgreSQL", "away")
    await world.reconcile(tenant)
    world.restart()
    await world.tell(tenant, key)
    world.postgres.trouble = None
    assert await world.reconcile(key) == set()
    assert (await world.status(key))["tenants"] == 1
    assert (await world.condition(key))["status"] == "True"


async def test_one_that_breaks_takes_no_other_with_it(world: World) -> None:
    good, bad = await world.module("good"), await world.module("bad")
    await world.settle(bad)
    await world.delete(bad)
    body = await world.read(bad)
    assert body is not None
    world.cluster.observe(MODULES, {**body, "spec": None})
    await world.tell(good)
    assert await world.reconcile(good, bad) == {bad}
    assert (await world.condition(good))["status"] == "True"


async def test_a_repair_is_told_once(world: World) -> None:
    key = await world.module("a")
    await world.settle(key)
    world.kafka.changes[world.slug("a")] = ["created topic"]
    await world.reconcile(key)
    await world.reconcile(key)
    assert (await world.events(key)).count("Repaired") == 1
