"""Who sees what, asked as the real users; and what a server that is away looks like."""

import asyncio
import time

import pytest

from kernel_common.ids import tenant_id
from kernel_operator.desired import Unavailable
from kernel_operator.targets.clickhouse import ClickHouseTarget

DENIED = {497, 164}  # ACCESS_DENIED, READONLY


@pytest.fixture(scope="module")
async def two(target, tenant, module, write):
    """Two tenants with a row each in one table."""
    acme, globex = tenant(), tenant()
    await target.apply_tenants([acme, globex])
    crm = module()
    await target.apply_module(crm)
    table = crm.analytics_table(crm.models[0])
    await write(table, acme.id, "acme@example.com")
    await write(table, globex.id, "globex@example.com")
    return acme, globex, table


@pytest.mark.parametrize("suffix", ["", " FINAL", "__current"])
async def test_a_tenant_sees_its_rows_and_no_other(two, login, suffix):
    acme, globex, table = two
    question = f"SELECT email FROM analytics.{table}{suffix}"
    assert await login(acme.id).values(question) == ["acme@example.com"]
    assert await login(globex.id).values(question) == ["globex@example.com"]
    assert await login(acme.id).values(f"{question} WHERE tenant_id = '{globex.id}'") == []
    assert await login(acme.id).values(f"{question} WHERE 1 OR tenant_id = '{globex.id}'") == ["acme@example.com"]
    assert await login(acme.id).values(f"SELECT count() AS n FROM analytics.{table}{suffix}") in ([1], ["1"])


async def test_a_user_whom_no_policy_names_sees_nothing(two, admin, login):
    _, _, table = two
    await admin.rows("CREATE USER OR REPLACE probe_reader IDENTIFIED WITH sha256_password BY 'probe'")
    await admin.rows("GRANT SELECT ON analytics.* TO probe_reader")
    try:
        for name in (table, f"{table}__current"):
            assert await login("probe_reader", "probe").values(f"SELECT email FROM analytics.{name}") == []
    finally:
        await admin.rows("DROP USER probe_reader")


async def test_a_tenant_made_after_the_table_is_covered(two, target, tenant, login):
    _, _, table = two
    late = tenant()
    await target.apply_tenants([late])
    assert await login(late.id).values(f"SELECT email FROM analytics.{table}") == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO analytics.{t} (tenant_id, record_id) VALUES ('{me}', '{me}')",
        "ALTER TABLE analytics.{t} DELETE WHERE 1",
        "DELETE FROM analytics.{t} WHERE 1",
        "TRUNCATE TABLE analytics.{t}",
        "DROP TABLE analytics.{t}",
        "CREATE TABLE analytics.mine (x UInt8) ENGINE = MergeTree ORDER BY x",
        "CREATE VIEW analytics.mine AS SELECT * FROM analytics.{t}",
        "DROP ROW POLICY tenant_isolation ON analytics.{t}",
        "CREATE ROW POLICY open_door ON analytics.{t} USING 1 TO ALL",
        "CREATE USER mine IDENTIFIED WITH sha256_password BY 'x'",
        "ALTER USER `tenant_{me}` IDENTIFIED WITH sha256_password BY 'x'",
        "GRANT SELECT ON analytics.* TO `tenant_{other}`",
        "OPTIMIZE TABLE analytics.{t} FINAL",
        "SELECT name FROM system.users",
        "SELECT * FROM system.query_log",
        "SELECT * FROM system.row_policies",
    ],
)
async def test_a_tenant_may_not(two, login, statement):
    acme, globex, table = two
    with pytest.raises(Exception, match=r"^\d+:") as caught:
        await login(acme.id).rows(statement.format(t=table, me=acme.id, other=globex.id))
    assert caught.value.code in DENIED | {60}, caught.value


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE analytics.mine (x UInt8) ENGINE = MergeTree ORDER BY x",
        "DROP TABLE analytics.{t}",
        "CREATE USER mine IDENTIFIED WITH sha256_password BY 'x'",
        "DROP ROW POLICY tenant_isolation ON analytics.{t}",
        "ALTER TABLE analytics.{t} DELETE WHERE 1",
    ],
)
async def test_the_writer_may_not(two, writer, statement):
    _, _, table = two
    with pytest.raises(Exception, match=r"^\d+:") as caught:
        await writer.rows(statement.format(t=table))
    assert caught.value.code in DENIED


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO analytics.{t} (tenant_id, record_id) VALUES ('{me}', '{me}')",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    ],
)
async def test_the_operator_may_not(clickhouse, two, login, statement):
    acme, _, table = two
    with pytest.raises(Exception, match=r"^\d+:") as caught:
        await login(clickhouse.operator_url).rows(statement.format(t=table, me=acme.id))
    assert caught.value.code in DENIED


async def test_a_repeated_insert_token_is_one_insert(two, writer, admin):
    _, _, table = two
    row = f"('{tenant_id('token')}', '{tenant_id('row')}', 'once')"
    statement = (
        f"INSERT INTO analytics.{table} (tenant_id, record_id, email) SETTINGS insert_deduplication_token = 't:0:1-2' "
        f"VALUES {row}"
    )
    await writer.rows(statement)
    await writer.rows(statement)
    found = await admin.rows(f"SELECT count() AS n FROM analytics.{table} WHERE email = 'once'")
    assert int(found[0]["n"]) == 1


async def test_a_wrong_password_is_unavailable_and_not_repeated_in_the_message(clickhouse, tenant):
    address = clickhouse.operator_url.rpartition("@")[2]
    target = ClickHouseTarget(f"http://kernel_operator:wrong-secret@{address}", "analytics", b"k" * 32)
    try:
        with pytest.raises(Unavailable, match="the user name or password was refused") as caught:
            await target.apply_tenants([tenant()])
    finally:
        await target.close()
    assert caught.value.system == "ClickHouse"
    assert "wrong-secret" not in str(caught.value)


async def test_a_dead_server_is_unavailable_and_converges_when_it_is_back(clickhouse, target, tenant, module, login):
    acme, crm = tenant(), module()
    await target.apply_tenants([acme])
    clickhouse.kill()
    try:
        for call in (
            target.apply_tenants([acme]),
            target.apply_module(crm),
            target.remove_tenant(acme.id, drop_data=True),
            target.remove_module(crm.slug, drop_data=True),
            target.ping(),
        ):
            with pytest.raises(Unavailable) as caught:
                await call
            assert caught.value.system == "ClickHouse"
            assert "127.0.0.1" not in str(caught.value)
    finally:
        clickhouse.start()
    deadline = time.monotonic() + 30
    while True:
        try:
            await target.ping()
            break
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
    assert not (await target.apply_tenants([acme]))[acme.id].changes
    assert (await target.apply_module(crm)).changes
    assert await login(acme.id).values("SELECT 1") == [1]
