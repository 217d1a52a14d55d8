"""The users of tenants: made, repaired, dropped, and their rows removed."""

import asyncio
from dataclasses import replace

import pytest

from kernel_common.analytics import tenant_password, tenant_user
from kernel_common.ids import tenant_id, uuid7

AUTHENTICATION_FAILED = 516


async def can_log_in(user):
    try:
        return await user.values("SELECT 1") == [1]
    except Exception as error:
        assert getattr(error, "code", 0) == AUTHENTICATION_FAILED, error
        return False


async def test_a_user_has_one_right_and_its_derived_password(target, admin, tenant, login):
    acme = tenant()
    outcome = (await target.apply_tenants([acme]))[acme.id]
    assert list(outcome.changes) == ["created the ClickHouse user"]
    user = tenant_user(acme.id)
    assert await login(acme.id).values("SELECT currentUser()") == [user]
    assert not await can_log_in(login(acme.id, "wrong"))
    grants = await admin.rows(f"SELECT access_type, database, table FROM system.grants WHERE user_name = '{user}'")
    assert grants == [{"access_type": "SELECT", "database": "analytics", "table": None}]


async def test_many_at_once_and_nothing_the_second_time(target, tenant):
    tenants = [tenant() for _ in range(120)]
    first = await target.apply_tenants(tenants)
    assert all(list(outcome.changes) == ["created the ClickHouse user"] for outcome in first.values())
    again = await target.apply_tenants(tenants)
    assert len(again) == 120
    assert not any(outcome.changes for outcome in again.values())


async def test_a_blocked_tenant_has_no_user_until_it_is_unblocked(target, tenant, login):
    acme = tenant()
    await target.apply_tenants([acme])
    blocked = replace(acme, blocked=True)
    assert list((await target.apply_tenants([blocked]))[acme.id].changes) == ["dropped the ClickHouse user"]
    assert not await can_log_in(login(acme.id))
    assert not (await target.apply_tenants([blocked]))[acme.id].changes
    await target.apply_tenants([acme])
    assert await can_log_in(login(acme.id))


@pytest.mark.parametrize(
    ("damage", "clause"),
    [
        ("DROP USER `{u}`", "created the ClickHouse user"),
        ("REVOKE SELECT ON analytics.* FROM `{u}`", "granted the ClickHouse user its right"),
        ("GRANT SELECT ON system.* TO `{u}`", "repaired the ClickHouse user"),
        ("GRANT INSERT ON analytics.* TO `{u}`", "repaired the ClickHouse user"),
    ],
)
async def test_damage_is_repaired(target, admin, tenant, login, damage, clause):
    acme = tenant()
    await target.apply_tenants([acme])
    await admin.rows(damage.format(u=tenant_user(acme.id)))
    assert list((await target.apply_tenants([acme]))[acme.id].changes) == [clause]
    assert not (await target.apply_tenants([acme]))[acme.id].changes
    assert await can_log_in(login(acme.id))
    assert not await can_log_in(login(acme.id, "guess"))


async def test_a_complete_scan_drops_the_users_of_others(target, admin, tenant, login):
    acme, ghost = tenant(), tenant()
    await target.apply_tenants([acme, ghost])
    await target.apply_tenants([acme], complete=True)
    assert await can_log_in(login(acme.id))
    assert not await can_log_in(login(ghost.id))
    users = await admin.values("SELECT name FROM system.users")
    assert {"kernel_operator", "cdc_writer"} <= set(users)


async def test_removal_leaves_rows_unless_they_are_to_go(target, admin, tenant, module, write, login):
    acme, globex = tenant(), tenant()
    await target.apply_tenants([acme, globex])
    crm, shop = module(), module()
    await target.apply_modules([crm, shop])
    tables = [each.analytics_table(each.models[0]) for each in (crm, shop)]
    for table in tables:
        await write(table, acme.id, "a")
        await write(table, globex.id, "g")

    async def rows(table):
        return await admin.rows(f"SELECT count() AS n FROM analytics.{table} WHERE tenant_id = '{acme.id}'")

    assert list((await target.remove_tenant(acme.id, drop_data=False)).changes) == ["dropped the ClickHouse user"]
    assert not (await target.remove_tenant(acme.id, drop_data=False)).changes
    await target.apply_tenants([acme])
    assert await login(acme.id).values(f"SELECT email FROM analytics.{tables[0]}") == ["a"]

    outcome = await target.remove_tenant(acme.id, drop_data=True)
    assert set(outcome.changes) == {
        "dropped the ClickHouse user",
        *(f"removed the tenant's rows from {t}" for t in tables),
    }
    await target.apply_tenants([acme])
    for table in tables:
        assert await login(acme.id).values(f"SELECT email FROM analytics.{table}") == []
        assert await login(globex.id).values(f"SELECT email FROM analytics.{table}") == ["g"]
    assert not any("rows" in change for change in (await target.remove_tenant(acme.id, drop_data=True)).changes)


async def test_two_operators_at_once(clickhouse, target, tenant, login):
    tenants = [tenant() for _ in range(20)]
    other = type(target)(clickhouse.operator_url, clickhouse.database, target._master_key)
    try:
        await asyncio.gather(target.apply_tenants(tenants), other.apply_tenants(tenants))
    finally:
        await other.close()
    assert not any(outcome.changes for outcome in (await target.apply_tenants(tenants)).values())
    assert await can_log_in(login(tenants[7].id))


async def test_the_password_never_reaches_the_server(clickhouse, target, tenant):
    acme = tenant()
    await target.apply_tenants([acme])
    password = tenant_password(target._master_key, acme.id)
    data = clickhouse.log.parent.parent
    written = [path for path in data.rglob("*") if path.is_file() and path.stat().st_size < 5_000_000]
    assert written
    assert not [path for path in written if password.encode() in path.read_bytes()]


async def test_nothing_to_do(target):
    assert await target.apply_tenants([]) == {}
    assert await target.apply_modules([]) == {}


async def test_what_comes_late_of_a_deleted_tenant_is_removed_again(target, module, write, admin):
    made, gone, stays = module(), tenant_id("gone-late"), tenant_id("stays")
    await target.apply_module(made)
    table = f"module_{made.slug}__contacts"
    for tenant in (gone, stays):
        await write(table, tenant, "a@x.example", uuid7())
    await target.remove_tenant(gone, drop_data=True)
    await write(table, gone, "late@x.example", uuid7())
    assert (await target.erase_again([gone, tenant_id("never-there")])).changes
    assert await admin.values(f"SELECT DISTINCT toString(tenant_id) FROM analytics.{table}") == [str(stays)]
    assert not (await target.erase_again([gone])).changes, "nothing is left to do"
