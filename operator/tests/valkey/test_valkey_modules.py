"""Rights, routes and memberships of modules: what the gateway reads, repaired when any part is lost."""

import json
from dataclasses import replace

import pytest

from kernel_common.ids import tenant_id

ACME, GLOBEX, INITECH = (tenant_id(name) for name in ("acme", "globex", "initech"))
EVERYONE = (ACME, GLOBEX, INITECH)


async def test_what_the_readers_find(target, dump, module):
    crm = module(tenants=frozenset({ACME, GLOBEX}))
    outcome = (await target.apply_modules([crm]))["crm"]
    assert set(outcome.changes) == {
        "set the permissions of crm in Valkey",
        "set the event rights of crm in Valkey",
        "set the notification channels of crm in Valkey",
        "set the route of crm in Valkey",
        "activated crm for 2 tenants",
    }
    held = await dump()
    assert json.loads(held["permissions:registry"]["crm"]) == ["crm.contacts.read", "crm.contacts.create"]
    assert json.loads(held["events:rights"]["crm"]) == {
        "publishes": ["crm.contact.created"],
        "subscribes": ["money.wallet.credited"],
    }
    assert json.loads(held["notify:channels"]["crm"]) == ["crm-alerts"]
    assert json.loads(held["routes:table"]["crm"]) == {
        "prefix": "/api/v1/crm",
        "namespace": "crm",
        "service": "crm",
        "port": 8080,
        "rules": [{"methods": ["GET"], "path": "/contacts", "permission": "crm.contacts.read"}],
        "maxBodyBytes": 1024,
        "healthPath": "/live",
        "version": "1.4.0",
    }
    assert held[f"modules:active:{ACME}"] == held[f"modules:active:{GLOBEX}"] == {"crm"}
    assert held["modules:tenants:crm"] == {str(ACME), str(GLOBEX)}


async def test_unchanged_modules_cost_one_round_trip_and_no_write(target, module, counted):
    modules = [module(f"m{number}", frozenset(EVERYONE)) for number in range(20)]
    await target.apply_modules(modules)
    async with counted() as again:
        outcomes = await target.apply_modules(modules)
    assert again.writes == 0
    assert (again.calls["hmget"], again.calls["smembers"]) == (4, 20 + len(EVERYONE))
    assert not any(outcome.changes for outcome in outcomes.values())


async def test_only_the_difference_of_tenants_is_written(target, admin, module, counted):
    await target.apply_modules([module("crm", frozenset({ACME, GLOBEX})), module("shop", frozenset({ACME}))])
    async with counted() as moved:
        outcome = (await target.apply_modules([module("crm", frozenset({GLOBEX, INITECH}))]))["crm"]
    assert outcome.changes == ["activated crm for 1 tenant", "withdrew crm from 1 tenant"]
    assert (moved.calls["sadd"], moved.calls["srem"]) == (2, 2)
    assert await admin.smembers(f"modules:active:{ACME}") == {"shop"}
    assert await admin.smembers(f"modules:active:{INITECH}") == {"crm"}


@pytest.mark.parametrize(
    "damage",
    [
        ("flushall",),
        ("delete", "modules:tenants:crm"),
        ("delete", f"modules:active:{ACME}"),
        ("srem", f"modules:active:{ACME}", "crm"),
        ("srem", "modules:tenants:crm", str(ACME)),
        ("sadd", "modules:tenants:crm", str(INITECH)),
        ("delete", "routes:table"),
        ("hdel", "permissions:registry", "crm"),
        ("hset", "events:rights", "crm", "{}"),
        ("hset", "routes:table", "crm", "not json"),
        ("delete", "notify:channels"),
    ],
    ids=lambda damage: "-".join(damage[:2]),
)
async def test_damage_is_repaired(target, admin, module, dump, damage):
    modules = [module("crm", frozenset({ACME, GLOBEX})), module("shop", frozenset({ACME}))]
    await target.apply_modules(modules)
    before = await dump()
    await getattr(admin, damage[0])(*damage[1:])
    outcomes = await target.apply_modules(modules)
    assert outcomes["crm"].changes
    assert await dump() == before
    assert not any(outcome.changes for outcome in (await target.apply_modules(modules)).values())


