"""Members over HTTP."""

import asyncio

import pytest
from people_world import Gateway, World

from kernel_gateway.people.permissions import ADMIN, MEMBER, OWNER


async def test_members_are_listed_with_their_roles(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner = await world.person(tenant, "Owner")
    role = await world.role(tenant, "users.list", name="Reader")
    people = [await world.person(tenant, "Member", role), await world.person(tenant), await world.person(tenant)]
    page = await gateway.ask(owner, "GET", "/members?limit=3")
    assert page.body["meta"]["hasMore"] is True
    rest = await gateway.ask(owner, "GET", f"/members?limit=3&cursor={page.body['meta']['cursor']}")
    listed = page.body["data"] + rest.body["data"]
    assert [member["userId"] for member in listed] == sorted(str(person.id) for person in [owner, *people])
    reader = next(member for member in listed if member["userId"] == str(people[0].id))
    assert reader["roles"] == [{"id": str(MEMBER), "name": "Member"}, {"id": str(role), "name": "Reader"}]
    assert (reader["status"], reader["displayName"], reader["emailVerified"]) == ("active", "Somebody", False)
    assert (await gateway.ask(owner, "GET", f"/members/{people[0].id}")).body == reader


async def test_of_an_invited_account_only_the_address_is_told(gateway: Gateway, world: World) -> None:
    """It may be somebody whom the tenant knows nothing of."""
    tenant = await world.tenant()
    owner, invited = await world.person(tenant, "Owner"), await world.person(tenant, status="invited")
    await world.admin.execute("UPDATE auth.users SET email_verified_at = now() WHERE id = $1", invited.id)
    member = (await gateway.ask(owner, "GET", f"/members/{invited.id}")).body
    assert (member["status"], member["displayName"], member["emailVerified"]) == ("invited", "", False)


async def test_roles_are_assigned_and_withdrawn(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    admin, person = await world.person(tenant, "Admin"), await world.person(tenant, "Member")
    role = await world.role(tenant, "pcrm.deals.read", name="Seller")
    path, choice = f"/members/{person.id}", {"roleIds": [str(role), str(MEMBER), str(role)]}
    given = await gateway.ask(admin, "POST", f"{path}/assign-roles", choice)
    assert [r["name"] for r in given.body["roles"]] == ["Member", "Seller"]
    assert (await gateway.ask(admin, "POST", f"{path}/assign-roles", choice)).body == given.body
    left = await gateway.ask(admin, "POST", f"{path}/withdraw-roles", {"roleIds": [str(MEMBER), str(ADMIN)]})
    assert [r["name"] for r in left.body["roles"]] == ["Seller"]
    told = [(kind, data["oldRoles"], data["newRoles"]) for kind, data in await world.events(tenant)]
    assert told == [
        ("auth.role.changed", ["Member"], ["Member", "Seller"]),
        ("auth.role.changed", ["Member", "Seller"], ["Seller"]),
    ], "what changes nothing is not told"
    assert all(
        (data["userId"], data["by"]) == (str(person.id), str(admin.id)) for _, data in await world.events(tenant)
    )


async def test_the_owner_is_never_blocked_removed_or_stripped(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner, admin = await world.person(tenant, "Owner"), await world.person(tenant, "Admin")
    for who in (admin, owner):
        for method, action, body in (
            ("POST", "/block", None),
            ("DELETE", "", None),
            ("POST", "/withdraw-roles", {"roleIds": [str(OWNER)]}),
        ):
            answer = await gateway.ask(who, method, f"/members/{owner.id}{action}", body)
            assert (answer.status, answer.slug) == (409, "conflict")
    for who in (admin, owner):
        answer = await gateway.ask(who, "POST", f"/members/{admin.id}/assign-roles", {"roleIds": [str(OWNER)]})
        assert (answer.status, answer.fields) == (409, [("roleIds.0", "OWNER")])
    assert await world.roles_of(owner) == {OWNER}
    assert (await gateway.ask(owner, "GET", "/members")).status == 200


async def test_a_blocked_member_is_refused_at_once_and_has_no_session(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    admin, person = await world.person(tenant, "Admin"), await world.person(tenant, "Admin")
    await world.admin.execute(
        "INSERT INTO auth.refresh_tokens (tenant_id, user_id, family_id, token_hash, expires_at)"
        " VALUES ($1, $2, uuidv7(), sha256($3::text::bytea), now() + interval '1 hour')",
        tenant,
        person.id,
        str(person.id),
    )
    assert (await gateway.ask(person, "GET", "/members")).status == 200
    blocked = await gateway.ask(admin, "POST", f"/members/{person.id}/block")
    assert (blocked.status, blocked.body["status"]) == (200, "blocked")
    assert (await gateway.ask(person, "GET", "/members")).status == 403
    assert (await gateway.ask(admin, "POST", f"/members/{person.id}/block")).status == 200
    assert await world.admin.fetchval(
        "SELECT bool_and(revoked_at IS NOT NULL) FROM auth.refresh_tokens WHERE user_id = $1", person.id
    )
    unblocked = await gateway.ask(admin, "POST", f"/members/{person.id}/unblock")
    assert (unblocked.body["status"], [r["name"] for r in unblocked.body["roles"]]) == ("active", ["Admin"])
    assert (await gateway.ask(person, "GET", "/members")).status == 200
    assert [(kind, data["status"]) for kind, data in await world.events(tenant)] == [
        ("auth.user.updated", "blocked"),
        ("auth.user.updated", "active"),
    ]


async def test_a_removed_member_is_gone_from_this_tenant_alone(gateway: Gateway, world: World) -> None:
    here, there = await world.tenant(), await world.tenant()
    admin, person = await world.person(here, "Admin"), await world.person(here, "Admin")
    elsewhere = await world.join(person.id, there, "Owner")
    assert (await gateway.ask(admin, "DELETE", f"/members/{person.id}")).status == 204
    assert (await gateway.ask(person, "GET", "/members")).status == 403
    assert (await gateway.ask(admin, "GET", f"/members/{person.id}")).slug == "not-found"
    assert (await gateway.ask(admin, "DELETE", f"/members/{person.id}")).slug == "not-found"
    assert (await gateway.ask(elsewhere, "GET", "/members")).status == 200
    assert [kind for kind, _ in await world.events(here)] == ["auth.role.changed", "auth.user.deleted"]


async def test_another_tenants_member_is_not_there(gateway: Gateway, world: World) -> None:
    mine, theirs = await world.tenant(), await world.tenant()
    owner, stranger = await world.person(mine, "Owner"), await world.person(theirs, "Member")
    choice = {"roleIds": [str(MEMBER)]}
    for method, action, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/block", None),
        ("POST", "/unblock", None),
        ("POST", "/make-owner", None),
        ("POST", "/assign-roles", choice),
        ("POST", "/withdraw-roles", choice),
    ):
        answer = await gateway.ask(owner, method, f"/members/{stranger.id}{action}", body)
        assert (answer.status, answer.slug) == (404, "not-found"), (method, action)
    assert [m["userId"] for m in (await gateway.ask(owner, "GET", "/members")).body["data"]] == [str(owner.id)]
    assert await world.roles_of(stranger) == {MEMBER}


@pytest.mark.parametrize("body", [{}, {"roleIds": []}, {"roleIds": ["x"]}, {"roleIds": [str(MEMBER)] * 201}])
async def test_a_wrong_choice_of_roles_is_refused(gateway: Gateway, world: World, body: object) -> None:
    owner = await world.person(await world.tenant(), "Owner")
    answer = await gateway.ask(owner, "POST", f"/members/{owner.id}/assign-roles", body)
    assert (answer.status, answer.body["errors"][0]["field"].partition(".")[0]) == (400, "roleIds")


async def test_who_assigns_roles_at_once_undoes_nobodys_work(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner, person = await world.person(tenant, "Owner"), await world.person(tenant)
    roles = [await world.role(tenant) for _ in range(8)]
    taken = roles[0]
    await gateway.ask(owner, "POST", f"/members/{person.id}/assign-roles", {"roleIds": [str(taken)]})
    answers = await asyncio.gather(
        *(
            gateway.ask(owner, "POST", f"/members/{person.id}/assign-roles", {"roleIds": [str(role)]})
            for role in roles[1:]
        ),
        gateway.ask(owner, "POST", f"/members/{person.id}/withdraw-roles", {"roleIds": [str(taken)]}),
    )
    assert {answer.status for answer in answers} == {200}
    assert await world.roles_of(person) == set(roles[1:])


async def test_a_role_is_either_deleted_or_assigned(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner = await world.person(tenant, "Owner")
    for _ in range(5):
        role, person = await world.role(tenant), await world.person(tenant)
        deleted, assigned = await asyncio.gather(
            gateway.ask(owner, "DELETE", f"/roles/{role}"),
            gateway.ask(owner, "POST", f"/members/{person.id}/assign-roles", {"roleIds": [str(role)]}),
        )
        assert (deleted.status, assigned.status) in ((204, 400), (409, 200))


async def test_a_member_is_removed_for_good_although_roles_are_assigned_meanwhile(
    gateway: Gateway, world: World
) -> None:
    tenant = await world.tenant()
    owner = await world.person(tenant, "Owner")
    role = await world.role(tenant)
    for _ in range(5):
        person = await world.person(tenant, "Member")
        removed, *assigned = await asyncio.gather(
            gateway.ask(owner, "DELETE", f"/members/{person.id}"),
            *(
                gateway.ask(owner, "POST", f"/members/{person.id}/assign-roles", {"roleIds": [str(role)]})
                for _ in range(2)
            ),
        )
        assert removed.status == 204
        assert {answer.status for answer in assigned} <= {200, 404}
        assert (await gateway.ask(owner, "GET", f"/members/{person.id}")).status == 404


async def test_who_loses_a_right_can_no_longer_use_it_in_a_request_that_is_under_way(
    gateway: Gateway, world: World
) -> None:
    """Of two who withdraw each other's rights at the same time one succeeds: the other has none any more."""
    tenant = await world.tenant()
    for _ in range(5):
        role = await world.role(tenant, "roles.assign", "roles.list")
        first, second = await world.person(tenant, role), await world.person(tenant, role)
        choice = {"roleIds": [str(role)]}
        answers = await asyncio.gather(
            gateway.ask(first, "POST", f"/members/{second.id}/withdraw-roles", choice),
            gateway.ask(second, "POST", f"/members/{first.id}/withdraw-roles", choice),
        )
        assert sorted(answer.status for answer in answers) == [200, 403]
        assert len(await world.roles_of(first)) + len(await world.roles_of(second)) == 1
