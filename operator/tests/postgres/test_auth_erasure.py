"""What becomes of people when their tenant goes, and when it comes back."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from kernel_common.ids import tenant_id
from kernel_operator.desired import Tier
from kernel_operator.targets.postgres import PostgresTarget, erasure

from .auth_people import MEMBER, OWNER, a_member, a_session, a_user
from .conftest import a_tenant, outbox_of

LEFT = {"members": 0, "member_roles": 0, "refresh_tokens": 0, "one_time_tokens": 0, "roles": 3, "rbac_versions": 1}
"""How many rows of a deleted tenant stay: the built-in roles and the version of rights."""

NewTenant = Callable[..., Awaitable[UUID]]


async def held(admin: asyncpg.Connection, tenant: UUID) -> dict[str, int]:
    return {
        table: await admin.fetchval(f"SELECT count(*) FROM auth.{table} WHERE tenant_id = $1", tenant) for table in LEFT
    }


async def populate(gateway: asyncpg.Connection, tenant: UUID, members: int = 6) -> list[UUID]:
    """An owner and members with sessions, an invitation, and a role of the tenant's own that somebody has."""
    people = [await a_member(gateway, tenant, OWNER)]
    people += [await a_member(gateway, tenant, MEMBER) for _ in range(members)]
    async with gateway.transaction():
        await gateway.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant))
        role = await gateway.fetchval("INSERT INTO auth.roles (name) VALUES ('Sales') RETURNING id")
        await gateway.execute("INSERT INTO auth.member_roles (user_id, role_id) VALUES ($1, $2)", people[1], role)
    await gateway.execute(
        "SELECT kernel_cross.put_one_time_token(sha256($3), 'invite', $1, $2, '1 h')", people[1], tenant, uuid4().bytes
    )
    return people


async def test_a_deleted_tenant_leaves_no_people_and_no_others_lose_theirs(
    target: PostgresTarget,
    pool: asyncpg.Pool,
    admin: asyncpg.Connection,
    gateway: asyncpg.Connection,
    new_tenant: NewTenant,
) -> None:
    gone, kept = await new_tenant(), await new_tenant()
    people = await populate(gateway, gone)
    others = await populate(gateway, kept)
    before = await held(admin, kept)
    await gateway.execute("SELECT kernel_cross.set_last_tenant($1, $2)", people[0], gone)
    await gateway.execute("SELECT kernel_cross.set_last_tenant($1, $2)", others[0], kept)
    outcome = await erasure.delete_tenant(pool, gone, batch=2)
    assert "deleted 7 rows of auth.members" in outcome.changes
    assert await held(admin, gone) == LEFT
    assert await held(admin, kept) == before
    accounts = await admin.fetch("SELECT id, last_tenant_id FROM auth.users WHERE id = ANY($1)", people)
    assert len(accounts) == len(people), "accounts are their people's"
    assert {row["last_tenant_id"] for row in accounts} == {None}
    assert await admin.fetchval("SELECT last_tenant_id FROM auth.users WHERE id = $1", others[0]) == kept
    assert (await target.delete_tenant(gone)).changes == ()
    lately = await target.lately_deleted()
    assert gone in lately and kept not in lately


async def test_a_deleted_tenant_that_comes_back_works_and_is_nobodys(
    target: PostgresTarget, admin: asyncpg.Connection, gateway: asyncpg.Connection
) -> None:
    tenant = a_tenant()
    await target.apply_tenants([tenant])
    [owner, *_] = await populate(gateway, tenant.id)
    await target.delete_tenant(tenant.id)
    await target.apply_tenants([replace(tenant, uid="new")])
    assert await held(admin, tenant.id) == LEFT
    assert list(await target.ownerless_tenants([tenant.id])) == [tenant.id]
    await a_member(gateway, tenant.id, OWNER, user=owner)
    assert await target.ownerless_tenants([tenant.id]) == {}


