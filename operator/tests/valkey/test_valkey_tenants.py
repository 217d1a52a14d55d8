"""The limits and the block of tenants: written once, repaired, announced, never touched when they are right."""

import asyncio
import json
from dataclasses import replace

import pytest

from kernel_operator.desired import TenantLimits


async def test_what_the_readers_find(target, admin, tenant):
    acme = tenant("acme", limits=TenantLimits(requests_per_minute=77, burst=5, admin_requests_per_minute=99))
    outcome = (await target.apply_tenants([acme]))[acme.id]
    assert outcome.refusal is None
    assert sorted(outcome.changes) == ["set the limits in Valkey", "set the rate limit in Valkey"]
    assert json.loads(await admin.get(f"rate_limit:config:{acme.id}")) == {"rps": 77, "burst": 5, "adminRps": 99}
    assert json.loads(await admin.get(f"tenant:limits:{acme.id}")) == {
        "notifications": {"maxConnections": 1000, "messagesPerSecond": 200},
        "money": {"maxOpenHoldsPerWallet": 100, "maxAmount": 10_000_000},
    }
    assert await admin.ttl(f"rate_limit:config:{acme.id}") == -1
    assert not await admin.exists(f"tenant:blocked:{acme.id}")


async def test_unchanged_tenants_cost_one_read_and_no_write(target, tenant, counted):
    tenants = [tenant(f"t{number}") for number in range(300)]
    async with counted() as first:
        await target.apply_tenants(tenants)
    assert (first.calls["mget"], first.calls["mset"], first.calls["exec"]) == (1, 1, 1)
    async with counted() as second:
        outcomes = await target.apply_tenants(tenants)
    assert second.writes == 0
    assert second.calls["mget"] == 1
    assert len(outcomes) == 300
    assert not any(outcome.changes for outcome in outcomes.values())


async def test_only_what_differs_is_written(target, admin, tenant, counted):
    acme, globex = tenant("acme"), tenant("globex")
    await target.apply_tenants([acme, globex])
    globex = replace(globex, limits=TenantLimits(burst=1))
    await admin.set(f"rate_limit:config:{acme.id}", '{"rps":1}')
    await admin.delete(f"tenant:limits:{acme.id}")
    outcomes = await target.apply_tenants([acme, globex])
    assert sorted(outcomes[acme.id].changes) == ["set the limits in Valkey", "set the rate limit in Valkey"]
    assert outcomes[globex.id].changes == ["set the rate limit in Valkey"]
    async with counted() as after:
        await target.apply_tenants([acme, globex])
    assert after.writes == 0


async def test_block_and_unblock(target, admin, tenant):
    acme = tenant("acme")
    await target.apply_tenants([acme])
    blocked = await target.apply_tenants([replace(acme, suspended=True, blocked=True)])
    assert blocked[acme.id].changes == ["blocked the tenant in Valkey"]
    assert await admin.get(f"tenant:blocked:{acme.id}") == "1"
    unblocked = await target.apply_tenants([acme])
    assert unblocked[acme.id].changes == ["unblocked the tenant in Valkey"]
    assert not await admin.exists(f"tenant:blocked:{acme.id}")


async def test_a_flushed_server_is_filled_again_with_a_new_version(target, admin, tenant, dump):
    tenants = [tenant("acme"), tenant("globex", suspended=True, blocked=True)]
    await target.apply_tenants(tenants)
    before, version = await dump(), await admin.get("kernel:version:tenants")
    await admin.flushall()
    await target.apply_tenants(tenants)
    assert await dump() == before
    assert await admin.get("kernel:version:tenants") not in (None, version)


async def test_a_lost_version_alone_is_put_back(target, admin, tenant):
    acme = tenant("acme")
    await target.apply_tenants([acme])
    await admin.delete("kernel:version:tenants")
    assert (await target.apply_tenants([acme]))[acme.id].changes == []
    assert await admin.get("kernel:version:tenants")


async def test_a_key_of_another_type_is_replaced(target, admin, tenant):
    acme = tenant("acme")
    await admin.sadd(f"rate_limit:config:{acme.id}", "x")
    await target.apply_tenants([acme])
    assert json.loads(await admin.get(f"rate_limit:config:{acme.id}"))["rps"] == 1000


async def test_readers_hear_of_a_change_and_find_it(target, admin, tenant):
    acme = tenant("acme")
    async with admin.pubsub() as ear:
        await ear.subscribe("kernel:changes")
        assert (await ear.get_message(timeout=5))["type"] == "subscribe"
        await target.apply_tenants([acme])
        message = await ear.get_message(timeout=5)
        table, version = message["data"].split()
        assert (table, version) == ("tenants", await admin.get("kernel:version:tenants"))
        await target.apply_tenants([acme])
        assert await ear.get_message(timeout=0.2) is None


async def test_removal_keeps_the_block(target, admin, tenant, module, dump):
    acme = tenant("acme")
    await target.apply_tenants([acme])
    await target.apply_modules([module(tenants=frozenset({acme.id}))])
    outcome = await target.remove_tenant(acme.id)
    assert outcome.changes == [
        "removed the rate limit from Valkey",
        "removed the limits from Valkey",
        "blocked the tenant in Valkey",
        "withdrew crm from the tenant in Valkey",
    ]
    left = await dump()
    assert {key: value for key, value in left.items() if str(acme.id) in key} == {f"tenant:blocked:{acme.id}": "1"}
    assert "modules:tenants:crm" not in left
    assert (await target.remove_tenant(acme.id)).changes == []


async def test_nothing_to_do_asks_nothing_that_fails(target):
    assert await target.apply_tenants([]) == {}


async def test_two_operators_at_once_agree(valkey, target, admin, tenant, dump):
    tenants = [tenant(f"t{number}", blocked=number % 3 == 0) for number in range(100)]
    await target.apply_tenants(tenants)
    alone = await dump()
    await admin.flushall()
    other = type(target)(valkey.operator_url)
    try:
        await asyncio.gather(*(which.apply_tenants(tenants) for which in (target, other) * 4))
    finally:
        await other.close()
    assert await dump() == alone


@pytest.mark.parametrize("count", [1, 2])
async def test_the_same_tenant_again_in_a_batch(target, tenant, count):
    acme = tenant("acme")
    outcomes = await target.apply_tenants([acme] * count)
    assert list(outcomes) == [acme.id]
