"""First owners in the database: made once, whoever else is at it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from kernel_operator.desired import NewOwner
from kernel_operator.targets.postgres import PostgresTarget

from .auth_people import ADMIN, HASH, OWNER, a_member, a_proven_user, a_user, an_address
from .conftest import a_tenant, outbox_of

NewTenant = Callable[..., Awaitable[UUID]]


async def owner_of(admin: asyncpg.Connection, tenant: UUID) -> asyncpg.Record | None:
    return await admin.fetchrow(
        "SELECT u.*, m.status FROM auth.member_roles r JOIN auth.users u ON u.id = r.user_id "
        "JOIN auth.members m ON m.tenant_id = r.tenant_id AND m.user_id = r.user_id "
        "WHERE r.tenant_id = $1 AND r.role_id = $2",
        tenant,
        OWNER,
    )


async def version(admin: asyncpg.Connection, tenant: UUID) -> int:
    found: int = await admin.fetchval("SELECT version FROM auth.rbac_versions WHERE tenant_id = $1", tenant)
    return found


async def test_accounts_are_made_and_found_in_one_call(
    target: PostgresTarget, admin: asyncpg.Connection, gateway: asyncpg.Connection, new_tenant: NewTenant
) -> None:
    fresh, shared, old, untouched = [await new_tenant() for _ in range(4)]
    new_address, known_address = an_address(), an_address()
    known = await a_proven_user(gateway, known_address)
    made = await target.make_owners(
        [NewOwner(shared, new_address), NewOwner(fresh, new_address.upper(), HASH), NewOwner(old, known_address)]
    )
    assert made == {fresh, shared, old}
    first, second, third = [await owner_of(admin, tenant) for tenant in (fresh, shared, old)]
    assert first is not None
    assert (first["email"], first["password_hash"]) == (new_address, HASH)
    assert first["email_verified_at"], "who writes the Tenant vouches for the address"
    assert first == second
    assert third is not None
    assert (third["id"], third["status"]) == (known, "active")
    assert await owner_of(admin, untouched) is None
    assert [await version(admin, tenant) for tenant in (fresh, untouched)] == [2, 1]
    events = [(event["type"], event["envelope"]) for event in await outbox_of(admin, fresh)]
    assert [kind for kind, _ in events] == ["auth.tenant.created", "auth.user.created", "auth.role.changed"]
    assert not any("@" in envelope for _, envelope in events)
    assert await target.make_owners([NewOwner(fresh, an_address(), HASH)]) == frozenset()
    assert await version(admin, fresh) == 2


async def test_two_operators_at_once_make_one_owner(
    target: PostgresTarget, admin: asyncpg.Connection, new_tenant: NewTenant
) -> None:
    tenants = [await new_tenant() for _ in range(10)]
    owners = [NewOwner(tenant, an_address(), HASH) for tenant in tenants]
    results = await asyncio.gather(*(target.make_owners(order) for order in (owners, owners[::-1], owners)))
    assert sorted(tenant for made in results for tenant in made) == sorted(tenants)
    for tenant in tenants:
        assert (await owner_of(admin, tenant)) is not None
        assert await version(admin, tenant) == 2


async def test_what_the_caller_took_for_true_and_is_not_makes_nothing(
    target: PostgresTarget, admin: asyncpg.Connection, gateway: asyncpg.Connection, new_tenant: NewTenant
) -> None:
    tenant, retired = await new_tenant(), await new_tenant()
    known_address = an_address()
    await a_proven_user(gateway, known_address, HASH + "theirs")
    await target.retire_tenant(retired)
    new = [NewOwner(tenant, known_address, HASH), NewOwner(tenant, an_address()), NewOwner(retired, an_address(), HASH)]
    assert await target.make_owners(new) == frozenset()
    assert await owner_of(admin, tenant) is None
    found = await admin.fetchval("SELECT password_hash FROM auth.users WHERE email = $1", known_address)
    assert found == HASH + "theirs"
    assert await admin.fetchval("SELECT count(*) FROM auth.users WHERE email = $1", new[2].email) == 0


async def test_who_registered_with_the_owners_address_owns_nothing(
    target: PostgresTarget, admin: asyncpg.Connection, gateway: asyncpg.Connection, new_tenant: NewTenant
) -> None:
    """An account that nobody has proven becomes the named person's: another password, no second factor, no way on."""
    tenant, address = await new_tenant(), an_address()
    user = await a_user(gateway, address, HASH + "theirs")
    await gateway.execute("SELECT kernel_cross.start_mfa($1, 'x', '{}'), kernel_cross.use_mfa_step($1, 1)", user)
    put = "SELECT kernel_cross.put_one_time_token(sha256('theirs'), 'select_tenant', $1, NULL, '5 min')"
    await gateway.execute(put, user)
    assert await target.make_owners([NewOwner(tenant, address)]) == frozenset()
    assert await target.make_owners([NewOwner(tenant, address, HASH)]) == {tenant}
    found = await gateway.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", user)
    assert (found["password_hash"], found["mfa_enabled_at"], found["mfa_secret"]) == (HASH, None, None)
    see = "SELECT * FROM kernel_cross.see_one_time_token(sha256('theirs'), 'select_tenant')"
    assert await gateway.fetch(see) == []


@pytest.mark.parametrize("status", ["active", "invited", "blocked"])
async def test_a_member_becomes_the_owner_and_keeps_its_roles(
    status: str, target: PostgresTarget, admin: asyncpg.Connection, gateway: asyncpg.Connection
) -> None:
    tenant = a_tenant()
    await target.apply_tenants([tenant])
    user = await a_proven_user(gateway, tenant.owner_email)
    await a_member(gateway, tenant.id, ADMIN, status, user)
    assert await target.ownerless_tenants([tenant.id]) == {tenant.id: True}
    assert await target.make_owners([NewOwner(tenant.id, tenant.owner_email)]) == {tenant.id}
    found = await owner_of(admin, tenant.id)
    assert found is not None
    assert (found["id"], found["status"]) == (user, "active")
    roles = await admin.fetch("SELECT role_id FROM auth.member_roles WHERE tenant_id = $1 ORDER BY 1", tenant.id)
    assert [row["role_id"] for row in roles] == [OWNER, ADMIN]
    assert '"oldRoles": ["Admin"]' in (await outbox_of(admin, tenant.id))[-1]["envelope"]


async def test_who_has_no_owner_is_one_question(target: PostgresTarget, gateway: asyncpg.Connection) -> None:
    owned, fresh, known, retired = a_tenant(), a_tenant(), a_tenant(), a_tenant()
    upper = replace(known, owner_email=known.owner_email.upper())
    await target.apply_tenants([owned, fresh, upper, retired])
    await a_proven_user(gateway, known.owner_email)
    await a_user(gateway, fresh.owner_email)
    await a_member(gateway, owned.id, OWNER)
    await target.retire_tenant(retired.id)
    found = await target.ownerless_tenants([owned.id, fresh.id, known.id, retired.id])
    assert found == {fresh.id: False, known.id: True}
