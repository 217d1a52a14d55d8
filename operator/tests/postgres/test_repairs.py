"""Whatever was damaged is put right by the next comparison, told, and not touched again."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import asyncpg
import pytest

from kernel_operator.desired import Column, ColumnType
from kernel_operator.targets.postgres import PostgresTarget

from .conftest import PASSWORD, Installed, add_rows

Install = Callable[..., Awaitable[Installed]]

DAMAGE = {
    "policy dropped": ("DROP POLICY tenant_isolation ON {t}", "created policy tenant_isolation"),
    "policy open": ("ALTER POLICY tenant_isolation ON {t} USING (true)", "created policy tenant_isolation"),
    "policy check open": ("ALTER POLICY tenant_isolation ON {t} WITH CHECK (true)", "created policy tenant_isolation"),
    "policy for some": ("ALTER POLICY tenant_isolation ON {t} TO kernel_app", "created policy tenant_isolation"),
    "policy added": ("CREATE POLICY extra ON {t} USING (true)", "dropped policy extra"),
    "row security off": ("ALTER TABLE {t} DISABLE ROW LEVEL SECURITY", "enabled row-level security"),
    "row security not forced": ("ALTER TABLE {t} NO FORCE ROW LEVEL SECURITY", "forced row-level security"),
    "trigger dropped": ("DROP TRIGGER touch_updated_at ON {t}", "restored trigger touch_updated_at"),
    "trigger disabled": ("ALTER TABLE {t} DISABLE TRIGGER refuse_truncate", "restored trigger refuse_truncate"),
    "trigger replaced": (
        "CREATE OR REPLACE TRIGGER touch_updated_at BEFORE INSERT ON {t} "
        "FOR EACH ROW EXECUTE FUNCTION kernel.touch_updated_at()",
        "restored trigger touch_updated_at",
    ),
    "trigger conditional": (
        "CREATE OR REPLACE TRIGGER touch_updated_at BEFORE UPDATE ON {t} "
        "FOR EACH ROW WHEN (false) EXECUTE FUNCTION kernel.touch_updated_at()",
        "restored trigger touch_updated_at",
    ),
    "replica identity": ("ALTER TABLE {t} REPLICA IDENTITY DEFAULT", "set replica identity FULL"),
    "not published": ("ALTER PUBLICATION platform_cdc DROP TABLE {t}", "put table {t} into platform_cdc"),
    "published in part": (
        "ALTER PUBLICATION platform_cdc DROP TABLE {t}; ALTER PUBLICATION platform_cdc ADD TABLE {t} WHERE (score > 1)",
        "put table {t} into platform_cdc",
    ),
    "private table published": (
        "ALTER PUBLICATION platform_cdc ADD TABLE {s}.notes",
        "took table {s}.notes out of platform_cdc",
    ),
    "publication dropped": ("DROP PUBLICATION platform_cdc", "created publication platform_cdc"),
    "publication less": (
        "ALTER PUBLICATION platform_cdc SET (publish = 'insert')",
        "put right what publication platform_cdc publishes",
    ),
    "right taken": ("REVOKE INSERT ON {t} FROM {s}", "gave {s} INSERT on table {t}"),
    "right added": ("GRANT TRUNCATE ON {t} TO {s}", "took TRUNCATE on table {t} from {s}"),
    "right for everyone": ("GRANT SELECT ON {t} TO PUBLIC", "took SELECT on table {t} from PUBLIC"),
    "right for another": ("GRANT SELECT ON {t} TO kernel_publisher", "from kernel_publisher"),
    "right that may be passed on": (
        "GRANT SELECT ON {t} TO {s} WITH GRANT OPTION",
        "took SELECT on table {t} from {s}",
    ),
    "right on a column": ("GRANT UPDATE (email) ON {t} TO kernel_publisher", "took rights on columns"),
    "right of the capture": ("REVOKE SELECT ON {t} FROM kernel_cdc", "gave kernel_cdc SELECT on table {t}"),
    "right on the schema taken": ("REVOKE USAGE ON SCHEMA {s} FROM {s}", "gave {s} USAGE on schema {s}"),
    "right on the schema added": ("GRANT CREATE ON SCHEMA {s} TO {s}", "took CREATE on schema {s} from {s}"),
    "table's owner": ("ALTER TABLE {t} OWNER TO {s}", "took table {t} back from {s}"),
    "schema's owner": ("ALTER SCHEMA {s} OWNER TO {s}", "took schema {s} back from {s}"),
    "table dropped": ("DROP TABLE {t}", "created table {t}"),
    "column dropped": ("ALTER TABLE {t} DROP COLUMN score", "added column score"),
    "common column dropped": ("ALTER TABLE {t} DROP COLUMN deleted_at", "restored column deleted_at"),
    "default of the tenant": ("ALTER TABLE {t} ALTER tenant_id DROP DEFAULT", "restored the default of tenant_id"),
    "default of the id": ("ALTER TABLE {t} ALTER id SET DEFAULT gen_random_uuid()", "restored the default of id"),
    "not null": ("ALTER TABLE {t} ALTER email DROP NOT NULL", "made email"),
    "key dropped": ("ALTER TABLE {t} DROP CONSTRAINT contacts_pkey", "restored the key (tenant_id, id)"),
    "login closed": ("ALTER ROLE {s} NOLOGIN", "opened login {s}"),
    "login makes roles": ("ALTER ROLE {s} CREATEROLE", "put right the attributes"),
    "login unlimited": ("ALTER ROLE {s} CONNECTION LIMIT -1", "put right the attributes"),
    "login expires": ("ALTER ROLE {s} VALID UNTIL '2000-01-01'", "put right the attributes"),
    "login's settings": ("ALTER ROLE {s} SET search_path = public", "put right the settings"),
    "login dropped": ("REASSIGN OWNED BY {s} TO postgres; DROP OWNED BY {s}; DROP ROLE {s}", "created login {s}"),
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_damage_is_repaired_once(
    name: str, target: PostgresTarget, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    damage, clause = (text.format(t=installed.table, s=installed.module.schema) for text in DAMAGE[name])
    before = await state_of(admin, installed)
    await admin.execute(damage)
    if name != "publication dropped":
        assert await state_of(admin, installed) != before, "the damage must be one"

    outcome = await target.apply_module(installed.module, PASSWORD)
    assert outcome.refusal is None
    assert any(clause in change for change in outcome.changes), outcome.changes
    assert await state_of(admin, installed) == before
    assert (await target.apply_module(installed.module, PASSWORD)).changes == ()


@pytest.mark.parametrize("column", ["score", "deleted_at"])
async def test_a_column_that_was_dropped_with_its_values_is_told_and_not_guessed(
    column: str, target: PostgresTarget, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.a)
    await admin.execute(f"ALTER TABLE {installed.table} DROP COLUMN {column}")
    outcome = await target.apply_module(installed.module, PASSWORD)
    assert outcome.refusal is not None
    assert outcome.refusal.reason == "ColumnLost"
    assert f"ADD COLUMN {column}" in outcome.refusal.message
    assert outcome.changes == ()
    kind = "integer" if column == "score" else "timestamptz"
    await admin.execute(f"ALTER TABLE {installed.table} ADD COLUMN {column} {kind}")
    assert (await target.apply_module(installed.module, PASSWORD)).refusal is None


async def test_a_field_that_is_new_is_added_to_a_table_with_rows(
    target: PostgresTarget, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.a)
    contacts = installed.module.models[0]
    grown = replace(contacts, columns=(*contacts.columns, Column("stars", ColumnType.INTEGER)))
    module = replace(installed.module, models=(grown, *installed.module.models[1:]))
    outcome = await target.apply_module(module, PASSWORD)
    assert outcome.refusal is None
    assert any("added column stars" in change for change in outcome.changes)


UNREPAIRABLE = {
    "ALTER ROLE {s} BYPASSRLS": ("UnsafeLogin", "ALTER ROLE {s} NOBYPASSRLS", "ALTER ROLE {s} NOBYPASSRLS"),
    "GRANT kernel_cross TO {s}": ("UnsafeLogin", "REVOKE kernel_cross FROM {s}", "REVOKE kernel_cross FROM {s}"),
    "GRANT {s} TO kernel_publisher": (
        "UnsafeLogin",
        "REVOKE {s} FROM kernel_publisher",
        "REVOKE {s} FROM kernel_publisher",
    ),
    "ALTER TABLE {t} OWNER TO postgres": (
        "NotOwned",
        "ALTER TABLE {t} OWNER TO kernel_operator",
        "ALTER TABLE {t} OWNER TO kernel_operator",
    ),
}


@pytest.mark.parametrize("damage", UNREPAIRABLE)
async def test_what_only_an_administrator_can_repair_is_said_with_the_statement(
    damage: str, target: PostgresTarget, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    names = {"t": installed.table, "s": installed.module.schema}
    reason, said, fix = UNREPAIRABLE[damage]
    await admin.execute(damage.format(**names))
    await admin.execute("DROP POLICY tenant_isolation ON {t}".format(**names))
    outcome = await target.apply_module(installed.module, PASSWORD)
    assert outcome.refusal is not None
    assert outcome.refusal.reason == reason
    assert said.format(**names) in outcome.refusal.message
    assert outcome.changes == ()
    await admin.execute(fix.format(**names))
    assert (await target.apply_module(installed.module, PASSWORD)).refusal is None


async def state_of(admin: asyncpg.Connection, installed: Installed) -> list[object]:
    """All that the catalogue says of the module, in a form that can be compared, without object ids."""
    schema = installed.module.schema
    questions = [
        "SELECT nspowner::regrole::text, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(nspacl) a) "
        "FROM pg_namespace WHERE nspname = $1",
        "SELECT relname, relowner::regrole::text, relrowsecurity, relforcerowsecurity, relreplident, "
        "(SELECT array_agg(a::text ORDER BY a::text) FROM unnest(relacl) a) "
        "FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind = 'r' ORDER BY relname",
        "SELECT tablename, policyname, permissive, roles, cmd, qual, with_check FROM pg_policies "
        "WHERE schemaname = $1 ORDER BY 1, 2",
        "SELECT c.relname, pg_get_triggerdef(t.oid), tgenabled FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid "
        "WHERE relnamespace = to_regnamespace($1) AND NOT tgisinternal ORDER BY 1, 2",
        "SELECT pubname, tablename, rowfilter FROM pg_publication_tables WHERE schemaname = $1 ORDER BY 1, 2",
        "SELECT pubname, pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication WHERE $1 <> '' ORDER BY 1",
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
        "WHERE table_schema = $1 ORDER BY 1, 2",
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = to_regnamespace($1) ORDER BY 1, 2",
        "SELECT attname, attacl::text FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid "
        "WHERE relnamespace = to_regnamespace($1) AND attacl::text <> '{}' ORDER BY 1",
        "SELECT rolname, rolcanlogin, rolcreaterole, rolconnlimit, rolbypassrls, rolconfig, "
        "coalesce(nullif(rolvaliduntil, 'infinity')::text, '') FROM pg_roles WHERE rolname = $1",
    ]
    return [[tuple(row) for row in await admin.fetch(question, schema)] for question in questions]
