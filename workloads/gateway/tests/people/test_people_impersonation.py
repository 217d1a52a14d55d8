"""Acting as somebody else."""

import time
from typing import Any
from uuid import uuid4

import pytest
from people_world import Answer, Gateway, Person, World

from kernel_gateway.tokens.tokens import verify


async def a_platform_owner(world: World, *roles: str) -> Person:
    person = await world.person(await world.tenant(), *(roles or ("Owner",)))
    await world.admin.execute("UPDATE auth.users SET platform_owner = true WHERE id = $1", person.id)
    return person


async def impersonate(gateway: Gateway, who: Person | str, tenant: object, **fields: Any) -> Answer:
    body = {"tenantId": str(tenant), "reason": "Support case 4711", **fields}
    return await gateway.ask(who, "POST", "/auth/impersonate", body)


async def test_the_platforms_owner_acts_as_a_tenants_owner(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    root, owner = await a_platform_owner(world), await world.person(tenant, "Owner")
    answer = await impersonate(gateway, root, tenant, note="asked by phone")
    assert answer.status == 200
    assert (answer.body["userId"], answer.body["tenantId"], answer.body["expiresIn"]) == (
        str(owner.id),
        str(tenant),
        900,
    )
    assert not any("refresh" in name.lower() for name in answer.body)
    assert "Set-Cookie" not in answer.headers
    token, settings = answer.body["accessToken"], gateway.services.settings
    claims = verify(token, gateway.services.keys, settings.gateway_public_url, time.time())
    assert (claims.user, claims.tenant, claims.roles, claims.actor) == (owner.id, tenant, ("Owner",), root.id)
    assert claims.expires - claims.issued == 900
    [(kind, told)] = await world.events(tenant)
    assert kind == "auth.user.impersonated"
    assert (told["userId"], told["actorId"], told["tokenId"]) == (str(owner.id), str(root.id), str(claims.id))
    assert (told["reason"], told["note"]) == ("Support case 4711", "asked by phone")
    assert token not in str(told)
    # What is done with it says who did it.
    assert (await gateway.ask(token, "POST", "/roles", {"name": "made by support"})).status == 201
    _, (_, made) = await world.events(tenant)
    assert (made["by"], made["actorId"]) == (str(owner.id), str(root.id))


async def test_it_has_the_members_rights_and_no_more(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    root, member = await a_platform_owner(world), await world.person(tenant, "Member")
    token = (await impersonate(gateway, root, tenant, userId=str(member.id))).body["accessToken"]
    assert (await gateway.ask(token, "GET", "/members")).slug == "forbidden"
    owner = await world.person(tenant, "Owner")
    token = (await impersonate(gateway, root, tenant)).body["accessToken"]
    assert (await gateway.ask(token, "POST", f"/members/{member.id}/make-owner")).slug == "forbidden"
    further = await impersonate(gateway, token, tenant, userId=str(member.id))
    assert further.slug == "forbidden"
    await world.admin.execute("UPDATE auth.users SET platform_owner = true WHERE id = $1", owner.id)
    further = await impersonate(gateway, token, tenant, userId=str(member.id))
    assert (further.slug, "further" in further.body["detail"]) == ("forbidden", True)


async def test_a_tenants_own_owner_impersonates_nobody(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner, member = await world.person(tenant, "Owner"), await world.person(tenant, "Member")
    answer = await impersonate(gateway, owner, tenant, userId=str(member.id))
    assert (answer.status, answer.slug) == (403, "forbidden")
    assert await world.events(tenant) == []


async def test_the_platforms_owner_needs_the_permission_too(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    await world.person(tenant, "Owner")
    assert (await impersonate(gateway, await a_platform_owner(world, "Member"), tenant)).slug == "forbidden"


async def test_only_an_active_member_of_a_living_tenant_is_impersonated(gateway: Gateway, world: World) -> None:
    root, tenant = await a_platform_owner(world), await world.tenant()
    for nobody in (uuid4(), tenant):
        answer = await impersonate(gateway, root, nobody)
        assert (answer.status, answer.slug) == (404, "not-found"), "no such tenant, or no owner yet"
    stranger, blocked = await world.person(await world.tenant(), "Owner"), await world.person(tenant, status="blocked")
    for user in (stranger.id, blocked.id, uuid4()):
        assert (await impersonate(gateway, root, tenant, userId=str(user))).slug == "not-found"
    await world.person(tenant, "Owner")
    await world.admin.execute("UPDATE kernel.tenants SET blocked = true WHERE id = $1", tenant)
    assert (await impersonate(gateway, root, tenant)).slug == "tenant-blocked"
    await world.admin.execute("UPDATE kernel.tenants SET status = 'retired', blocked = false WHERE id = $1", tenant)
    assert (await impersonate(gateway, root, tenant)).slug == "not-found"
    assert await world.events(tenant) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"reason": ""}, "reason"),
        ({"reason": "x" * 201}, "reason"),
        ({"note": "a\x00b"}, "note"),
        ({"tenantId": "x"}, "tenantId"),
    ],
)
async def test_a_wrong_field_of_an_impersonation_is_named(
    gateway: Gateway, world: World, change: dict[str, str], field: str
) -> None:
    root = await a_platform_owner(world)
    answer = await gateway.ask(root, "POST", "/auth/impersonate", {"tenantId": str(uuid4()), "reason": "x"} | change)
    assert (answer.status, answer.body["errors"][0]["field"]) == (400, field)
