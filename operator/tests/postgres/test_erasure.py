"""Deleting a tenant's data: all of it, nobody else's, in batches, again after a crash."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from kernel_common.tenancy import set_tenant
from kernel_operator.desired import Unavailable
from kernel_operator.targets.postgres import PostgresTarget, batches, erasure

from .conftest import Installed, a_tenant, add_rows, outbox_of

Install = Callable[..., Awaitable[Installed]]


async def test_all_rows_of_the_tenant_go_and_no_others(
    target: PostgresTarget, pool: asyncpg.Pool, admin: asyncpg.Connection, install: Install
) -> None:
    first, second = await install(), await install()
    gone, kept = first.a, first.b
    await add_rows(admin, first.table, gone, 23)
    await add_rows(admin, first.table, kept, 7)
    await add_rows(admin, second.table, gone, 2)
    # Damage that would make a deletion by row-level security alone delete everything.
    await admin.execute(f"ALTER TABLE {first.table} DISABLE ROW LEVEL SECURITY")

    outcome = await erasure.delete_tenant(pool, gone, batch=5)
    assert f"deleted 23 rows of {first.table}" in outcome.changes
    assert f"deleted 2 rows of {second.table}" in outcome.changes
    for table in (first.table, second.table):
        assert await admin.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", gone) == 0
    assert await admin.fetchval(f"SELECT count(*) FROM {first.table}") == 7
    row = await admin.fetchrow("SELECT * FROM kernel.tenants WHERE id = $1", gone)
    assert (row["status"], row["blocked"], row["display_name"], row["owner_email"]) == ("deleted", True, "", "")
    assert (row["limits"], row["resource_uid"], row["parent_id"]) == ("{}", None, None)
    assert await admin.fetchval("SELECT count(*) FROM kernel.module_tenants WHERE tenant_id = $1", gone) == 0
    assert await admin.fetchval("SELECT count(*) FROM kernel.tenant_closure WHERE descendant_id = $1", gone) == 0
    assert [event["type"].rpartition(".")[2] for event in await outbox_of(admin, gone)] == [
        "created",
        "blocked",
        "deleted",
    ]

    assert (await target.delete_tenant(gone)).changes == ()
    assert len(await outbox_of(admin, gone)) == 3


async def test_it_goes_on_where_it_was_broken_off(
    pool: asyncpg.Pool, admin: asyncpg.Connection, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = await install()
    await add_rows(admin, installed.table, installed.a, 10)

    async def dies_when_few_are_left(connection: asyncpg.Connection, tenant: UUID) -> None:
        await set_tenant(connection, tenant)
        if await connection.fetchval(f"SELECT count(*) FROM {installed.table}") == 2:
            raise ConnectionAbortedError

    monkeypatch.setattr(batches, "set_tenant", dies_when_few_are_left)
    with pytest.raises(Unavailable):
        await erasure.delete_tenant(pool, installed.a, batch=4)
    monkeypatch.undo()
    left = await admin.fetchval(f"SELECT count(*) FROM {installed.table}")
    assert left == 2
    assert await admin.fetchval("SELECT status FROM kernel.tenants WHERE id = $1", installed.a) == "retired"
    outcome = await erasure.delete_tenant(pool, installed.a, batch=4)
    assert outcome.changes == (f"deleted 2 rows of {installed.table}", "deleted the tenant")


async def test_a_deleted_name_may_be_used_again(target: PostgresTarget, admin: asyncpg.Connection) -> None:
    tenant = a_tenant()
    await target.apply_tenants([tenant])
    await target.delete_tenant(tenant.id)
    assert (await target.apply_tenants([tenant]))[tenant.id].changes == ("created the tenant",)
    assert (await target.apply_tenants([tenant]))[tenant.id].changes == ()
    row = await admin.fetchrow("SELECT status, owner_email FROM kernel.tenants WHERE id = $1", tenant.id)
    assert tuple(row) == ("active", tenant.owner_email)


async def test_a_retired_tenant_can_be_deleted_later(target: PostgresTarget, admin: asyncpg.Connection) -> None:
    tenant = a_tenant()
    await target.apply_tenants([tenant])
    await target.retire_tenant(tenant.id)
    assert (await target.delete_tenant(tenant.id)).changes == ("deleted the tenant",)
    assert await admin.fetchval("SELECT status FROM kernel.tenants WHERE id = $1", tenant.id) == "deleted"
