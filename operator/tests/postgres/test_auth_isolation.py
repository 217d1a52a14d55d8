"""Who sees and may what of people, roles and sessions, asked as each role."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from .auth_people import ADMIN, MEMBER, OWNER, a_member, a_session, a_user
from .conftest import Installed, Login
from .test_isolation import AUTH_TABLES

NewTenant = Callable[..., Awaitable[UUID]]


async def test_the_gateway_sees_only_the_tenant_that_it_names(
    gateway: asyncpg.Connection, login: Login, new_tenant: NewTenant
) -> None:
    a, b = await new_tenant(), await new_tenant()
    for tenant in (a, b, b):
        await a_member(gateway, tenant)
    tables = sorted(AUTH_TABLES["private"])
    for table in tables:
        assert await gateway.fetchval(f"SELECT count(*) FROM auth.{table}") == 0
    assert await gateway.fetchval("SELECT count(*) FROM kernel_cross.member_users()") == 0
    async with login("kernel_gateway", tenant=a) as inside:
        for table in tables:
            seen = await inside.fetch(f"SELECT DISTINCT tenant_id FROM auth.{table}")
            assert [row["tenant_id"] for row in seen] == [a], table
        assert await inside.fetchval("SELECT count(*) FROM auth.members") == 1
        assert await inside.fetchval("SELECT count(*) FROM kernel_cross.member_users()") == 1


OTHERS_ROWS = {
    "member": "INSERT INTO auth.members (tenant_id, user_id, status) VALUES ('{b}', '{user}', 'active')",
    "member moved": "UPDATE auth.members SET tenant_id = '{b}'",
    "role": "INSERT INTO auth.roles (tenant_id, name) VALUES ('{b}', 'x')",
    "assignment": "INSERT INTO auth.member_roles (tenant_id, user_id, role_id) VALUES ('{b}', '{user}', '{role}')",
    "session": "INSERT INTO auth.refresh_tokens (tenant_id, user_id, family_id, token_hash, expires_at) "
    "VALUES ('{b}', '{user}', uuidv7(), sha256('x'), now())",
    "version": "UPDATE auth.rbac_versions SET tenant_id = '{b}'",
}


@pytest.mark.parametrize("what", OTHERS_ROWS)
async def test_the_gateway_writes_for_no_other_tenant(
    what: str, gateway: asyncpg.Connection, login: Login, new_tenant: NewTenant
) -> None:
    a, b = await new_tenant(), await new_tenant()
    await a_member(gateway, a)
    other = await a_member(gateway, b)
    async with login("kernel_gateway", tenant=a) as inside:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await inside.execute(OTHERS_ROWS[what].format(b=b, user=other, role=ADMIN))


async def test_nobody_changes_anothers_rows(gateway: asyncpg.Connection, login: Login, new_tenant: NewTenant) -> None:
    a, b = await new_tenant(), await new_tenant()
    other = await a_member(gateway, b)
    async with login("kernel_gateway", tenant=a) as inside:
        for statement in (
            f"UPDATE auth.members SET status = 'blocked' WHERE user_id = '{other}'",
            f"UPDATE auth.refresh_tokens SET revoked_at = now() WHERE user_id = '{other}'",
            f"DELETE FROM auth.member_roles WHERE user_id = '{other}'",
            f"DELETE FROM auth.members WHERE user_id = '{other}'",
        ):
            assert (await inside.execute(statement)).endswith(" 0")


FORBIDDEN_TO_THE_GATEWAY = (
    "SELECT * FROM auth.users",
    "SELECT * FROM auth.one_time_tokens",
    "SELECT * FROM auth.login_failures",
    "UPDATE auth.users SET platform_owner = true",
    "DELETE FROM auth.refresh_tokens",
    "INSERT INTO auth.rbac_versions (tenant_id) VALUES (uuidv7())",
    "DELETE FROM auth.rbac_versions",
    "TRUNCATE auth.members",
    "SELECT * FROM kernel.tenants",
    "SELECT * FROM kernel.tenant_closure",
    "SELECT * FROM kernel.modules",
    "SELECT * FROM kernel.module_tenants",
    "SELECT * FROM kernel.schema_migrations",
    "SELECT * FROM kernel.processed_event_ids",
    "SELECT * FROM kernel.outbox",
    "DELETE FROM kernel.dlq_records",
    "UPDATE kernel.dlq_records SET tenant_id = NULL",
    "SELECT kernel.outbox_make_partitions(1)",
    "SELECT * FROM auth.make_owners('[]')",
    "SELECT auth.add_built_in_roles()",
    "SET ROLE kernel_operator",
    "SET ROLE kernel_cross",
    "SET ROLE kernel_cdc",
    "SET ROLE kernel_app",
    "SET ROLE kernel_publisher",
    "GRANT kernel_publisher TO kernel_app",
    "CREATE FUNCTION kernel_cross.mine() RETURNS int RETURN 1",
    "CREATE OR REPLACE FUNCTION kernel_cross.verify_email(of_user uuid) RETURNS void LANGUAGE sql AS 'SELECT'",
    "ALTER TABLE auth.members DISABLE ROW LEVEL SECURITY",
    "CREATE POLICY mine ON auth.members USING (true)",
    "CREATE TABLE auth.mine (a int)",
    "CREATE TABLE public.mine (a int)",
    "CREATE TEMPORARY TABLE mine (a int)",
    "CREATE ROLE mine",
    "ALTER ROLE kernel_gateway BYPASSRLS",
    "SET session_replication_role = replica",
    "SET row_security = off; SELECT * FROM auth.members",
    "SELECT * FROM pg_authid",
)


@pytest.mark.parametrize("statement", FORBIDDEN_TO_THE_GATEWAY)
async def test_the_gateway_may_not(statement: str, gateway: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await gateway.execute(statement)
    # 42501 a right is missing; 0A000: trigger functions can only be called as triggers
    assert caught.value.sqlstate in ("42501", "0A000"), caught.value


@pytest.mark.parametrize("role", ["module", "kernel_cdc"])
async def test_modules_and_capture_see_nothing_of_people(
    role: str,
    gateway: asyncpg.Connection,
    login: Login,
    install: Callable[..., Awaitable[Installed]],
    admin: asyncpg.Connection,
) -> None:
    installed = await install()
    await a_member(gateway, installed.a)
    functions = [
        row["call"]
        for row in await admin.fetch(
            "SELECT format('%s(%s)', oid::regproc, array_to_string(array_fill('NULL'::text, ARRAY[pronargs]), ',')) "
            "AS call FROM pg_proc WHERE pronamespace::regnamespace::text IN ('auth', 'kernel_cross')"
        )
    ]
    assert len(functions) > 30
    tables = [f"TABLE auth.{table}" for table in sorted(AUTH_TABLES["private"] | AUTH_TABLES["kernel"])]
    async with login(installed.module.schema if role == "module" else role, tenant=installed.a) as stranger:
        for statement in [*tables, *(f"SELECT {call}" for call in functions)]:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for schema"):
                async with stranger.transaction():
                    await stranger.execute(statement)


async def test_nothing_of_people_is_published(admin: asyncpg.Connection, new_tenant: NewTenant) -> None:
    await new_tenant()
    assert await admin.fetch("SELECT * FROM pg_publication_tables WHERE schemaname = 'auth'") == []
    assert not await admin.fetchval("SELECT bool_or(puballtables) FROM pg_publication")
    assert await admin.fetch("SELECT * FROM pg_publication_namespace") == []


async def test_the_operator_sees_who_owns_and_nothing_else_of_members(
    gateway: asyncpg.Connection, pool: asyncpg.Pool, new_tenant: NewTenant
) -> None:
    tenant = await new_tenant()
    owner = await a_member(gateway, tenant, OWNER)
    await a_member(gateway, tenant, MEMBER)
    async with pool.acquire() as operator:
        roles = await operator.fetch("SELECT * FROM auth.member_roles WHERE tenant_id = $1", tenant)
        assert [tuple(row) for row in roles] == [(tenant, owner, OWNER)]
        for table in sorted(AUTH_TABLES["private"] - {"member_roles"}):
            assert await operator.fetchval(f"SELECT count(*) FROM auth.{table}") == 0
        assert await operator.execute("DELETE FROM auth.member_roles") == "DELETE 0"


async def test_there_is_one_owner_and_built_in_roles_stay_as_they_are(
    gateway: asyncpg.Connection, login: Login, new_tenant: NewTenant
) -> None:
    tenant = await new_tenant()
    await a_member(gateway, tenant, OWNER)
    with pytest.raises(asyncpg.UniqueViolationError, match="one_owner"):
        await a_member(gateway, tenant, OWNER)
    async with login("kernel_gateway", tenant=tenant) as inside:
        names = await inside.fetch("SELECT id, name FROM auth.roles WHERE built_in ORDER BY id")
        assert [tuple(row) for row in names] == [(OWNER, "Owner"), (ADMIN, "Admin"), (MEMBER, "Member")]
        for statement in (
            "UPDATE auth.roles SET permissions = '{crm.contacts.read}'",
            "UPDATE auth.roles SET built_in = false",
            f"DELETE FROM auth.roles WHERE id = '{ADMIN}'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="is built in"):
                async with inside.transaction():
                    await inside.execute(statement)
        locked = await inside.fetch("SELECT name FROM auth.roles WHERE built_in FOR UPDATE")
        assert len(locked) == 3, "they can be locked against a change of what hangs on them"


@pytest.mark.parametrize("permissions", [["*"], ["#1.x"], [None], ["crm.a.read", "a#b"], ["a"] * 501])
async def test_no_role_holds_what_only_the_owner_has_or_what_looks_like_a_stamp(
    permissions: list[str | None], login: Login, new_tenant: NewTenant
) -> None:
    async with login("kernel_gateway", tenant=await new_tenant()) as inside:
        await inside.execute("INSERT INTO auth.roles (name, permissions) VALUES ('fine', '{crm.*,crm.a.read}')")
        with pytest.raises(asyncpg.CheckViolationError, match="roles_permissions_check"):
            await inside.execute("INSERT INTO auth.roles (name, permissions) VALUES ('x', $1)", permissions)


async def test_rights_are_those_of_active_members_of_the_named_tenant(
    gateway: asyncpg.Connection, login: Login, install: Callable[..., Awaitable[Installed]]
) -> None:
    installed = await install(permissions=("m.contacts.read", "m.contacts.create"))
    slug = installed.module.slug
    people = {role: await a_member(gateway, installed.a, role) for role in (OWNER, ADMIN, MEMBER, None)}
    blocked = await a_member(gateway, installed.a, MEMBER, status="blocked")
    stranger = await a_member(gateway, installed.b, ADMIN)

    async def rights(user: UUID, tenant: UUID | None) -> asyncpg.Record | None:
        async with login("kernel_gateway", tenant=tenant) as inside:
            return await inside.fetchrow("SELECT * FROM auth.effective_rights($1)", user)

    async def permissions(user: UUID) -> list[str]:
        row = await rights(user, installed.a)
        assert row is not None
        assert (row["version"], row["blocked"], row["active_modules"]) == (1, False, [slug])
        held: list[str] = row["permissions"]
        return held

    assert await permissions(people[OWNER]) == ["*"]
    admin = await permissions(people[ADMIN])
    assert f"{slug}.*" in admin
    assert not any(p in ("*", "system.*") or p.startswith("system") for p in admin)
    assert await permissions(people[MEMBER]) == ["m.contacts.read"]
    for nobody in (people[None], blocked, stranger):
        assert await permissions(nobody) == []
    assert await rights(people[OWNER], None) is None
    assert (await rights(people[OWNER], installed.b))["permissions"] == []  # type: ignore[index]
    async with login("kernel_gateway", tenant=installed.a) as inside:
        known = await inside.fetch("SELECT auth.known_permissions() AS name")
        assert [row["name"] for row in known] == ["m.contacts.create", "m.contacts.read"]


async def test_a_tenant_that_is_gone_gets_nobody(
    gateway: asyncpg.Connection, target: object, new_tenant: NewTenant
) -> None:
    tenant, user = await new_tenant(), await a_user(gateway)
    await a_member(gateway, tenant, user=user)
    await target.retire_tenant(tenant)  # type: ignore[attr-defined]
    with pytest.raises(asyncpg.ForeignKeyViolationError, match="there is no tenant"):
        await a_member(gateway, tenant)
    with pytest.raises(asyncpg.ForeignKeyViolationError, match="there is no tenant"):
        await gateway.execute(
            "SELECT kernel_cross.put_one_time_token(sha256('i'), 'invite', $1, $2, '1 h')", user, tenant
        )
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await a_session(gateway, tenant, await a_user(gateway))
