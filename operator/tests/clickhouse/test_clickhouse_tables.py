"""Tables, policies and views of models: made whole, repaired in every part, never touched when they are right."""

import asyncio
from dataclasses import replace

import pytest

from kernel_operator.desired import Column, ColumnType, Model
from kernel_operator.targets.clickhouse.tables import DEDUPLICATION_WINDOW, analytics_tables

EVERY_TYPE = tuple(Column(f"c_{type_.value}", type_) for type_ in ColumnType)


def table_of(module):
    return module.analytics_table(module.models[0])


async def test_a_module_s_table_view_and_policy(target, admin, module):
    crm = module(Model("contacts", EVERY_TYPE, analytics=True, retention_days=365), Model("drafts", EVERY_TYPE))
    table = table_of(crm)
    outcome = await target.apply_module(crm)
    assert list(outcome.changes) == [
        f"created the row policy tenant_isolation of {table}",
        f"created the row policy kernel_services of {table}",
        f"created the ClickHouse table {table}",
        f"created the view {table}__current",
    ]
    (found,) = await admin.rows(f"SELECT * FROM system.tables WHERE database = 'analytics' AND name = '{table}'")
    assert found["engine"] == "ReplacingMergeTree"
    assert found["sorting_key"] == "tenant_id, record_id"
    assert found["partition_key"] == ""
    assert "TTL toDateTime(created_at) + toIntervalDay(365)" in found["engine_full"]
    assert f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}" in found["engine_full"]
    columns = {
        row["name"]: row["type"]
        for row in await admin.rows(f"SELECT name, type FROM system.columns WHERE table = '{table}' ORDER BY position")
    }
    assert columns == {
        "tenant_id": "UUID",
        "record_id": "UUID",
        "created_at": "DateTime64(6, 'UTC')",
        "updated_at": "DateTime64(6, 'UTC')",
        "deleted_at": "Nullable(DateTime64(6, 'UTC'))",
        "c_text": "Nullable(String)",
        "c_integer": "Nullable(Int32)",
        "c_bigint": "Nullable(Int64)",
        "c_decimal": "Nullable(Decimal(20, 6))",
        "c_float": "Nullable(Float64)",
        "c_boolean": "Nullable(Bool)",
        "c_date": "Nullable(Date32)",
        "c_timestamp": "Nullable(DateTime64(6, 'UTC'))",
        "c_uuid": "Nullable(UUID)",
        "c_json": "Nullable(String)",
        "is_deleted": "UInt8",
        "_lsn": "UInt64",
        "_op": "LowCardinality(String)",
        "_synced_at": "DateTime64(6, 'UTC')",
    }
    assert await admin.values(f"SELECT count() FROM system.tables WHERE name LIKE 'module_{crm.slug}__drafts%'") == [0]


async def test_a_repeat_changes_nothing(target, module):
    modules = [
        module(Model("contacts", EVERY_TYPE, analytics=True, retention_days=days), Model("select", (), analytics=True))
        for days in (None, 30)
    ]
    first = await target.apply_modules(modules)
    assert all(len(outcome.changes) == 8 for outcome in first.values())
    again = await target.apply_modules(modules)
    assert not any(outcome.changes or outcome.refusal for outcome in again.values())


async def test_a_fresh_operator_sees_no_difference_either(clickhouse, target, module):
    crm = module(Model("contacts", EVERY_TYPE, analytics=True, retention_days=7))
    await target.apply_module(crm)
    other = type(target)(clickhouse.operator_url, clickhouse.database, b"k" * 32)
    try:
        assert not (await other.apply_module(crm)).changes
    finally:
        await other.close()