async def test_a_retired_tenant_keeps_its_people_and_ends_their_sessions(
    target: PostgresTarget, admin: asyncpg.Connection, gateway: asyncpg.Connection, new_tenant: NewTenant
) -> None:
    tenant, other = a_tenant(), await new_tenant()
    await target.apply_tenants([tenant])
    [owner, *_] = await populate(gateway, tenant.id)
    await a_member(gateway, other, user=owner)
    before = await held(admin, tenant.id)
    outcome = await target.retire_tenant(tenant.id)
    assert outcome.changes == ("retired the tenant; its data is kept", "ended 7 sessions")
    assert await held(admin, tenant.id) == before
    alive = "SELECT tenant_id FROM auth.refresh_tokens WHERE revoked_at IS NULL AND tenant_id = ANY($1)"
    assert [row["tenant_id"] for row in await admin.fetch(alive, [tenant.id, other])] == [other]
    assert (
        await admin.fetch("SELECT FROM auth.refresh_tokens WHERE tenant_id = $1 AND answer IS NOT NULL", tenant.id)
        == []
    )
    assert (await target.retire_tenant(tenant.id)).changes == ()

    await a_session(gateway, tenant.id, owner)  # one that was being made at that moment
    adopted = replace(tenant, uid="new", adopt=tenant.id)
    assert (await target.apply_tenants([adopted]))[tenant.id].refusal is None
    assert [row["tenant_id"] for row in await admin.fetch(alive, [tenant.id, other])] == [other]
    assert await target.ownerless_tenants([tenant.id]) == {}
    [row] = [
        row
        for row in await gateway.fetch("SELECT * FROM kernel_cross.user_tenants($1)", owner)
        if row["name"] == tenant.name
    ]
    assert (row["blocked"], row["member_status"], row["roles"]) == (False, "active", ["Owner"])
    await a_session(gateway, tenant.id, owner)
    assert len(await admin.fetch(alive, [tenant.id])) == 1


REGISTER = "SELECT kernel_cross.register_tenant($1, $2, $2, $3, $4, '{}')"


async def registered(gateway: asyncpg.Connection, target: PostgresTarget) -> tuple[Any, UUID]:
    """The state that the resource of a registered tenant will ask for, and who registered it."""
    above = a_tenant(tier=Tier.OWNER)
    await target.apply_tenants([above])
    user = await a_user(gateway)
    tenant = a_tenant(ancestors=(above.id,))
    made = await gateway.fetchval(REGISTER, tenant.id, tenant.name, above.name, user)
    assert made == tenant.id == tenant_id(tenant.name)
    return tenant, user


async def test_a_registered_tenant_is_bound_to_the_resource_that_comes_and_keeps_its_owner(
    target: PostgresTarget, admin: asyncpg.Connection, gateway: asyncpg.Connection
) -> None:
    tenant, user = await registered(gateway, target)
    assert await target.ownerless_tenants([tenant.id]) == {}
    outcome = (await target.apply_tenants([tenant]))[tenant.id]
    assert outcome.refusal is None
    assert "bound the tenant to its new resource" in outcome.changes
    row = await admin.fetchrow("SELECT * FROM kernel.tenants WHERE id = $1", tenant.id)
    assert (row["resource_uid"], row["owner_email"]) == (tenant.uid, tenant.owner_email)
    types = [event["type"] for event in await outbox_of(admin, tenant.id)]
    assert "auth.tenant.created" not in types, "the registration has told of it"
    assert await target.ownerless_tenants([tenant.id]) == {}
    [mine] = await gateway.fetch("SELECT * FROM kernel_cross.user_tenants($1)", user)
    assert (mine["tenant_id"], mine["roles"]) == (tenant.id, ["Owner"])
    pending = await gateway.fetch("SELECT id FROM kernel_cross.unbound_registrations()")
    assert tenant.id not in {row["id"] for row in pending}
    assert (await target.apply_tenants([tenant]))[tenant.id].changes == ()


async def test_a_registered_tenant_that_was_deleted_is_not_brought_back(
    target: PostgresTarget, gateway: asyncpg.Connection
) -> None:
    for delete in (target.retire_tenant, target.delete_tenant):
        tenant, _ = await registered(gateway, target)
        await target.apply_tenants([tenant])
        await delete(tenant.id)
        pending = await gateway.fetch("SELECT id FROM kernel_cross.unbound_registrations()")
        assert tenant.id not in {row["id"] for row in pending}
