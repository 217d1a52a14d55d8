"""The second wall: SQL that got past the allow-list. Here the list is switched off."""

import asyncpg
import pytest
from migrated_module import DEALS, Install, as_tenant, recorded, refused, relations, require_clean

from kernel_operator.desired import Outcome
from kernel_operator.targets.postgres.module_migrations import runner
from kernel_operator.targets.postgres.module_migrations.reading import Checked
from kernel_operator.targets.postgres.module_migrations.statements import Touched

BASE = DEALS.replace(";\n", ";;").strip(";\n ")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements are parted by ``;;`` and run as they are; the table deals is lent to all of them."""

    def read(name: str, text: str, schema: str) -> list[Checked]:
        return [Checked(sql, 1, Touched(("deals",), ("contacts",))) for sql in text.split(";;")]

    monkeypatch.setattr(runner, "read", read)


FOUND = {
    "function": "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "procedure": "CREATE PROCEDURE f() LANGUAGE sql AS 'SELECT 1'",
    "trigger": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';;"
    "CREATE TRIGGER x BEFORE INSERT ON deals FOR EACH ROW EXECUTE FUNCTION f()",
    "rule": "CREATE RULE x AS ON INSERT TO deals DO ALSO NOTIFY x",
    "view": "CREATE VIEW v AS SELECT * FROM deals",
    "materialized view": "CREATE MATERIALIZED VIEW v AS SELECT 1 AS a",
    "enum": "CREATE TYPE mood AS ENUM ('a')",
    "domain": "CREATE DOMAIN d AS text",
    "composite": "CREATE TYPE pair AS (a int)",
    "range": "CREATE TYPE r AS RANGE (SUBTYPE = float8)",
    "operator": "CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)",
    "operator family": "CREATE AGGREGATE a (int) (SFUNC = int4pl, STYPE = int)",
    "collation": 'CREATE COLLATION c FROM "C"',
    "conversion": "CREATE CONVERSION c FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
    "statistics": "CREATE STATISTICS x ON tenant_id, title FROM deals",
    "text search": "CREATE TEXT SEARCH CONFIGURATION c (COPY = pg_catalog.english)",
    "unlogged": "CREATE UNLOGGED TABLE x (tenant_id uuid NOT NULL)",
    "partitioned": "CREATE TABLE x (tenant_id uuid NOT NULL) PARTITION BY LIST (tenant_id)",
    "inheriting": "CREATE TABLE x (a int) INHERITS (deals)",
    "of a type": "CREATE TYPE pair AS (tenant_id uuid);;CREATE TABLE x OF pair (tenant_id NOT NULL)",
    "default privileges": "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
    "large object": "SELECT lo_create(0)",
    "foreign key over tenants": "CREATE TABLE x (tenant_id uuid NOT NULL, c uuid, t uuid, "
    "FOREIGN KEY (t, c) REFERENCES contacts (tenant_id, id))",
    "unique over tenants": "CREATE UNIQUE INDEX ON deals (title)",
    "tenant column generated": "CREATE TABLE x (tenant_id uuid NOT NULL GENERATED ALWAYS AS (NULL::uuid) STORED)",
    "function in a default": "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';;"
    "ALTER TABLE deals ADD COLUMN n int DEFAULT f()",
}


@pytest.mark.parametrize("what", FOUND)
@pytest.mark.usefixtures("unchecked")
async def test_what_is_found_undoes_the_file(what: str, admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    assert (await installed.migrate(BASE)).refusal is None
    outcome = await installed.migrate(BASE, f"CREATE TABLE y (tenant_id uuid NOT NULL);;{FOUND[what]}")
    assert outcome.changes == ()
    assert outcome.refusal is not None
    assert outcome.refusal.reason in (
        "CatalogueFinding",
        "UniqueWithoutTenant",
        "ForeignKeyWithoutTenant",
        "TenantColumnMissing",
    ), outcome.refusal
    assert await relations(admin, installed) == {"contacts", "deals", "numbers"}
    assert await recorded(admin, installed) == [("1.sql", "1.0.0")]
    await require_clean(admin, installed)


REPAIRED = {
    "row-level security off": "ALTER TABLE deals DISABLE ROW LEVEL SECURITY",
    "not forced": "ALTER TABLE deals NO FORCE ROW LEVEL SECURITY",
    "policy": "CREATE POLICY mine ON deals USING (true)",
    "policy dropped": "DROP POLICY tenant_isolation ON deals",
    "triggers off": "ALTER TABLE deals DISABLE TRIGGER USER",
    "trigger dropped": "DROP TRIGGER touch_updated_at ON deals",
    "granted to everybody": "GRANT ALL ON deals TO PUBLIC",
    "granted to another": "GRANT SELECT (title) ON deals TO kernel_app WITH GRANT OPTION",
    "revoked": "REVOKE ALL ON deals FROM PUBLIC",
    "right kept for itself": "GRANT SELECT ON deals TO CURRENT_USER WITH GRANT OPTION",
    "own settings": "ALTER ROLE CURRENT_USER SET search_path = kernel",
    "own password": "ALTER ROLE CURRENT_USER PASSWORD 'mine'",
    "search path": "SET search_path = pg_temp, public",
    "row security setting": "SET row_security = off",
    "schema given away": "GRANT ALL ON SCHEMA {schema} TO PUBLIC",
}


@pytest.mark.parametrize("what", REPAIRED)
@pytest.mark.usefixtures("unchecked")
async def test_what_can_be_put_right_is(what: str, admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    assert (await installed.migrate(BASE)).refusal is None
    outcome = await installed.migrate(BASE, REPAIRED[what].format(schema=installed.schema))
    assert outcome.refusal is None
    await require_clean(admin, installed)
    acl = await admin.fetchval(
        "SELECT relacl::text FROM pg_class WHERE oid = $1::regclass", f"{installed.schema}.deals"
    )
    assert acl == f"{{kernel_operator=arwdDxtm/kernel_operator,{installed.schema}=arwd/kernel_operator}}"
    assert not await admin.fetchval("SELECT has_schema_privilege('kernel_app', $1, 'USAGE')", installed.schema)
    assert await installed.migrate(BASE, REPAIRED[what].format(schema=installed.schema)) == Outcome(), (
        "nothing was left"
    )
    service = await installed.login()
    await as_tenant(service, installed.a, "INSERT INTO deals (title) VALUES ('x')")
    assert await as_tenant(service, installed.b, "SELECT count(*) FROM deals") == 0
    await service.close()


FORBIDDEN = {
    "operator": "SET ROLE kernel_operator",
    "session": "SET SESSION AUTHORIZATION kernel_operator",
    "own module": "SET ROLE {schema}",
    "marker": "SET ROLE kernel_app",
    "other module": "SELECT * FROM {other}.contacts",
    "other module's rights": "GRANT ALL ON {other}.contacts TO CURRENT_USER",
    "own model": "SELECT * FROM contacts",
    "own model altered": "ALTER TABLE contacts NO FORCE ROW LEVEL SECURITY",
    "own model's policy": "DROP POLICY tenant_isolation ON contacts",
    "tenants": "SELECT * FROM kernel.tenants",
    "record": "INSERT INTO kernel.module_migrations VALUES ('x', 'x', 'x', 'x')",
    "migrators": "UPDATE kernel.module_migrators SET slug = 'other'",
    "function of the kernel": "SELECT kernel.outbox_make_partitions(1)",
    "protection": "SELECT kernel_migrations.protect('other')",
    "in kernel": "CREATE TABLE kernel.x (a int)",
    "in the migrations' schema": "CREATE TABLE kernel_migrations.x (a int)",
    "in public": "CREATE TABLE public.x (a int)",
    "temporary": "CREATE TEMPORARY TABLE x (a int)",
    "schema": "CREATE SCHEMA x",
    "owner": "ALTER TABLE deals OWNER TO {schema}",
    "given to the operator": "ALTER TABLE deals OWNER TO kernel_operator",
    "schema dropped": "DROP SCHEMA {schema} CASCADE",
    "role": "CREATE ROLE x",
    "bypass": "ALTER ROLE CURRENT_USER BYPASSRLS",
    "longer": "ALTER ROLE CURRENT_USER VALID UNTIL 'infinity'",
    "membership": "GRANT kernel_operator TO CURRENT_USER",
    "program": "COPY deals TO PROGRAM 'cat'",
    "file": "SELECT pg_read_file('postgresql.conf')",
    "publication": "CREATE PUBLICATION x FOR TABLE deals",
    "into publication": "ALTER PUBLICATION platform_cdc ADD TABLE deals",
    "slot": "SELECT pg_create_logical_replication_slot('x', 'pgoutput')",
    "extension": "CREATE EXTENSION pg_trgm",
    "event trigger": "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';;"
    "CREATE EVENT TRIGGER x ON ddl_command_start EXECUTE FUNCTION f()",
    "replica": "SET session_replication_role = replica",
    "passwords": "SELECT * FROM pg_authid",
    "shell type": "CREATE TYPE nothing",
    "two at once": "SELECT 1; SELECT 2",
}


@pytest.mark.parametrize("what", FORBIDDEN)
@pytest.mark.usefixtures("unchecked")
async def test_the_migrator_may_not(what: str, admin: asyncpg.Connection, install: Install) -> None:
    installed, other = await install(), await install()
    assert (await installed.migrate(BASE)).refusal is None
    outcome = await installed.migrate(BASE, FORBIDDEN[what].format(schema=installed.schema, other=other.schema))
    expected = "42601" if what == "two at once" else "42501"
    if what in ("extension", "publication"):
        expected = "42501" if outcome.refusal and "42501" in outcome.refusal.message else "0A000"
    refused(outcome, "MigrationFailed", f"SQLSTATE {expected}")
    await require_clean(admin, installed)
    await require_clean(admin, other)


@pytest.mark.usefixtures("unchecked")
async def test_what_a_file_commits_by_itself_is_taken_over_and_protected(
    admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    assert (await installed.migrate(BASE)).refusal is None
    evil = "ALTER TABLE deals DISABLE ROW LEVEL SECURITY;;GRANT ALL ON deals TO PUBLIC;;"
    outcome = await installed.migrate(BASE, f"CREATE TABLE x (tenant_id uuid NOT NULL);;{evil}COMMIT")
    refused(outcome, "CatalogueFinding", "ended its transaction")
    assert await recorded(admin, installed) == [("1.sql", "1.0.0")]
    assert await relations(admin, installed) == {"contacts", "deals", "numbers", "x"}
    await require_clean(admin, installed)
    service = await installed.login()
    await as_tenant(service, installed.a, "INSERT INTO deals (title) VALUES ('x')")
    assert await as_tenant(service, installed.b, "SELECT count(*) FROM deals") == 0
    await service.close()


@pytest.mark.usefixtures("unchecked")
async def test_what_can_be_neither_undone_nor_taken_over_calls_an_administrator(
    admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    outcome = await installed.migrate("CREATE VIEW v AS SELECT 1 AS a;;COMMIT")
    refused(outcome, "CatalogueFinding", "view", f"{installed.schema}.v", "REASSIGN OWNED BY")
    assert outcome.refusal is not None
    assert "\n" not in outcome.refusal.message
    assert await admin.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", installed.migrator) is False
    refused(await installed.migrate("CREATE TABLE y (tenant_id uuid NOT NULL)"), "CatalogueFinding", "REASSIGN")
    await admin.execute(f"DROP VIEW {installed.schema}.v")
    assert (await installed.migrate("CREATE TABLE y (tenant_id uuid NOT NULL)")).refusal is None
    await require_clean(admin, installed)


@pytest.mark.usefixtures("unchecked")
async def test_the_functions_with_the_operators_rights_serve_nobody_else(
    admin: asyncpg.Connection, install: Install, pool: asyncpg.Pool
) -> None:
    installed, other = await install(), await install()
    service = await installed.login()
    for call in ("start_file('{}', '{}')", "finish_file('', '', '', '')", "protect('x')", "findings('x', 'y')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service.fetch(f"SELECT kernel_migrations.{call}")
        assert not await admin.fetchval(
            "SELECT has_function_privilege('public', p.oid, 'EXECUTE') FROM pg_proc AS p WHERE proname = $1",
            call.partition("(")[0],
        )
    await service.close()
    async with pool.acquire() as operator:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="is no migrator"):
            await operator.fetch("SELECT kernel_migrations.start_file('{contacts}', '{}')")
    # The migrator can call them, but only for its own module and never for a model.
    lend = "SELECT CASE WHEN reason = 'ModelTable' THEN 1 / 0 END FROM kernel_migrations.start_file('{contacts}', '{}')"
    refused(await other.migrate(lend), "MigrationFailed", "22012")
    await require_clean(admin, other)