@pytest.mark.parametrize(
    ("damage", "clause"),
    [
        ("DROP VIEW analytics.{t}__current", "created the view {t}__current"),
        (
            "CREATE OR REPLACE VIEW analytics.{t}__current SQL SECURITY INVOKER AS SELECT tenant_id FROM analytics.{t}",
            "repaired the view {t}__current",
        ),
        ("DROP ROW POLICY tenant_isolation ON analytics.{t}", "created the row policy tenant_isolation of {t}"),
        (
            "CREATE ROW POLICY OR REPLACE tenant_isolation ON analytics.{t} USING 1 TO ALL",
            "repaired the row policy tenant_isolation of {t}",
        ),
        (
            "CREATE ROW POLICY OR REPLACE tenant_isolation ON analytics.{t} "
            "USING tenant_id = toUUIDOrZero(substring(currentUser(), 8)) TO cdc_writer",
            "repaired the row policy tenant_isolation of {t}",
        ),
        ("DROP ROW POLICY kernel_services ON analytics.{t}", "created the row policy kernel_services of {t}"),
        (
            "CREATE ROW POLICY open_door ON analytics.{t} USING 1 TO ALL",
            "dropped the row policy open_door of {t}, which is not ours",
        ),
        ("ALTER TABLE analytics.{t} DROP COLUMN score", "added column score to {t}"),
        ("ALTER TABLE analytics.{t} MODIFY TTL toDateTime(created_at) + toIntervalDay(1)", "set the retention of {t}"),
        ("ALTER TABLE analytics.{t} REMOVE TTL", "set the retention of {t}"),
        (
            "ALTER TABLE analytics.{t} MODIFY SETTING non_replicated_deduplication_window = 0",
            "set the deduplication window of {t}",
        ),
        ("ALTER TABLE analytics.{t} MODIFY COMMENT 'hello'", "set the comment of {t}"),
        ("DROP TABLE analytics.{t}", "created the ClickHouse table {t}"),
    ],
    ids=[
        "view-gone",
        "view-altered",
        "policy-gone",
        "policy-open",
        "policy-for-others",
        "services-gone",
        "policy-strange",
        "column-gone",
        "ttl-altered",
        "ttl-gone",
        "window",
        "comment",
        "table-gone",
    ],
)
async def test_damage_is_repaired(target, admin, module, damage, clause):
    crm = module(replace(module().models[0], retention_days=90))
    table = table_of(crm)
    await target.apply_module(crm)
    await admin.rows(damage.format(t=table))
    outcome = await target.apply_module(crm)
    assert outcome.refusal is None
    assert clause.format(t=table) in outcome.changes
    again = await target.apply_module(crm)
    assert (list(again.changes), again.refusal) == ([], None)


async def test_columns_are_added_and_old_rows_say_so(target, admin, module, tenant, write, login):
    acme = tenant()
    await target.apply_tenants([acme])
    crm = module()
    table = table_of(crm)
    await target.apply_module(crm)
    await write(table, acme.id, "old@example.com")
    wider = replace(
        crm,
        models=(
            replace(crm.models[0], columns=(*crm.models[0].columns, Column("vip", ColumnType.BOOLEAN, required=True))),
        ),
    )
    outcome = await target.apply_module(wider)
    assert list(outcome.changes) == [f"added column vip to {table}", f"repaired the view {table}__current"]
    await write(table, acme.id, "new@example.com", vip=True)
    rows = await login(acme.id).rows(f"SELECT email, vip FROM analytics.{table}__current ORDER BY email")
    assert rows == [{"email": "new@example.com", "vip": True}, {"email": "old@example.com", "vip": None}]


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ((Column("email", ColumnType.TEXT),), "contacts.score"),
        ((Column("email", ColumnType.TEXT), Column("score", ColumnType.TEXT)), "contacts.score"),
        ((Column("email", ColumnType.DATE), Column("score", ColumnType.INTEGER)), "contacts.email"),
    ],
)
async def test_removed_and_retyped_columns_are_refused(target, admin, module, columns, field):
    crm = module()
    await target.apply_module(crm)
    await admin.rows(f"DROP VIEW analytics.{table_of(crm)}__current")
    changed = replace(crm, models=(Model("contacts", columns, analytics=True), Model("deals", (), analytics=True)))
    outcome = await target.apply_module(changed)
    assert outcome.refusal.reason == "IncompatibleChange"
    assert field in outcome.refusal.message
    assert "spec.dataApi.models" in outcome.refusal.message
    left = await admin.values(f"SELECT name FROM system.tables WHERE name LIKE 'module_{crm.slug}__%'")
    assert left == [table_of(crm)]


async def test_required_or_not_is_the_same_column(target, module):
    crm = module()
    await target.apply_module(crm)
    relaxed = replace(
        crm, models=(replace(crm.models[0], columns=tuple(replace(c, required=False) for c in crm.models[0].columns)),)
    )
    outcome = await target.apply_module(relaxed)
    assert (list(outcome.changes), outcome.refusal) == ([], None)


async def test_a_table_that_is_not_ours_is_refused(target, admin, module):
    crm = module()
    table = table_of(crm)
    await admin.rows(f"CREATE TABLE analytics.{table} (x UInt8) ENGINE = MergeTree ORDER BY x")
    outcome = await target.apply_module(crm)
    assert outcome.refusal.reason == "IncompatibleChange"
    await admin.rows(f"DROP TABLE analytics.{table}")


