"""The epoch of a tenant: another one whenever remembered rights of its people may be wrong, and the same one else."""

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from kernel_common.ids import tenant_id

ACME, GLOBEX, INITECH = (tenant_id(name) for name in ("acme", "globex", "initech"))
EVERYONE = (ACME, GLOBEX, INITECH)


@pytest.fixture
def epochs(admin):
    async def read():
        return dict(zip(EVERYONE, await admin.mget([f"modules:epoch:{one}" for one in EVERYONE]), strict=True))

    return read


def changed(before, after):
    return {one for one in EVERYONE if before[one] != after[one]}


async def test_tenants_whose_modules_change_and_no_others(target, module, epochs):
    await target.apply_modules([module("shop", frozenset(EVERYONE)), module("crm", frozenset({ACME}))])
    first = await epochs()
    assert None not in first.values()
    await target.apply_modules([module("crm", frozenset({GLOBEX}))])
    second = await epochs()
    assert changed(first, second) == {ACME, GLOBEX}
    await target.remove_module("crm")
    third = await epochs()
    assert changed(second, third) == {GLOBEX}
    await target.apply_modules([replace(module("shop", frozenset(EVERYONE)), active=False)])
    assert changed(third, await epochs()) == set(EVERYONE)


@pytest.mark.parametrize("permissions", [(), ("crm.contacts.read",)])
async def test_every_tenant_of_a_module_whose_permissions_change(target, module, epochs, permissions):
    crm = module("crm", frozenset({ACME, GLOBEX}))
    await target.apply_modules([crm, module("shop", frozenset({INITECH}))])
    before = await epochs()
    await target.apply_modules([replace(crm, permissions=permissions)])
    assert changed(before, await epochs()) == {ACME, GLOBEX}


async def test_what_is_no_matter_of_rights_changes_none(target, admin, module, epochs, counted):
    crm = module("crm", frozenset({ACME}))
    await target.apply_modules([crm])
    before = await epochs()
    await target.apply_modules([replace(crm, version="2.0.0", publishes=(), notification_channels=())])
    await admin.delete("modules:tenants:crm")
    await target.apply_modules([replace(crm, version="2.0.0")])
    async with counted() as again:
        await target.apply_modules([replace(crm, version="2.0.0")])
    assert again.writes == 0
    assert await epochs() == before


async def test_a_block_that_comes_or_goes(target, tenant, epochs):
    acme, globex = tenant("acme"), tenant("globex")
    await target.apply_tenants([acme, globex])
    assert set((await epochs()).values()) == {None}, "nobody had rights in a new tenant"
    await target.apply_tenants([replace(acme, blocked=True), globex])
    blocked = await epochs()
    assert blocked[ACME]
    await target.apply_tenants([replace(acme, blocked=True, display_name="A"), globex])
    assert await epochs() == blocked
    await target.apply_tenants([acme, globex])
    assert changed(blocked, await epochs()) == {ACME}


@pytest.mark.parametrize("suspended", [False, True], ids=["serving", "suspended"])
async def test_a_removed_tenant_has_none_and_comes_back_with_another(target, admin, tenant, module, epochs, suspended):
    acme = tenant("acme", blocked=suspended)
    await target.apply_tenants([acme])
    await target.apply_modules([module("crm", frozenset({ACME}))])
    before = (await epochs())[ACME]
    await target.remove_tenant(ACME)
    assert (await epochs())[ACME] is None
    assert (await target.remove_tenant(ACME)).changes == []
    await target.apply_tenants([replace(acme, blocked=False)])
    assert (await epochs())[ACME] not in (None, before)


async def test_a_lost_membership_that_is_put_back(target, admin, module, epochs):
    crm = module("crm", frozenset({ACME, GLOBEX}))
    await target.apply_modules([crm])
    before = await epochs()
    await admin.delete(f"modules:active:{ACME}")
    await target.apply_modules([crm])
    assert changed(before, await epochs()) == {ACME}
    await admin.flushall()
    await target.apply_modules([crm])
    assert changed(before, await epochs()) == {ACME, GLOBEX}


async def test_the_change_and_its_epoch_are_one(target, valkey, module, admin):
    """A reader of both at once, beside a change that is made again and again, never finds one without the other."""
    crm, without = module("crm", frozenset({ACME})), module("crm")
    await target.apply_modules([crm])
    seen = {}
    async with Redis.from_url(valkey.gateway_url, decode_responses=True) as gateway:
        for number in range(40):
            async with gateway.pipeline(transaction=False) as ask:
                both = "return {redis.call('GET', ARGV[1]), redis.call('SISMEMBER', ARGV[2], 'crm')}"
                ask.eval(both, 0, f"modules:epoch:{ACME}", f"modules:active:{ACME}")
                [(epoch, active)], _ = await asyncio.gather(
                    ask.execute(), target.apply_modules([without if number % 2 else crm])
                )
            assert seen.setdefault(epoch, active) == active
    assert len(seen) > 20
