"""What each role must not see, asked as that role."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_common.events import Envelope, emit
from kernel_common.ids import uuid7
from kernel_operator.targets.postgres import PostgresTarget

from .conftest import Installed, Login, add_rows

Install = Callable[..., Awaitable[Installed]]

AUTH_TABLES = {
    "kernel": {"users", "one_time_tokens", "login_failures"},
    "private": {"members", "roles", "member_roles", "rbac_versions", "refresh_tokens"},
}
"""The same for the schema auth."""

KERNEL_TABLES = {
    "kernel": {
        "schema_migrations",
        "tenants",
        "tenant_closure",
        "modules",
        "module_tenants",
        "module_models",
        "module_migrations",
        "module_migrators",
        "processed_event_ids",
        "event_rights",
        "outbox_days",
        "cdc_snapshots",
    },
    "template": {"model_template"},
    "outbox": {"outbox"},
    "dead letters": {"dlq_records"},
}
"""Every table of the schema kernel is in exactly one class; all others are captured or private."""


async def test_a_module_sees_only_the_rows_of_its_tenant(
    admin: asyncpg.Connection, install: Install, login: Login
) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.a, 3)
    await add_rows(admin, installed.table, installed.b, 5)
    role = installed.module.schema
    async with login(role, tenant=installed.a) as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {installed.table}") == 3
        assert await connection.fetchval("SELECT count(*) FROM contacts WHERE tenant_id = $1", installed.b) == 0
        changed = await connection.execute("UPDATE contacts SET score = 1")
        assert changed == "UPDATE 3"
        assert await connection.execute("DELETE FROM contacts WHERE tenant_id = $1", installed.b) == "DELETE 0"
    async with login(role) as connection:
        assert await connection.fetchval("SELECT count(*) FROM contacts") == 0
        assert await connection.execute("DELETE FROM contacts") == "DELETE 0"
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", str(installed.a))
        assert await connection.fetchval("SELECT count(*) FROM contacts") == 0, "an emptied setting is no tenant"
    assert await admin.fetchval(f"SELECT count(*) FROM {installed.table}") == 8


async def test_a_module_writes_for_no_other_tenant(admin: asyncpg.Connection, install: Install, login: Login) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.b)
    for statement in (
        "INSERT INTO contacts (tenant_id, email) VALUES ('{b}', 'x')",
        "UPDATE contacts SET tenant_id = '{b}'",
    ):
        async with login(installed.module.schema, tenant=installed.a) as connection:
            await connection.execute("INSERT INTO contacts (email) VALUES ('mine')")
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                async with connection.transaction():
                    await connection.execute(statement.format(b=installed.b))
    async with login(installed.module.schema) as connection:
        with pytest.raises(asyncpg.PostgresError, match=r"tenant_id|row-level security"):
            await connection.execute("INSERT INTO contacts (email) VALUES ('nobody''s')")
    assert await admin.fetchval(f"SELECT count(*) FROM {installed.table} WHERE tenant_id = $1", installed.b) == 1


async def test_ids_and_idempotency_keys_of_one_tenant_tell_another_nothing(
    admin: asyncpg.Connection, install: Install, login: Login
) -> None:
    installed = await install()
    [row] = await add_rows(admin, installed.table, installed.b)
    await admin.execute(f"UPDATE {installed.table} SET idempotency_key = $1 WHERE id = $1", row)
    async with login(installed.module.schema, tenant=installed.a) as connection:
        await connection.execute("INSERT INTO contacts (id, idempotency_key, email) VALUES ($1, $1, 'x')", row)
        assert await connection.fetchval("SELECT count(*) FROM contacts WHERE id = $1", row) == 1


FORBIDDEN = {
    "another module's table": "SELECT * FROM {other}.contacts",
    "another module's table, written": "INSERT INTO {other}.contacts (email) VALUES ('x')",
    "tenants": "SELECT * FROM kernel.tenants",
    "modules": "SELECT * FROM kernel.modules",
    "outbox": "SELECT * FROM kernel.outbox",
    "publish": "INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope) "
    "VALUES (uuidv7(), 'platform.auth.events', 'k', 'a.b.c', uuidv7(), '{{}}')",
    "function of the kernel": "SELECT kernel.outbox_make_partitions(1)",
    "truncate": "TRUNCATE contacts",
    "row security off": "ALTER TABLE contacts DISABLE ROW LEVEL SECURITY",
    "row security not forced": "ALTER TABLE contacts NO FORCE ROW LEVEL SECURITY",
    "policy": "DROP POLICY tenant_isolation ON contacts",
    "policy added": "CREATE POLICY mine ON contacts USING (true)",
    "trigger": "ALTER TABLE contacts DISABLE TRIGGER ALL",
    "trigger added": "CREATE TRIGGER x BEFORE INSERT ON contacts EXECUTE FUNCTION kernel.touch_updated_at()",
    "triggers skipped": "SET session_replication_role = replica",
    "reference": "CREATE TABLE pg_temp.mine (a uuid, b uuid, FOREIGN KEY (a, b) REFERENCES contacts)",
    "drop": "DROP TABLE contacts",
    "table in its schema": "CREATE TABLE {own}.mine (a int)",
    "table in public": "CREATE TABLE public.mine (a int)",
    "temporary table": "CREATE TEMPORARY TABLE mine (a int)",
    "schema": "CREATE SCHEMA mine",
    "publication": "CREATE PUBLICATION mine FOR TABLE contacts",
    "slot": "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')",
    "operator": "SET ROLE kernel_operator",
    "capture": "SET ROLE kernel_cdc",
    "cross": "SET ROLE kernel_cross",
    "marker": "SET ROLE kernel_app",
    "publisher": "SET ROLE kernel_publisher",
    "another module": "SET ROLE {other}",
    "role": "CREATE ROLE mine",
    "bypass": "ALTER ROLE {own} BYPASSRLS",
    "limit": "ALTER ROLE {own} CONNECTION LIMIT -1",
    "membership": "GRANT kernel_cross TO {own}",
    "passwords": "SELECT * FROM pg_authid",
    "server's files": "SELECT pg_read_file('postgresql.conf')",
    "server's programs": "COPY contacts TO PROGRAM 'cat'",
    "row_security setting": "SET row_security = off; SELECT * FROM contacts",
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_a_module_may_not(what: str, admin: asyncpg.Connection, install: Install, login: Login) -> None:
    installed, other = await install(), await install()
    await add_rows(admin, installed.table, installed.b)
    statement = FORBIDDEN[what].format(own=installed.module.schema, other=other.module.schema)
    async with login(installed.module.schema) as connection:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await connection.execute(statement)
        assert caught.value.sqlstate in ("42501", "42000"), caught.value


async def test_a_module_sees_no_statement_or_statistic_of_others(
    admin: asyncpg.Connection, install: Install, login: Login, pool: asyncpg.Pool
) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.b, 50)
    await admin.execute(f"ANALYZE {installed.table}")
    async with login(installed.module.schema, tenant=installed.a) as connection, pool.acquire() as operator:
        await operator.fetchval("SELECT 'a secret of the operator'")
        queries = await connection.fetch("SELECT query FROM pg_stat_activity WHERE usename = 'kernel_operator'")
        assert queries
        assert {row["query"] for row in queries} <= {"<insufficient privilege>"}
        statistics = "SELECT count(*) FROM pg_stats WHERE schemaname = $1"
        assert await admin.fetchval(statistics, installed.module.schema) > 0
        assert await connection.fetchval(statistics, installed.module.schema) == 0


async def test_a_module_connects_to_the_platform_only_through_its_own_login(install: Install, login: Login) -> None:
    installed, other = await install(), await install()
    async with login(installed.module.schema) as connection:
        roles = await connection.fetch(
            "SELECT rolname FROM pg_roles WHERE rolname <> current_user AND pg_has_role(current_user, oid, 'MEMBER')"
        )
        assert [row["rolname"] for row in roles] == ["kernel_app"]
    with pytest.raises(asyncpg.InvalidPasswordError):
        async with login(other.module.schema, password="wrong"):
            raise AssertionError("logged in")


async def test_the_operator_sees_no_tenants_rows(
    admin: asyncpg.Connection, install: Install, pool: asyncpg.Pool
) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.a)
    await admin.execute(
        "INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope) SELECT id, "
        "'platform.a.events', 'k', 'a.b.c', tenant_id, "
        "jsonb_build_object('id', id, 'type', 'a.b.c', 'tenantId', tenant_id) "
        f"FROM {installed.table}"
    )
    async with pool.acquire() as operator:
        assert await operator.fetchval(f"SELECT count(*) FROM {installed.table}") == 0
        assert await operator.execute(f"UPDATE {installed.table} SET score = 2") == "UPDATE 0"
        assert await operator.execute(f"DELETE FROM {installed.table}") == "DELETE 0"
        assert await operator.fetchval("SELECT count(*) FROM kernel.outbox") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await operator.execute(f"TRUNCATE {installed.table}")


BEYOND_THE_OPERATOR = (
    "SET ROLE kernel_cdc",
    "SET ROLE kernel_cross",
    "GRANT kernel_cdc TO kernel_operator",
    "GRANT kernel_cross TO kernel_operator",
    "ALTER ROLE kernel_cdc PASSWORD 'mine'",
    "ALTER ROLE kernel_cross LOGIN",
    "ALTER ROLE kernel_operator BYPASSRLS",
    "ALTER ROLE kernel_operator SUPERUSER",
    "CREATE ROLE mine BYPASSRLS",
    "CREATE ROLE mine REPLICATION",
    "CREATE ROLE mine SUPERUSER",
    "CREATE ROLE mine IN ROLE kernel_cross",
    "CREATE ROLE mine IN ROLE pg_read_all_data",
    "GRANT pg_read_all_data TO kernel_operator",
    "DROP ROLE kernel_cdc",
    "SET session_replication_role = replica",
    "SELECT * FROM pg_authid",
    "COPY kernel.tenants TO PROGRAM 'cat'",
    "CREATE TABLE public.mine (a int)",
)


@pytest.mark.parametrize("statement", BEYOND_THE_OPERATOR)
async def test_the_operator_may_not(statement: str, pool: asyncpg.Pool) -> None:
    async with pool.acquire() as operator:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await operator.execute(statement)


async def test_capture_reads_captured_tables_and_the_outbox_and_nothing_else(
    admin: asyncpg.Connection, install: Install, login: Login
) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.a, 2)
    await add_rows(admin, installed.table, installed.b, 1)
    async with login("kernel_cdc") as capture:
        assert await capture.fetchval(f"SELECT count(*) FROM {installed.table}") == 3
        assert await capture.fetchval("SELECT count(*) FROM kernel.outbox WHERE tenant_id = $1", installed.a) > 0
        readable = await capture.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE relkind IN ('r', 'p', 'v', 'm', 'S') AND nspname IN ($1, 'kernel') "
            "AND CASE relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT') "
            "ELSE has_table_privilege(c.oid, 'SELECT') END",
            installed.module.schema,
        )
        assert {row["name"] for row in readable} == {installed.table, "kernel.outbox", "kernel.cdc_snapshots"}
        for statement in (
            f"SELECT * FROM {installed.module.schema}.notes",
            "SELECT * FROM kernel.tenants",
            f"INSERT INTO {installed.table} (tenant_id, email) VALUES (uuidv7(), 'x')",
            f"DELETE FROM {installed.table}",
            "DELETE FROM kernel.outbox",
            "SET ROLE kernel_operator",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await capture.execute(statement)


async def test_a_publisher_publishes_for_its_tenant_and_reads_nothing(
    admin: asyncpg.Connection, install: Install, login: Login
) -> None:
    slug = f"p{uuid7().hex}"[:30]
    kind, source = f"{slug}.contact.created", f"@acme/{slug}"
    installed = await install(slug=slug, module_name=source, publishes=(kind,))
    role = installed.module.schema
    mine = Envelope(type=kind, source=source, tenant_id=installed.a)
    others = Envelope(type=kind, source=source, tenant_id=installed.b)
    async with login(role, tenant=installed.a) as connection:
        await emit(connection, mine)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            async with connection.transaction():
                await emit(connection, others)
        with pytest.raises(asyncpg.CheckViolationError, match="outbox_envelope_agrees"):
            async with connection.transaction():
                await connection.execute(
                    "INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope) "
                    "VALUES ($1, $2, 'k', $3, $4, $5)",
                    others.id,
                    others.topic,
                    others.type,
                    installed.a,
                    others.to_json(),
                )
        for statement in (
            "SELECT count(*) FROM kernel.outbox",
            "DELETE FROM kernel.outbox",
            "UPDATE kernel.outbox SET key = 'x'",
            f"INSERT INTO kernel.outbox (created_at, id) VALUES ('2999-01-01', '{mine.id}')",
            "SELECT * FROM kernel.outbox_default",
            "SELECT * FROM kernel.event_rights",
            f"INSERT INTO kernel.event_rights (login, type, source) VALUES ('{role}', '{slug}.a.b', '{source}')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with connection.transaction():
                    await connection.execute(statement)
    assert await admin.fetchval("SELECT count(*) FROM kernel.outbox WHERE id = $1", mine.id) == 1


async def test_truncate_is_refused_even_to_the_superuser(admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.a)
    for statement in (
        f"TRUNCATE {installed.table}",
        f"TRUNCATE {installed.table} CASCADE",
        "TRUNCATE kernel.tenants CASCADE",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="TRUNCATE is refused"):
            await admin.execute(statement)
    assert await admin.fetchval(f"SELECT count(*) FROM {installed.table}") == 1


async def test_every_table_is_in_exactly_one_class(admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    rows = await admin.fetch(
        "SELECT nspname, relname, relrowsecurity AND relforcerowsecurity AS forced, relowner::regrole::text AS owner "
        "FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p') AND NOT relispartition "
        "AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'"
    )
    kernel = {row["relname"] for row in rows if row["nspname"] == "kernel"}
    assert kernel == set().union(*KERNEL_TABLES.values())
    auth = {row["relname"]: row["forced"] for row in rows if row["nspname"] == "auth"}
    assert auth.keys() == AUTH_TABLES["kernel"] | AUTH_TABLES["private"]
    assert {name for name, forced in auth.items() if forced} == AUTH_TABLES["private"]
    assert all(row["nspname"].startswith("module_") for row in rows if row["nspname"] not in ("kernel", "auth"))
    assert [row["forced"] for row in rows if row["nspname"] == installed.module.schema] == [True, True]
    assert {row["owner"] for row in rows} == {"kernel_operator"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.integers(-3600, 3600), min_size=1, max_size=8))
async def test_updated_at_increases_whatever_the_clock_does(
    steps: list[int], admin: asyncpg.Connection, stepping: tuple[Installed, str]
) -> None:
    """A clock that steps back is the same as a row whose stamp lies ahead of the clock."""
    installed, table = stepping
    [row] = await add_rows(admin, table, installed.a)
    stamp = await admin.fetchval(f"SELECT updated_at FROM {table} WHERE id = $1", row)
    for step in steps:
        async with admin.transaction():
            await admin.execute("SET LOCAL session_replication_role = replica")
            stamp = await admin.fetchval(
                f"UPDATE {table} SET updated_at = $2 WHERE id = $1 RETURNING updated_at",
                row,
                stamp + timedelta(seconds=step),
            )
        for _ in range(2):
            after = await admin.fetchval(
                f"UPDATE {table} SET score = $2, updated_at = 'epoch' WHERE id = $1 RETURNING updated_at", row, step
            )
            assert after > stamp
            stamp = after


@pytest.fixture(scope="session")
async def stepping(target: PostgresTarget) -> tuple[Installed, str]:
    from .conftest import PASSWORD, a_module, a_tenant

    tenant = a_tenant()
    await target.apply_tenants([tenant])
    module = a_module(tenants=frozenset({tenant.id}))
    await target.apply_module(module, PASSWORD)
    return Installed(module, tenant.id, tenant.id), f"{module.schema}.contacts"