async def test_two_modules_whose_tables_have_one_name(target, module):
    first = module(Model("b__c", (), analytics=True), slug="twin")
    second = module(Model("c", (), analytics=True), slug="twin__b")
    assert table_of(first) == table_of(second)
    await target.apply_module(first)
    outcome = await target.apply_module(second)
    assert outcome.refusal.reason == "TableTaken"
    assert not (await target.remove_module("twin__b", drop_data=True)).changes
    assert not (await target.apply_module(first)).changes


async def test_retention_can_be_changed_and_taken_away(target, admin, module):
    crm = module()
    table = table_of(crm)
    await target.apply_module(crm)
    yearly = replace(crm, models=(replace(crm.models[0], retention_days=365),))
    outcome = await target.apply_module(yearly)
    assert list(outcome.changes) == [f"set the retention of {table}", f"repaired the view {table}__current"]
    outcome = await target.apply_module(crm)
    assert list(outcome.changes) == [f"removed the retention of {table}", f"repaired the view {table}__current"]
    (engine,) = await admin.values(f"SELECT engine_full FROM system.tables WHERE name = '{table}'")
    assert "TTL" not in engine


async def test_the_view_shows_the_newest_living_unexpired_version(target, module, tenant, write, login):
    acme = tenant()
    await target.apply_tenants([acme])
    crm = module(replace(module().models[0], retention_days=10))
    table = table_of(crm)
    await target.apply_module(crm)
    kept = await write(table, acme.id, "first")
    await write(table, acme.id, "second", record=kept)
    hard = await write(table, acme.id, "hard")
    await write(table, acme.id, "hard", record=hard, is_deleted=1)
    soft = await write(table, acme.id, "soft")
    await write(table, acme.id, "soft", record=soft, deleted_at="2026-01-01 00:00:00.000000")
    await write(table, acme.id, "expired", created_at="2020-01-01 00:00:00.000000")
    assert await login(acme.id).values(f"SELECT email FROM analytics.{table}__current") == ["second"]


async def test_a_disabled_model_keeps_its_table(target, admin, module):
    crm = module()
    await target.apply_module(crm)
    off = replace(crm, models=(replace(crm.models[0], analytics=False),))
    assert not (await target.apply_module(off)).changes
    assert await admin.values(f"SELECT count() FROM system.tables WHERE name = '{table_of(crm)}'") == [1]


async def test_removal(target, admin, module):
    crm, other = module(), module()
    await target.apply_modules([crm, other])
    table = table_of(crm)
    assert not (await target.remove_module(crm.slug, drop_data=False)).changes
    outcome = await target.remove_module(crm.slug, drop_data=True)
    assert sorted(outcome.changes, key=lambda c: "policy" in c) == [
        f"dropped the view {table}__current",
        f"dropped the ClickHouse table {table}",
        f"dropped the row policy tenant_isolation of {table}",
        f"dropped the row policy kernel_services of {table}",
    ]
    assert await admin.values(f"SELECT count() FROM system.tables WHERE name LIKE '{table}%'") == [0]
    assert await admin.values(f"SELECT count() FROM system.row_policies WHERE table = '{table}'") == [0]
    assert not (await target.remove_module(crm.slug, drop_data=True)).changes
    assert not (await target.apply_module(other)).changes


async def test_two_operators_at_once(clickhouse, target, module):
    modules = [module() for _ in range(4)]
    other = type(target)(clickhouse.operator_url, clickhouse.database, b"k" * 32)
    try:
        await asyncio.gather(target.apply_modules(modules), other.apply_modules(modules))
    finally:
        await other.close()
    assert not any(outcome.changes for outcome in (await target.apply_modules(modules)).values())


async def test_a_crash_after_any_statement_is_finished_by_the_next_run(target, admin, module):
    """The statements of a new module, cut off after each one: no table without its policy, and the rest follows."""
    for done in range(4):
        crm = module()
        table = table_of(crm)
        (wanted,) = analytics_tables("analytics", crm)
        await target._learn([wanted.view_select])
        (steps,) = target.compare_module([wanted], {})
        await target._run_in_order(steps[:done])
        tables = await admin.values(f"SELECT count() FROM system.tables WHERE name = '{table}'")
        policies = await admin.values(f"SELECT count() FROM system.row_policies WHERE table = '{table}'")
        assert tables[0] <= policies[0]
        outcome = await target.apply_module(crm)
        assert len(outcome.changes) == 4 - done
        assert not (await target.apply_module(crm)).changes