@pytest.mark.parametrize("key", ["routes:table", "modules:tenants:crm", f"modules:active:{ACME}"])
async def test_a_key_of_another_type_is_made_anew(target, admin, module, dump, key):
    crm = module(tenants=frozenset({ACME}))
    await target.apply_modules([crm])
    before = await dump()
    await admin.set(key, "rubbish")
    await target.apply_modules([crm])
    assert await dump() == before


async def test_a_module_that_is_off_has_permissions_and_nothing_else(target, admin, module, dump):
    crm = module(tenants=frozenset({ACME, GLOBEX}))
    await target.apply_modules([crm])
    outcome = (await target.apply_modules([replace(crm, active=False)]))["crm"]
    assert "withdrew crm from 2 tenants" in outcome.changes
    assert await dump() == {"permissions:registry": {"crm": json.dumps(list(crm.permissions), separators=(",", ":"))}}
    await target.apply_modules([crm])
    assert await admin.smembers(f"modules:active:{ACME}") == {"crm"}


async def test_removal_leaves_the_others(target, module, dump):
    shop = module("shop", frozenset({ACME}))
    await target.apply_modules([shop])
    before = await dump()
    await target.apply_modules([module("crm", frozenset({ACME, GLOBEX}))])
    assert (await target.remove_module("crm")).changes
    assert await dump() == before
    assert (await target.remove_module("crm")).changes == []


async def test_a_complete_scan_removes_what_nobody_wants(target, admin, module, dump):
    shop = module("shop", frozenset({ACME}))
    await target.apply_modules([shop])
    before = await dump()
    await target.apply_modules([module("crm", frozenset({ACME, GLOBEX}))])
    await admin.delete("modules:tenants:crm")
    await admin.sadd(f"modules:active:{INITECH}", "ghost", "shop")
    outcomes = await target.apply_modules([shop], tenants=EVERYONE)
    assert "withdrew crm from 2 tenants" in outcomes["crm"].changes
    assert outcomes["ghost"].changes == ["withdrew ghost from 1 tenant"]
    assert outcomes["shop"].changes == ["withdrew shop from 1 tenant"]
    assert await dump() == before
    assert (await target.apply_modules([shop], tenants=EVERYONE))["shop"].changes == []


async def test_only_the_changed_tables_get_a_new_version(target, admin, module):
    async def versions():
        return {key: await admin.get(key) for key in await admin.keys("kernel:version:*")}

    crm = module(tenants=frozenset({ACME}))
    await target.apply_modules([crm])
    first = await versions()
    assert set(first) == {
        f"kernel:version:{table}" for table in ("permissions", "events", "notify", "routes", "modules")
    }
    async with admin.pubsub() as ear:
        await ear.subscribe("kernel:changes")
        assert (await ear.get_message(timeout=5))["type"] == "subscribe"
        await target.apply_modules([replace(crm, version="1.5.0")])
        message = await ear.get_message(timeout=5)
        second = await versions()
        assert {key for key in second if second[key] != first[key]} == {"kernel:version:routes"}
        assert message["data"] == f"routes {second['kernel:version:routes']}"
        assert await ear.get_message(timeout=0.1) is None


async def test_a_module_without_route_events_or_channels(target, module, dump):
    bare = module(permissions=(), publishes=(), subscribes=(), route=None, notification_channels=())
    await target.apply_modules([bare])
    assert await dump() == {}


async def test_a_public_rule_has_no_permission(target, admin, module):
    crm = module()
    rule = replace(crm.route.rules[0], permission=None)
    await target.apply_modules([replace(crm, route=replace(crm.route, rules=(rule,)))])
    assert json.loads(await admin.hget("routes:table", "crm"))["rules"][0]["permission"] is None
