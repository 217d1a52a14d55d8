"""Modules: what is made, how models may grow, who holds a slug, and what goes when they go."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import asyncpg
import pytest

from kernel_common.ids import uuid7
from kernel_operator.desired import Column, ColumnType, Model, ModuleState, Unavailable
from kernel_operator.targets.postgres import PostgresTarget

from .conftest import CONTACTS, NOTES, PASSWORD, Installed, Login, a_module, a_tenant, add_rows

Install = Callable[..., Awaitable[Installed]]

EVERYTHING = Model("everything", tuple(Column(f"a_{kind}", kind) for kind in ColumnType), analytics=True)

SQL_TYPES = {
    "a_text": "text",
    "a_integer": "integer",
    "a_bigint": "bigint",
    "a_decimal": "numeric(20,6)",
    "a_float": "double precision",
    "a_boolean": "boolean",
    "a_date": "date",
    "a_timestamp": "timestamp with time zone",
    "a_uuid": "uuid",
    "a_json": "jsonb",
    "id": "uuid",
    "tenant_id": "uuid",
    "created_at": "timestamp with time zone",
    "updated_at": "timestamp with time zone",
    "deleted_at": "timestamp with time zone",
    "idempotency_key": "uuid",
}


async def test_a_module_is_made_whole_and_then_left_alone(
    target: PostgresTarget, admin: asyncpg.Connection, install: Install, login: Login
) -> None:
    installed = await install(models=(EVERYTHING, NOTES))
    module = installed.module
    columns = await admin.fetch(
        "SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute "
        "WHERE attrelid = to_regclass($1) AND attnum > 0",
        f"{module.schema}.everything",
    )
    assert {row["attname"]: row["type"] for row in columns} == SQL_TYPES
    published = await admin.fetch(
        "SELECT tablename FROM pg_publication_tables WHERE pubname = 'platform_cdc' AND schemaname = $1", module.schema
    )
    assert [row["tablename"] for row in published] == ["everything"]
    identity = "SELECT relreplident::text FROM pg_class WHERE oid = to_regclass($1)"
    assert await admin.fetchval(identity, f"{module.schema}.everything") == "f"
    role = await admin.fetchrow("SELECT * FROM pg_roles WHERE rolname = $1", module.schema)
    assert role["rolcanlogin"]
    assert not any(
        role[name] for name in ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls")
    )
    assert await tenants_of(admin, module) == {installed.a, installed.b}
    row = await admin.fetchrow("SELECT * FROM kernel.modules WHERE slug = $1", module.slug)
    assert (row["version"], row["active"], row["removed_at"], row["resource_uid"]) == ("1.0.0", True, None, module.uid)
    described = await admin.fetchval(
        "SELECT columns FROM kernel.module_models WHERE slug = $1 AND model = 'everything'", module.slug
    )
    assert json.loads(described)[0] == {"name": "a_text", "type": "text", "required": False}

    async with login(module.schema, tenant=installed.a) as connection:
        made = await connection.fetchrow("INSERT INTO everything (a_decimal) VALUES (1.5) RETURNING *")
        assert made["tenant_id"] == installed.a
        assert made["id"].version == 7

    catalogue = "SELECT sum(xmin::text::bigint) FROM pg_class WHERE relnamespace = to_regnamespace($1)"
    before = await admin.fetchval(catalogue, module.schema)
    assert (await target.apply_module(module, PASSWORD)).changes == ()
    assert await admin.fetchval(catalogue, module.schema) == before


async def test_permissions_are_recorded_and_drift_is_put_right(
    target: PostgresTarget, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install(permissions=("a.b.read", "a.b.create"))
    module, held = installed.module, "SELECT permissions FROM kernel.modules WHERE slug = $1"
    assert await admin.fetchval(held, module.slug) == ["a.b.read", "a.b.create"]
    await admin.execute("UPDATE kernel.modules SET permissions = '{x.y.z}' WHERE slug = $1", module.slug)
    assert (await target.apply_module(module, PASSWORD)).changes == ("recorded the permissions",)
    assert await admin.fetchval(held, module.slug) == ["a.b.read", "a.b.create"]
    fewer = replace(module, permissions=("a.b.read",))
    assert (await target.apply_module(fewer, PASSWORD)).changes == ("recorded the permissions",)
    assert (await target.apply_module(fewer, PASSWORD)).changes == ()
    assert await admin.fetchval(held, module.slug) == ["a.b.read"]


async def test_models_grow(target: PostgresTarget, admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.a)
    grown = replace(CONTACTS, columns=(*CONTACTS.columns, Column("phone", ColumnType.TEXT)), analytics=False)
    new = Model("deals", (Column("amount", ColumnType.BIGINT, True),), analytics=True)
    module = replace(installed.module, models=(grown, replace(NOTES, analytics=True), new), version="1.1.0")
    outcome = await target.apply_module(module, PASSWORD)
    assert outcome.refusal is None
    assert f"added column phone to table {installed.table}" in outcome.changes
    assert "recorded version 1.1.0" in outcome.changes
    published = await admin.fetch("SELECT tablename FROM pg_publication_tables WHERE schemaname = $1", module.schema)
    assert {row["tablename"] for row in published} == {"deals", "notes"}
    assert (await target.apply_module(module, PASSWORD)).changes == ()
    assert await admin.fetchval(f"SELECT count(*) FROM {installed.table}") == 1


def _without(model: Model, name: str) -> Model:
    return replace(model, columns=tuple(column for column in model.columns if column.name != name))


def _with(model: Model, column: Column) -> Model:
    return replace(model, columns=(*(c for c in model.columns if c.name != column.name), column))


REFUSED = {
    "column removed": ((_without(CONTACTS, "score"), NOTES), "IncompatibleChange", "models[contacts].fields[score]"),
    "column retyped": (
        (_with(CONTACTS, Column("score", ColumnType.TEXT)), NOTES),
        "IncompatibleChange",
        "models[contacts].fields[score].type: the column is integer",
    ),
    "new and required": (
        (_with(CONTACTS, Column("phone", ColumnType.TEXT, True)), NOTES),
        "IncompatibleChange",
        "models[contacts].fields[phone].required",
    ),
    "newly required": (
        (_with(CONTACTS, Column("score", ColumnType.INTEGER, True)), NOTES),
        "IncompatibleChange",
        "models[contacts].fields[score].required",
    ),
    "model removed": ((CONTACTS,), "IncompatibleChange", "models[notes]"),
    "reserved": ((_with(CONTACTS, Column("tenant_id", ColumnType.TEXT)), NOTES), "ReservedColumn", "fields[tenant_id]"),
    "too long": ((CONTACTS, NOTES, Model("n" * 64, ())), "NameTooLong", "n" * 64),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_addition_is_refused_and_nothing_changes(
    name: str, target: PostgresTarget, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.a)
    models, reason, said = REFUSED[name]
    wanted = replace(
        installed.module,
        models=(*models, Model("added_beside", ())),
        version="2.0.0",
        tenants=frozenset({installed.a}),
    )
    outcome = await target.apply_module(wanted, PASSWORD)
    assert outcome.refusal is not None
    assert outcome.refusal.reason == reason
    assert said in outcome.refusal.message
    assert outcome.changes == ()
    assert await admin.fetchval("SELECT to_regclass($1)", f"{wanted.schema}.added_beside") is None
    assert (await target.apply_module(installed.module, PASSWORD)).changes == ()


async def test_a_required_column_comes_to_an_empty_table(target: PostgresTarget, install: Install) -> None:
    installed = await install()
    models = (
        _with(CONTACTS, Column("phone", ColumnType.TEXT, True)),
        _with(NOTES, Column("body", ColumnType.TEXT, True)),
    )
    outcome = await target.apply_module(replace(installed.module, models=models), PASSWORD)
    assert outcome.refusal is None
    assert (
        await target.apply_module(replace(installed.module, models=(CONTACTS, NOTES)), PASSWORD)
    ).refusal is not None


async def test_names_are_quoted(target: PostgresTarget, admin: asyncpg.Connection) -> None:
    ugly = 'x"; DROP SCHEMA kernel CASCADE; --%I $1'
    module = a_module(
        models=(Model(ugly, (Column(ugly, ColumnType.TEXT), Column("select", ColumnType.TEXT)), analytics=True),)
    )
    outcome = await target.apply_module(module, PASSWORD)
    assert outcome.refusal is None
    assert (await target.apply_module(module, PASSWORD)).changes == ()
    made = await admin.fetchval(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'", module.schema
    )
    assert made == ugly
    assert (await target.remove_module(module.slug, drop_data=True)).changes


async def test_a_view_in_a_models_place_is_told(
    target: PostgresTarget, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    await admin.execute(f"CREATE VIEW {installed.module.schema}.deals AS SELECT 1")
    module = replace(installed.module, models=(*installed.module.models, Model("deals", ())))
    outcome = await target.apply_module(module, PASSWORD)
    assert outcome.refusal is not None
    assert outcome.refusal.reason == "NameTaken"


async def test_a_slug_belongs_to_whom_had_it_first(target: PostgresTarget, install: Install) -> None:
    installed = await install()
    first = (installed.module.module_name, installed.module.namespace, installed.module.name)
    for other in (
        replace(installed.module, module_name="@other/name"),
        replace(installed.module, namespace="other"),
        replace(installed.module, name="other"),
    ):
        outcome = await target.apply_module(other, "another-password")
        assert outcome.refusal is not None
        assert outcome.refusal.reason == "SlugTaken"
        assert installed.module.module_name in outcome.refusal.message
        assert await target.module_holder(other.slug) == first
    assert (await target.apply_module(installed.module, PASSWORD)).changes == ()


async def test_tenants_come_and_go(target: PostgresTarget, admin: asyncpg.Connection, install: Install) -> None:
    installed = await install()
    third = a_tenant()
    await target.apply_tenants([third])
    module = replace(installed.module, tenants=frozenset({installed.a, third.id}))
    assert (await target.apply_module(module, PASSWORD)).changes == (
        "activated for 1 tenants",
        "deactivated for 1 tenants",
    )
    assert await tenants_of(admin, module) == {installed.a, third.id}
    with pytest.raises(Unavailable, match="not in the database yet"):
        await target.apply_module(replace(module, tenants=frozenset({installed.a, uuid7()})), PASSWORD)
    assert await tenants_of(admin, module) == {installed.a, third.id}


async def test_the_password_follows_the_secret(target: PostgresTarget, install: Install, login: Login) -> None:
    installed = await install()
    role = installed.module.schema
    assert (await target.apply_module(installed.module, "the-next-one")).changes == (
        f"set the password of login {role}",
    )
    with pytest.raises(asyncpg.InvalidPasswordError):
        async with login(role, PASSWORD):
            raise AssertionError("logged in")
    async with login(role, "the-next-one") as connection:
        assert await connection.fetchval("SELECT current_user") == role
    with pytest.raises(ValueError, match="ASCII"):
        await target.apply_module(installed.module, "schlüssel")


async def test_a_disabled_module_keeps_its_data_and_has_no_rights(
    target: PostgresTarget, admin: asyncpg.Connection, install: Install, login: Login
) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.a)
    off = replace(installed.module, active=False)
    async with login(installed.module.schema, tenant=installed.a) as connection:
        assert await connection.fetchval("SELECT count(*) FROM contacts") == 1
    async with login(installed.module.schema) as connection:
        count = await connection.prepare("SELECT count(*) FROM contacts")
        assert (await target.apply_module(off, PASSWORD)).refusal is None
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await count.fetchval()
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with login(installed.module.schema):
            raise AssertionError("logged in")
    assert (await target.apply_module(off, PASSWORD)).changes == ()
    assert (await target.apply_module(installed.module, PASSWORD)).refusal is None
    async with login(installed.module.schema, tenant=installed.a) as connection:
        assert await connection.fetchval("SELECT count(*) FROM contacts") == 1


async def test_removing_keeps_the_tables_until_they_are_dropped(
    target: PostgresTarget, admin: asyncpg.Connection, install: Install, login: Login
) -> None:
    installed = await install()
    module = installed.module
    await add_rows(admin, installed.table, installed.a, 2)
    assert (await target.remove_module(module.slug, drop_data=False)).changes
    assert (await target.remove_module(module.slug, drop_data=False)).changes == ()
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with login(module.schema):
            raise AssertionError("logged in")
    assert await admin.fetchval(f"SELECT count(*) FROM {installed.table}") == 2
    assert await tenants_of(admin, module) == set()
    assert await admin.fetchval("SELECT removed_at IS NOT NULL FROM kernel.modules WHERE slug = $1", module.slug)

    taken = await target.apply_module(replace(module, module_name="@else/x", uid="x"), PASSWORD)
    assert taken.refusal is not None
    assert "retained" in taken.refusal.message
    again = replace(module, uid="again")
    assert f"took module {module.slug} up again with its data" in (await target.apply_module(again, PASSWORD)).changes
    async with login(module.schema, tenant=installed.a) as connection:
        assert await connection.fetchval("SELECT count(*) FROM contacts") == 2

    assert (await target.remove_module(module.slug, drop_data=True)).changes
    assert (await target.remove_module(module.slug, drop_data=True)).changes == ()
    for question in (
        "SELECT count(*) FROM pg_namespace WHERE nspname = $1",
        "SELECT count(*) FROM pg_roles WHERE rolname = $1",
        "SELECT count(*) FROM pg_publication_tables WHERE schemaname = $1",
    ):
        assert await admin.fetchval(question, module.schema) == 0
    assert await admin.fetchval("SELECT count(*) FROM kernel.modules WHERE slug = $1", module.slug) == 0
    assert (await target.apply_module(replace(module, module_name="@else/x", uid="x"), PASSWORD)).refusal is None


async def test_a_login_that_is_used_elsewhere_stops_the_drop_and_nothing_is_lost(
    target: PostgresTarget, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    schema = installed.module.schema
    await admin.execute(
        f"CREATE TABLE public.theirs (); ALTER TABLE public.theirs OWNER TO {schema}; "
        f"CREATE TABLE public.other (); GRANT SELECT ON public.other TO {schema}"
    )
    await add_rows(admin, installed.table, installed.a)
    try:
        with pytest.raises(Unavailable, match="can't be dropped"):
            await target.remove_module(installed.module.slug, drop_data=True)
        assert await admin.fetchval(f"SELECT count(*) FROM {installed.table}") == 1
    finally:
        await admin.execute("DROP TABLE IF EXISTS public.theirs, public.other")
    assert (await target.remove_module(installed.module.slug, drop_data=True)).changes


async def tenants_of(admin: asyncpg.Connection, module: ModuleState) -> set[object]:
    rows = await admin.fetch("SELECT tenant_id FROM kernel.module_tenants WHERE slug = $1", module.slug)
    return {row["tenant_id"] for row in rows}
