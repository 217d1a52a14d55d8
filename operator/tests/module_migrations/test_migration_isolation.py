"""What a migrator and a module's service must not see, asked as those logins."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from migrated_module import DEALS, MORE, Install, Installed, as_tenant

from kernel_local.testing import PostgresServer
from kernel_operator.targets.postgres.module_migrations.login import Migrator, close_login, open_login


@pytest.fixture
async def opened(
    postgres: PostgresServer, pool: asyncpg.Pool, install: Install
) -> AsyncIterator[tuple[Installed, asyncpg.Connection]]:
    """A module with rows in a migrated table and in a model, and a session of its migrator."""
    installed = await install()
    assert (await installed.migrate(DEALS, MORE)).refusal is None
    service = await installed.login()
    for tenant in (installed.a, installed.b):
        await as_tenant(service, tenant, "INSERT INTO deals (title) VALUES ('x')")
        await as_tenant(service, tenant, "INSERT INTO contacts (email) VALUES ('x')")
    await service.close()
    migrator = Migrator(installed.slug)
    await open_login(pool, migrator)
    session = await asyncpg.connect(postgres.url(migrator.login, migrator.password))
    yield installed, session
    session.terminate()
    await close_login(pool, migrator)


async def test_the_migrator_sees_no_schema_but_its_own(opened: tuple[Installed, asyncpg.Connection]) -> None:
    installed, session = opened
    seen = await session.fetch(
        "SELECT nspname FROM pg_namespace WHERE has_schema_privilege(oid, 'USAGE') AND nspname NOT LIKE 'pg\\_%' "
        "AND nspname <> 'information_schema' ORDER BY 1"
    )
    assert [row["nspname"] for row in seen] == ["kernel_migrations", installed.schema]
    makes = await session.fetch("SELECT nspname FROM pg_namespace WHERE has_schema_privilege(oid, 'CREATE')")
    assert [row["nspname"] for row in makes] == [installed.schema]
    readable = await session.fetch(
        "SELECT c.oid::regclass FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace "
        "WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname NOT IN ('pg_catalog', 'information_schema') "
        "AND has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')"
    )
    assert readable == []
    functions = await session.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'kernel_migrations'::regnamespace "
        "AND has_function_privilege(oid, 'EXECUTE') ORDER BY 1"
    )
    assert [row["proname"] for row in functions] == ["finish_file", "start_file"]
    roles = await session.fetch(
        "SELECT rolname FROM pg_roles WHERE rolname <> current_user AND pg_has_role(current_user, oid, 'MEMBER')"
    )
    assert [row["rolname"] for row in roles] == ["kernel_app"]
    attributes = await session.fetchrow("SELECT * FROM pg_roles WHERE rolname = current_user")
    for name in ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls"):
        assert attributes[name] is False
    assert attributes["rolconnlimit"] == 1


async def test_the_migrator_sees_no_rows_of_a_table_that_is_lent_to_it(
    opened: tuple[Installed, asyncpg.Connection],
) -> None:
    installed, session = opened
    async with session.transaction():
        assert await session.fetch("SELECT * FROM kernel_migrations.start_file('{deals}', '{contacts}')") == []
        assert await session.fetchval(f"SELECT count(*) FROM {installed.schema}.deals") == 0
        assert await session.execute(f"DELETE FROM {installed.schema}.deals") == "DELETE 0"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await session.fetch(f"SELECT * FROM {installed.schema}.contacts")


async def test_what_is_lent_is_given_back_or_nothing_is(
    opened: tuple[Installed, asyncpg.Connection], admin: asyncpg.Connection
) -> None:
    installed, session = opened
    async with session.transaction():
        await session.fetch("SELECT * FROM kernel_migrations.start_file('{deals}', '{}')")
        # Nobody else sees that it is lent, or can use what was made, before the end.
        await session.execute(f"CREATE TABLE {installed.schema}.fresh (tenant_id uuid NOT NULL)")
        question = (
            "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = $1::regnamespace AND relname = $2"
        )
        owner = await admin.fetchval(question, installed.schema, "deals")
        assert owner == "kernel_operator"
        assert await admin.fetchval("SELECT to_regclass($1)", f"{installed.schema}.fresh") is None
        xid = await session.fetchval("SELECT pg_current_xact_id()::text")
        finish = "SELECT * FROM kernel_migrations.finish_file($1, '3.sql', repeat('0', 64), '1')"
        assert await session.fetch(finish, xid) == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with session.transaction():
                await session.fetch(f"SELECT * FROM {installed.schema}.fresh")
    service = await installed.login()
    assert await as_tenant(service, installed.a, "INSERT INTO fresh DEFAULT VALUES RETURNING tenant_id") == installed.a
    assert await as_tenant(service, installed.b, "SELECT count(*) FROM fresh") == 0
    await service.close()


async def test_the_login_is_gone_when_the_run_is(
    postgres: PostgresServer, pool: asyncpg.Pool, install: Install
) -> None:
    installed = await install()
    migrator = Migrator(installed.slug)
    await open_login(pool, migrator)
    assert migrator.password not in repr(migrator)
    session = await asyncpg.connect(postgres.url(migrator.login, migrator.password))
    await close_login(pool, migrator)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await session.fetchval("SELECT 1")
    session.terminate()
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(postgres.url(migrator.login, migrator.password))


async def test_one_module_sees_nothing_of_anothers_migrated_tables(install: Install) -> None:
    installed, other = await install(), await install()
    for one in (installed, other):
        assert (await one.migrate(DEALS)).refusal is None
    service = await installed.login()
    await as_tenant(service, installed.a, "INSERT INTO deals (title) VALUES ('mine')")
    for statement in (
        f"SELECT * FROM {other.schema}.deals",
        f"INSERT INTO {other.schema}.deals (title) VALUES ('x')",
        f"SELECT nextval('{other.schema}.numbers')",
        "SELECT * FROM kernel.module_migrations",
        "SELECT * FROM kernel.module_migrators",
        "ALTER TABLE deals DISABLE ROW LEVEL SECURITY",
        "CREATE INDEX ON deals (title)",
        "SELECT setval('numbers', 1)",
        "TRUNCATE deals",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service.execute(statement)
    assert await service.fetchval("SELECT count(*) FROM deals") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await as_tenant(service, installed.b, "INSERT INTO deals (tenant_id, title) VALUES ($1, 'x')", installed.a)
    await service.close()


async def test_the_operator_and_the_capture_see_no_migrated_rows(
    postgres: PostgresServer, pool: asyncpg.Pool, install: Install
) -> None:
    installed = await install()
    assert (await installed.migrate(DEALS)).refusal is None
    service = await installed.login()
    await as_tenant(service, installed.a, "INSERT INTO deals (title) VALUES ('mine')")
    await service.close()
    assert await pool.fetchval(f"SELECT count(*) FROM {installed.schema}.deals") == 0
    capture = await asyncpg.connect(postgres.cdc_url)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await capture.fetch(f"SELECT * FROM {installed.schema}.deals")
    await capture.close()
