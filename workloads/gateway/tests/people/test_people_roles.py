"""Roles over HTTP."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from people_world import MODULE, PERMISSIONS, Gateway, World

from kernel_common.tenancy import tenant_transaction
from kernel_gateway.people.permissions import ADMIN, MEMBER, OWNER, SYSTEM, Catalogue, covers
from kernel_gateway.people.roles import MOST_ROLES


async def test_a_role_is_made_read_changed_and_deleted(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner = await world.person(tenant, "Owner")
    asked = {"name": "Accountant", "description": "Sees numbers", "permissionIds": ["pcrm.deals.read", "billing.view"]}
    made = await gateway.ask(owner, "POST", "/roles", asked)
    assert made.status == 201
    assert made.body["permissionIds"] == ["billing.view", "pcrm.deals.read"]
    assert (made.body["tenantId"], made.body["scope"], made.body["builtIn"]) == (str(tenant), "tenant", False)
    assert made.body["createdBy"] == str(owner.id)
    path = f"/roles/{made.body['id']}"
    assert (await gateway.ask(owner, "GET", path)).body == made.body
    changed = await gateway.ask(owner, "PATCH", path, {"permissionIds": ["audit.read"]})
    assert (changed.status, changed.body["name"], changed.body["permissionIds"]) == (200, "Accountant", ["audit.read"])
    deleted = await gateway.ask(owner, "DELETE", path)
    assert (deleted.status, deleted.body) == (204, None)
    assert (await gateway.ask(owner, "GET", path)).slug == "not-found"
    told = [(kind, data["change"], data["newPermissions"]) for kind, data in await world.events(tenant)]
    assert told == [
        ("auth.role.changed", "created", ["billing.view", "pcrm.deals.read"]),
        ("auth.role.changed", "updated", ["audit.read"]),
        ("auth.role.changed", "deleted", []),
    ]


async def test_what_the_catalogue_says_of_built_in_roles_is_what_the_database_gives(world: World) -> None:
    tenant = await world.tenant()
    pool = world.gateway.services.pool
    for role, name in ((OWNER, "Owner"), (ADMIN, "Admin"), (MEMBER, "Member")):
        person = await world.person(tenant, name)
        async with tenant_transaction(pool, tenant) as transaction:
            row = await transaction.fetchrow("SELECT * FROM auth.effective_rights($1)", person.id)
            catalogue = await Catalogue.read(transaction, row["active_modules"])
        assert sorted(catalogue.of_role(role, [])) == row["permissions"]
        shown = await world.gateway.ask(await world.person(tenant, "Admin"), "GET", f"/roles/{role}")
        assert sorted(shown.body["permissionIds"]) == row["permissions"]


async def test_what_can_be_granted_is_the_systems_and_the_active_modules(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    admin = await world.person(tenant, "Admin")
    listed = await gateway.ask(admin, "GET", "/permissions")
    assert {entry["id"] for entry in listed.body["data"]} == {*SYSTEM, *PERMISSIONS, f"{MODULE}.*"}
    assert {"id": "pcrm.deals.read", "module": MODULE} in listed.body["data"]
    assert {"id": "users.list", "module": None} in listed.body["data"]
    await world.admin.execute("DELETE FROM kernel.module_tenants WHERE tenant_id = $1", tenant)
    assert {e["id"] for e in (await gateway.ask(admin, "GET", "/permissions")).body["data"]} == set(SYSTEM)


@pytest.mark.parametrize(
    "permission",
    [
        "*",
        "*.*",
        "system.backup",
        "system.*",
        "platform.x",
        "users.*",
        "pcrm",
        "pcrm.nothing.read",
        "other.*",
        "#1",
        "x",
    ],
)
async def test_a_permission_that_cant_be_granted_is_named(gateway: Gateway, world: World, permission: str) -> None:
    tenant = await world.tenant()
    owner = await world.person(tenant, "Owner")
    asked = {"name": "x", "permissionIds": ["users.list", permission]}
    answer = await gateway.ask(owner, "POST", "/roles", asked)
    assert (answer.status, answer.slug) == (400, "validation-error")
    assert answer.fields == [("permissionIds.1", "UNKNOWN_PERMISSION")]
    assert len((await gateway.ask(owner, "GET", "/roles")).body["data"]) == 3, "nothing was made"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "a,Owner"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": " a"}, "name"),
        ({"name": "a", "description": "x" * 501}, "description"),
        ({"name": "a", "permissionIds": ["users.list"] * 501}, "permissionIds"),
        ({"name": "a", "tenantId": str(uuid4())}, "tenantId"),
        ({"name": "a", "builtIn": True}, "builtIn"),
    ],
)
async def test_a_wrong_field_is_named(gateway: Gateway, world: World, body: Any, field: str) -> None:
    owner = await world.person(await world.tenant(), "Owner")
    answer = await gateway.ask(owner, "POST", "/roles", body)
    assert (answer.status, answer.body["errors"][0]["field"]) == (400, field)


async def test_nobody_grants_what_they_dont_hold(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    maker = await world.role(tenant, "roles.list", "roles.create", "roles.update", "roles.assign", "pcrm.contacts.read")
    person = await world.person(tenant, maker)
    answer = await gateway.ask(person, "POST", "/roles", {"name": "x", "permissionIds": ["pcrm.*", "roles.list"]})
    assert (answer.status, answer.slug, answer.fields) == (403, "forbidden", [("permissionIds.0", "NOT_HELD")])
    # Into the role that they have themselves, too.
    for permission in ("roles.delete", "pcrm.contacts.create", "pcrm.*"):
        answer = await gateway.ask(person, "PATCH", f"/roles/{maker}", {"permissionIds": ["roles.update", permission]})
        assert (answer.status, answer.fields) == (403, [("permissionIds.1", "NOT_HELD")])
    mine = await gateway.ask(person, "POST", "/roles", {"name": "mine", "permissionIds": ["pcrm.contacts.read"]})
    assert mine.status == 201
    # What is in a role already may stay there, and may be taken out, by somebody who doesn't hold it.
    other = await world.role(tenant, "billing.view", "billing.export", "pcrm.retired.read")
    kept = await gateway.ask(
        person, "PATCH", f"/roles/{other}", {"permissionIds": ["pcrm.retired.read", "billing.view", "roles.list"]}
    )
    assert kept.body["permissionIds"] == ["billing.view", "pcrm.retired.read", "roles.list"]
    back = await gateway.ask(person, "PATCH", f"/roles/{other}", {"permissionIds": ["billing.export"]})
    assert (back.status, back.fields) == (403, [("permissionIds.0", "NOT_HELD")])
    for beyond in (other, ADMIN, MEMBER):
        answer = await gateway.ask(person, "POST", f"/members/{person.id}/assign-roles", {"roleIds": [str(beyond)]})
        assert (answer.status, answer.fields) == (403, [("roleIds.0", "NOT_HELD")])
    assert await world.roles_of(person) == {maker}


def test_a_permission_is_covered_exactly_or_by_its_module() -> None:
    assert covers({"crm.*"}, "crm.contacts.read")
    assert covers({"crm.*"}, "crm.*")
    assert covers({"*"}, "crm.*")
    assert covers({"crm.contacts.read"}, "crm.contacts.read")
    assert not covers({"crm.contacts.read", "crm.contacts.create"}, "crm.*")
    assert not covers({"crm.*"}, "crmx.contacts.read")
    assert not covers({"crm.contacts.*"}, "crm.contacts.read")
    assert not covers(set(), "crm.contacts.read")


@pytest.mark.parametrize("role", [OWNER, ADMIN, MEMBER])
async def test_built_in_roles_are_neither_changed_nor_deleted(gateway: Gateway, world: World, role: UUID) -> None:
    owner = await world.person(await world.tenant(), "Owner")
    for method, body in (("PATCH", {"name": "x"}), ("PATCH", {"permissionIds": []}), ("DELETE", None)):
        answer = await gateway.ask(owner, method, f"/roles/{role}", body)
        assert (answer.status, answer.slug) == (409, "conflict")


async def test_a_role_that_somebody_has_is_not_deleted(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner, role = await world.person(tenant, "Owner"), await world.role(tenant, "users.list")
    holder = await world.person(tenant, role)
    assert (await gateway.ask(owner, "DELETE", f"/roles/{role}")).slug == "conflict"
    await gateway.ask(owner, "POST", f"/members/{holder.id}/withdraw-roles", {"roleIds": [str(role)]})
    assert (await gateway.ask(owner, "DELETE", f"/roles/{role}")).status == 204


async def test_names_differ_in_more_than_case(gateway: Gateway, world: World) -> None:
    owner = await world.person(await world.tenant(), "Owner")
    answers = await asyncio.gather(
        *(gateway.ask(owner, "POST", "/roles", {"name": name}) for name in ("Sales", "sales", "SALES", "sAles"))
    )
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409]
    refused = await gateway.ask(owner, "POST", "/roles", {"name": "OWNER"})
    assert (refused.status, refused.fields) == (409, [("name", "TAKEN")])
    [mine] = [answer.body["id"] for answer in answers if answer.status == 201]
    assert (await gateway.ask(owner, "PATCH", f"/roles/{mine}", {"name": "sALES"})).status == 200
    assert (await gateway.ask(owner, "PATCH", f"/roles/{mine}", {"name": "admin"})).status == 409


async def test_a_tenant_has_so_many_roles_and_no_more(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner = await world.person(tenant, "Owner")
    await world.admin.execute(
        "INSERT INTO auth.roles (tenant_id, name) SELECT $1, 'r' || n FROM generate_series(1, $2) AS n",
        tenant,
        MOST_ROLES - 3 - 2,
    )
    answers = await asyncio.gather(*(gateway.ask(owner, "POST", "/roles", {"name": f"x{n}"}) for n in range(6)))
    assert sorted(answer.status for answer in answers) == [201, 201, 409, 409, 409, 409]


async def test_pages_show_every_role_once(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner = await world.person(tenant, "Owner")
    mine = {str(await world.role(tenant)) for _ in range(4)}
    found: list[str] = []
    cursor = ""
    while True:
        page = await gateway.ask(owner, "GET", f"/roles?limit=3{cursor}")
        found += [role["id"] for role in page.body["data"]]
        if not page.body["meta"]["hasMore"]:
            assert page.body["meta"]["cursor"] is None
            break
        cursor = f"&cursor={page.body['meta']['cursor']}"
    assert found == [str(OWNER), str(ADMIN), str(MEMBER), *sorted(mine)]
    for wrong in ("limit=0", "limit=101", "cursor=x"):
        assert (await gateway.ask(owner, "GET", f"/roles?{wrong}")).slug == "validation-error"


async def test_another_tenants_role_is_not_there(gateway: Gateway, world: World) -> None:
    mine, theirs = await world.tenant(), await world.tenant()
    owner, role = await world.person(mine, "Owner"), await world.role(theirs, "users.list")
    for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
        answer = await gateway.ask(owner, method, f"/roles/{role}", body)
        assert (answer.status, answer.slug) == (404, "not-found")
    answer = await gateway.ask(owner, "POST", f"/members/{owner.id}/assign-roles", {"roleIds": [str(role)]})
    assert (answer.status, answer.fields) == (400, [("roleIds.0", "NOT_FOUND")])
    assert str(role) not in {r["id"] for r in (await gateway.ask(owner, "GET", "/roles")).body["data"]}
    assert await world.admin.fetchval("SELECT permissions FROM auth.roles WHERE id = $1", role) == ["users.list"]


async def test_two_who_change_one_role_at_once_both_succeed_and_nothing_is_mixed(
    gateway: Gateway, world: World
) -> None:
    tenant = await world.tenant()
    owner, role = await world.person(tenant, "Owner"), await world.role(tenant)
    before = await world.version(tenant)
    wanted = [["audit.read", "users.list"], ["billing.view"], ["settings.read", "roles.list"]]
    answers = await asyncio.gather(
        *(gateway.ask(owner, "PATCH", f"/roles/{role}", {"permissionIds": permissions}) for permissions in wanted)
    )
    assert {answer.status for answer in answers} == {200}
    last = (await gateway.ask(owner, "GET", f"/roles/{role}")).body["permissionIds"]
    assert last in [sorted(permissions) for permissions in wanted]
    assert await world.version(tenant) == before + 3
    assert [data["newPermissions"] for _, data in await world.events(tenant)][-1] == last


async def test_a_change_that_changes_nothing_tells_nobody(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner, role = await world.person(tenant, "Owner"), await world.role(tenant, "audit.read", name="Same")
    before = await world.version(tenant)
    for body in ({}, {"name": "Same"}, {"permissionIds": ["audit.read", "audit.read"]}):
        assert (await gateway.ask(owner, "PATCH", f"/roles/{role}", body)).status == 200
    assert (await world.version(tenant), await world.events(tenant)) == (before, [])


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("GET", "/permissions", "roles.list"),
        ("GET", "/roles", "roles.list"),
        ("GET", f"/roles/{ADMIN}", "roles.list"),
        ("POST", "/roles", "roles.create"),
        ("PATCH", f"/roles/{ADMIN}", "roles.update"),
        ("DELETE", f"/roles/{ADMIN}", "roles.delete"),
        ("GET", "/members", "users.list"),
        ("GET", f"/members/{uuid4()}", "users.list"),
        ("POST", "/members/invite", "users.create"),
        ("POST", f"/members/{uuid4()}/assign-roles", "roles.assign"),
        ("POST", f"/members/{uuid4()}/withdraw-roles", "roles.assign"),
        ("POST", f"/members/{uuid4()}/block", "users.update"),
        ("POST", f"/members/{uuid4()}/unblock", "users.update"),
        ("DELETE", f"/members/{uuid4()}", "users.delete"),
        ("POST", "/auth/impersonate", "users.impersonate"),
    ],
)
async def test_each_route_asks_for_its_permission(
    gateway: Gateway, world: World, method: str, path: str, permission: str
) -> None:
    tenant = await world.tenant()
    others = [p for p in SYSTEM if p != permission]
    without = await world.person(tenant, await world.role(tenant, *others))
    bodies = {
        "/roles": {"name": "x"},
        "/members/invite": {"email": "a@b.example"},
        "/auth/impersonate": {"tenantId": str(tenant), "reason": "x"},
    }
    body = bodies.get(path, {"roleIds": [str(MEMBER)]} if path.endswith("-roles") else {"name": "x"})
    sent = body if method in ("POST", "PATCH") else None
    refused = await gateway.ask(without, method, path, sent)
    assert (refused.status, refused.slug) == (403, "forbidden")
    assert permission in refused.body["detail"]
    assert (await gateway.ask(None, method, path, sent)).slug == "unauthenticated"
    allowed = await gateway.ask(await world.person(tenant, await world.role(tenant, permission)), method, path, sent)
    assert allowed.status != 403 or "is needed" not in allowed.body["detail"]
