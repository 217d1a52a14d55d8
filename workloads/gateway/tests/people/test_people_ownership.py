"""Passing the ownership on."""

import asyncio

from people_world import Gateway, World

from kernel_gateway.access import Identity
from kernel_gateway.people.permissions import ADMIN, MEMBER, OWNER


async def test_the_ownership_passes_to_another_member(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner, next_owner = await world.person(tenant, "Owner"), await world.person(tenant, "Member")
    passed = await gateway.ask(owner, "POST", f"/members/{next_owner.id}/make-owner")
    assert [role["name"] for role in passed.body["roles"]] == ["Owner", "Member"]
    assert await world.roles_of(owner) == {ADMIN}
    assert await world.roles_of(next_owner) == {OWNER, MEMBER}
    again = await gateway.ask(owner, "POST", f"/members/{owner.id}/make-owner")
    assert (again.status, again.slug) == (403, "forbidden"), "whoever passed it on can't take it back"
    assert [(data["userId"], data["oldRoles"], data["newRoles"]) for _, data in await world.events(tenant)] == [
        (str(owner.id), ["Owner"], ["Admin"]),
        (str(next_owner.id), ["Member"], ["Owner", "Member"]),
    ]
    # From the very next request.
    assert (await gateway.ask(next_owner, "POST", f"/members/{owner.id}/block")).status == 200
    assert (await gateway.ask(owner, "GET", "/members")).status == 403


async def test_only_the_owner_in_person_passes_it_on_and_only_to_an_active_member(
    gateway: Gateway, world: World
) -> None:
    tenant = await world.tenant()
    owner, admin = await world.person(tenant, "Owner"), await world.person(tenant, "Admin")
    assert (await gateway.ask(admin, "POST", f"/members/{admin.id}/make-owner")).slug == "forbidden"
    someone = (await world.person(await world.tenant(), "Owner")).id
    acting = gateway.token(Identity(owner.id, tenant, ("Owner",), actor=someone))
    assert (await gateway.ask(acting, "POST", f"/members/{admin.id}/make-owner")).slug == "forbidden"
    for status in ("invited", "blocked"):
        person = await world.person(tenant, "Member", status=status)
        assert (await gateway.ask(owner, "POST", f"/members/{person.id}/make-owner")).slug == "conflict"
    assert (await gateway.ask(owner, "POST", f"/members/{owner.id}/make-owner")).status == 200
    assert await world.roles_of(owner) == {OWNER}
    assert await world.events(tenant) == []


async def test_of_many_transfers_at_once_one_happens(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner = await world.person(tenant, "Owner")
    others = [await world.person(tenant, "Member") for _ in range(6)]
    answers = await asyncio.gather(
        *(gateway.ask(owner, "POST", f"/members/{person.id}/make-owner") for person in others)
    )
    assert sorted(answer.status for answer in answers) == [200, 403, 403, 403, 403, 403]
    owners = [person for person in [owner, *others] if OWNER in await world.roles_of(person)]
    assert [others[place].id for place, answer in enumerate(answers) if answer.status == 200] == [owners[0].id]
    assert len(owners) == 1


async def test_the_next_owner_is_not_blocked_or_removed_meanwhile(gateway: Gateway, world: World) -> None:
    for method, action in (("POST", "/block"), ("DELETE", "")):
        tenant = await world.tenant()
        owner, admin = await world.person(tenant, "Owner"), await world.person(tenant, "Admin")
        person = await world.person(tenant, "Member")
        passed, ended = await asyncio.gather(
            gateway.ask(owner, "POST", f"/members/{person.id}/make-owner"),
            gateway.ask(admin, method, f"/members/{person.id}{action}"),
        )
        owner_is_active = await world.admin.fetchval(
            "SELECT m.status = 'active' FROM auth.member_roles JOIN auth.members AS m USING (tenant_id, user_id)"
            " WHERE tenant_id = $1 AND role_id = $2",
            tenant,
            OWNER,
        )
        assert owner_is_active is True
        assert (passed.status == 200) == (ended.status == 409)
