"""Migrations on a real server: what they make, what is recorded, what is refused and undone."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest
from migrated_module import DEALS, MORE, PASSWORD, Install, as_tenant, recorded, refused, relations, require_clean

from kernel_local.testing import PostgresServer
from kernel_operator.desired import Migration, Outcome, Unavailable
from kernel_operator.targets.postgres import PostgresTarget


async def test_a_module_works_with_its_migrated_tables(admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    outcome = await installed.migrate(DEALS)
    assert outcome == Outcome(("applied migration 1.sql of version 1.0.0",))
    outcome = await installed.migrate(DEALS, MORE, version="1.1.0")
    assert outcome == Outcome(("applied migration 2.sql of version 1.1.0",))
    assert await installed.migrate(DEALS, MORE, version="1.1.0") == Outcome()
    assert await recorded(admin, installed) == [("1.sql", "1.0.0"), ("2.sql", "1.1.0")]
    assert await relations(admin, installed) == {"contacts", "deals", "lines", "numbers"}
    await require_clean(admin, installed)

    service = await installed.login()
    deal = await as_tenant(service, installed.a, "INSERT INTO deals (title) VALUES ('one') RETURNING id")
    await as_tenant(service, installed.a, "INSERT INTO lines (deal, n) VALUES ($1, 1)", deal)
    assert await service.fetchval("SELECT nextval('numbers')") == 1
    assert await as_tenant(service, installed.a, "SELECT count(*) FROM deals JOIN lines ON deal = id") == 1
    assert await as_tenant(service, installed.b, "SELECT count(*) FROM deals") == 0
    stamp = await as_tenant(service, installed.a, "SELECT updated_at FROM deals")
    after = await as_tenant(service, installed.a, "UPDATE deals SET updated_at = 'epoch' RETURNING updated_at")
    assert after > stamp
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await as_tenant(service, installed.b, "INSERT INTO lines (deal, n) VALUES ($1, 1)", deal)
    await service.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="TRUNCATE is refused"):
        await admin.execute(f"TRUNCATE {installed.schema}.lines")


async def test_a_deleted_tenant_leaves_nothing_in_migrated_tables(admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    assert (await installed.migrate(DEALS, MORE)).refusal is None
    service = await installed.login()
    for tenant in (installed.a, installed.b):
        contact = await as_tenant(service, tenant, "INSERT INTO contacts (email) VALUES ('x') RETURNING id")
        deal = await as_tenant(service, tenant, "INSERT INTO deals (title) VALUES ('x') RETURNING id")
        await as_tenant(service, tenant, "INSERT INTO lines (deal, contact, n) VALUES ($1, $2, 1)", deal, contact)
    await service.close()
    await installed.target.delete_tenant(installed.a)
    for table in ("contacts", "deals", "lines"):
        rows = await admin.fetch(f"SELECT tenant_id FROM {installed.schema}.{table}")
        assert [row["tenant_id"] for row in rows] == [installed.b]


async def test_rows_that_a_migration_brings(admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    rows = f"INSERT INTO deals (tenant_id, title) VALUES ('{installed.a}', 'first'), ('{installed.b}', 'first');"
    assert (await installed.migrate(DEALS + rows)).refusal is None
    assert await admin.fetchval(f"SELECT count(*) FROM {installed.schema}.deals") == 2
    # Into a table that is there already: the policy holds for the migrator too.
    refused(await installed.migrate(DEALS + rows, rows), "MigrationFailed", "2.sql, line 1", "row-level security")
    stranger = DEALS.replace("deals", "others").replace("numbers", "more")
    stranger += "INSERT INTO others (tenant_id, title) VALUES (uuidv7(), 'x');"
    refused(await installed.migrate(DEALS + rows, stranger), "TenantUnknown", "2.sql", "table others")
    assert await relations(admin, installed) == {"contacts", "deals", "numbers"}
    await require_clean(admin, installed)


UNNAMED = "CREATE TABLE x (tenant_id uuid CONSTRAINT c NOT NULL); ALTER TABLE x DROP CONSTRAINT c"


@pytest.mark.parametrize(
    ("reason", "text", "words"),
    [
        ("TenantColumnMissing", "CREATE TABLE x (id uuid)", ["table x", "tenant_id uuid NOT NULL"]),
        ("TenantColumnMissing", "CREATE TABLE x (tenant_id uuid)", ["table x"]),
        (
            "TenantColumnMissing",
            "CREATE TABLE x (tenant_id uuid CONSTRAINT c NOT NULL); ALTER TABLE x DROP CONSTRAINT c",
            ["table x"],
        ),
        ("CatalogueFinding", "CREATE TABLE x (tenant_id uuid NOT NULL, updated_at text)", ["updated_at"]),
        ("ModelTable", "ALTER TABLE contacts ADD COLUMN x int", ["contacts", "spec.dataApi.models"]),
        ("ModelTable", "CREATE INDEX ON contacts (email)", ["contacts"]),
        ("ModelTable", "INSERT INTO contacts (email) VALUES ('x')", ["contacts"]),
        ("ModelTable", "COMMENT ON COLUMN contacts.email IS 'x'", ["contacts"]),
        ("MigrationFailed", "ALTER TABLE absent ADD COLUMN x int", ["2.sql, line 1", "absent", "42P01"]),
        ("MigrationFailed", "CREATE TABLE deals (tenant_id uuid NOT NULL)", ["already exists"]),
        ("MigrationFailed", "CREATE SEQUENCE s;\n\nALTER TABLE deals ADD CHECK (title < 1)", ["line 3", "42883"]),
        ("MigrationFailed", "ALTER TABLE deals ADD COLUMN x int NOT NULL", ["23502", "don't fit: deals, x"]),
        ("MigrationFailed", "ALTER TABLE deals ADD CONSTRAINT num CHECK (title::int > 0)", ["22P02"]),
        ("MigrationFailed", "ALTER TABLE deals ADD CONSTRAINT once UNIQUE (tenant_id)", ["23505"]),
        ("MigrationNotAllowed", "CREATE TABLE y (tenant_id uuid NOT NULL); SET ROLE kernel_operator", ["SET"]),
    ],
)
async def test_a_refused_file_leaves_everything_as_it_was(
    reason: str, text: str, words: list[str], admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    assert (await installed.migrate(DEALS)).refusal is None
    service = await installed.login()
    for title in ("secret-value", "secret-value"):
        await as_tenant(service, installed.a, "INSERT INTO deals (title) VALUES ($1)", title)
    before = await admin.fetchval("SELECT array_agg(c ORDER BY c.oid)::text FROM pg_class AS c WHERE relname = 'deals'")
    outcome = await installed.migrate(DEALS, text, version="2.0.0")
    refused(outcome, reason, "2.sql", *words)
    assert outcome.refusal is not None
    assert "secret-value" not in outcome.refusal.message
    assert outcome.changes == ()
    assert await recorded(admin, installed) == [("1.sql", "1.0.0")]
    assert await relations(admin, installed) == {"contacts", "deals", "numbers"}
    after = await admin.fetchval("SELECT array_agg(c ORDER BY c.oid)::text FROM pg_class AS c WHERE relname = 'deals'")
    assert after == before
    await require_clean(admin, installed)
    assert await as_tenant(service, installed.a, "SELECT count(*) FROM deals") == 2, "the former version works"
    await service.close()
    good = await installed.migrate(DEALS, "CREATE TABLE x (tenant_id uuid NOT NULL)", version="2.0.0")
    assert good == Outcome(("applied migration 2.sql of version 2.0.0",))


async def test_files_before_the_one_that_fails_stay(admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    outcome = await installed.migrate(DEALS, MORE, "ALTER TABLE absent ADD COLUMN x int")
    refused(outcome, "MigrationFailed", "3.sql")
    assert len(outcome.changes) == 2
    assert await recorded(admin, installed) == [("1.sql", "1.0.0"), ("2.sql", "1.0.0")]
    refused(await installed.migrate(DEALS, MORE, "SELECT 1"), "MigrationNotAllowed", "3.sql")
    refused(await installed.migrate(DEALS, MORE + "--"), "MigrationChanged", "2.sql")
    assert await installed.migrate(DEALS) == Outcome(), "an earlier version needs nothing"


async def test_a_text_that_is_refused_stops_the_files_before_it_too(
    admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    refused(await installed.migrate(DEALS, "DROP TABLE deals"), "MigrationNotAllowed", "2.sql")
    assert await recorded(admin, installed) == []


async def test_names_that_are_almost_another_table(admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    text = (
        'CREATE TABLE "De"" als" (tenant_id uuid NOT NULL, "select" text); CREATE TABLE "Ü" (tenant_id uuid NOT NULL)'
    )
    assert (await installed.migrate(text)).refusal is None
    more = 'ALTER TABLE "De"" als" ADD COLUMN "from" text; CREATE INDEX ON "Ü" (tenant_id)'
    assert (await installed.migrate(text, more)).refusal is None
    await require_clean(admin, installed)


async def test_a_module_that_is_not_there_yet_is_waited_for(target: PostgresTarget) -> None:
    with pytest.raises(Unavailable, match="not in the database yet"):
        await target.migrate_module("absent", "1.0.0", [Migration("1.sql", DEALS)])


async def test_a_slug_that_is_too_long_for_a_login_is_refused(target: PostgresTarget) -> None:
    refused(await target.migrate_module("x" * 48, "1.0.0", []), "NameTooLong", "kernel_migrator_")


async def test_rights_follow_the_module(admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    assert (await installed.migrate(DEALS)).refusal is None
    service = await installed.login()
    await installed.target.apply_module(replace(installed.module, active=False), PASSWORD)
    outcome = await installed.migrate(DEALS, MORE)
    assert f"put right the rights on {installed.schema}.deals" in outcome.changes
    for table in ("deals", "lines"):
        assert not await admin.fetchval(
            "SELECT has_table_privilege($1, $2, 'SELECT')", installed.schema, f"{installed.schema}.{table}"
        )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.fetchval(f"SELECT count(*) FROM {installed.schema}.deals")
    await service.close()
    await installed.target.apply_module(installed.module, PASSWORD)
    assert (await installed.migrate(DEALS, MORE)).changes
    service = await installed.login()
    assert await as_tenant(service, installed.a, "SELECT count(*) FROM lines") == 0
    await service.close()


DAMAGE = {
    "row-level security off": "ALTER TABLE {t} DISABLE ROW LEVEL SECURITY",
    "not forced": "ALTER TABLE {t} NO FORCE ROW LEVEL SECURITY",
    "policy dropped": "DROP POLICY tenant_isolation ON {t}",
    "policy altered": "ALTER POLICY tenant_isolation ON {t} USING (true)",
    "policy added": "CREATE POLICY mine ON {t} USING (true)",
    "trigger dropped": "DROP TRIGGER refuse_truncate ON {t}",
    "trigger off": "ALTER TABLE {t} DISABLE TRIGGER touch_updated_at",
    "granted to everybody": "GRANT SELECT ON {t} TO PUBLIC",
    "granted a column": "GRANT SELECT (title) ON {t} TO kernel_app",
    "right taken": "REVOKE DELETE ON {t} FROM {module}",
    "right too much": "GRANT TRUNCATE ON {t} TO {module}",
    "right of the owner": "REVOKE UPDATE ON {t} FROM kernel_operator",
    "published": "ALTER PUBLICATION platform_cdc ADD TABLE {t}",
    "sequence": "GRANT UPDATE ON SEQUENCE {module}.numbers TO {module}",
}


@pytest.mark.parametrize("what", DAMAGE)
async def test_damage_to_a_migrated_table_is_repaired(what: str, admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    assert (await installed.migrate(DEALS)).refusal is None
    table = f"{installed.schema}.deals"
    await admin.execute(DAMAGE[what].format(t=table, module=installed.schema))
    outcome = await installed.migrate(DEALS)
    assert len(outcome.changes) == 1, outcome.changes
    assert await installed.migrate(DEALS) == Outcome()
    await require_clean(admin, installed)
    service = await installed.login()
    await as_tenant(service, installed.a, "INSERT INTO deals (title) VALUES ('x')")
    assert await as_tenant(service, installed.b, "SELECT count(*) FROM deals") == 0
    await service.close()
    acl = await admin.fetchval("SELECT relacl::text FROM pg_class WHERE oid = $1::regclass", table)
    assert acl == f"{{kernel_operator=arwdDxtm/kernel_operator,{installed.schema}=arwd/kernel_operator}}"


async def test_two_operators_run_a_module_once(
    postgres: PostgresServer, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    others = [PostgresTarget(postgres.operator_url) for _ in range(3)]
    migrations = [Migration("1.sql", DEALS), Migration("2.sql", MORE)]
    changes: list[str] = []

    async def until_done(target: PostgresTarget) -> None:
        async with asyncio.timeout(60):
            while True:
                try:
                    outcome = await target.migrate_module(installed.slug, "1.0.0", migrations)
                except Unavailable:
                    await asyncio.sleep(0.05)
                    continue
                assert outcome.refusal is None
                changes.extend(outcome.changes)
                return

    try:
        await asyncio.gather(*(until_done(target) for target in (installed.target, *others)))
    finally:
        await asyncio.gather(*(other.close() for other in others))
    assert sorted(c for c in changes if c.startswith("applied")) == [
        "applied migration 1.sql of version 1.0.0",
        "applied migration 2.sql of version 1.0.0",
    ]
    await require_clean(admin, installed)


async def test_modules_migrate_side_by_side(admin: asyncpg.Connection, install: Install) -> None:
    several = [await install() for _ in range(6)]
    outcomes = await asyncio.gather(*(installed.migrate(DEALS, MORE) for installed in several))
    assert [outcome.refusal for outcome in outcomes] == [None] * 6
    assert [len(outcome.changes) for outcome in outcomes] == [2] * 6
    for installed in several:
        await require_clean(admin, installed)


async def test_a_lock_that_is_held_is_no_error_but_a_wait(admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    assert (await installed.migrate(DEALS)).refusal is None
    async with admin.transaction():
        await admin.execute(f"LOCK TABLE {installed.schema}.deals IN ACCESS SHARE MODE")
        with pytest.raises(Unavailable, match="a lock was not free in time"):
            await installed.migrate(DEALS, MORE)
    await require_clean(admin, installed)
    assert (await installed.migrate(DEALS, MORE)).changes == ("applied migration 2.sql of version 1.0.0",)


async def test_a_file_that_takes_too_long_is_refused(
    admin: asyncpg.Connection, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kernel_operator.targets.postgres.module_migrations import runner

    installed = await install()
    assert (await installed.migrate(DEALS)).refusal is None
    rows = "SELECT $1, n::text FROM generate_series(1, 50000) AS n"
    await admin.execute(f"INSERT INTO {installed.schema}.deals (tenant_id, title) {rows}", installed.a)
    monkeypatch.setattr(runner, "STATEMENT_TIMEOUT", 0.05)
    slow = "ALTER TABLE deals ADD CHECK (" + " AND ".join(["md5(md5(md5(title))) <> 'x'"] * 40) + ")"
    refused(await installed.migrate(DEALS, slow), "MigrationTooSlow", "2.sql, line 1")
    await require_clean(admin, installed)


async def test_a_removed_module_forgets_its_migrations_with_its_data(
    admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    assert (await installed.migrate(DEALS)).refusal is None
    await installed.target.remove_module(installed.slug, drop_data=False)
    assert await recorded(admin, installed) == [("1.sql", "1.0.0")], "the tables are kept, so the record is"
    await installed.target.remove_module(installed.slug, drop_data=True)
    assert await recorded(admin, installed) == []
    await installed.target.apply_module(installed.module, PASSWORD)
    assert (await installed.migrate(DEALS)).changes == ("applied migration 1.sql of version 1.0.0",)
