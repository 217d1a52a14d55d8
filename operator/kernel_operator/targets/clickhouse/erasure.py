"""Removing a tenant's rows from every analytics table, so that they are gone from the disk as well.

``ALTER TABLE ... DELETE`` rewrites the parts that hold such rows. The server does it in the background
and goes on with it after a restart; here it is started where rows are left and none is under way, and
then awaited. Repeating the call after a time-out waits for the same mutations.
"""

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID

from kernel_operator.desired import Unavailable
from kernel_operator.targets.clickhouse.client import ClickHouse, bounded
from kernel_operator.targets.clickhouse.quoting import literal, qualified

ERASE_SECONDS = 60.0
_AT_ONCE = 4


async def erase_tenant(client: ClickHouse, database: str, tables: list[str], tenant: UUID) -> list[str]:
    """Removes the rows of ``tenant`` from ``tables``; a clause for each that had some. Raises
    Unavailable when the server needs longer than a minute; call again then."""
    counts = await bounded(_AT_ONCE, *(_count(client, database, table, tenant) for table in tables))
    there = [table for table, count in zip(tables, counts, strict=True) if count]
    await bounded(_AT_ONCE, *(_start(client, database, table, tenant) for table in there))
    deadline = time.monotonic() + ERASE_SECONDS
    pause = 0.02
    while await _unfinished(client, database, there, tenant):
        if time.monotonic() > deadline:
            raise Unavailable("ClickHouse", "the rows of the tenant are still being removed")
        await asyncio.sleep(pause)
        pause = min(2 * pause, 1.0)
    return [f"removed the tenant's rows from {table}" for table in there]


async def erase_again(client: ClickHouse, database: str, tables: list[str], tenants: Sequence[UUID]) -> list[str]:
    """Removes what the stream brought of ``tenants`` after they were erased: their deletions, which carry the rows
    as they were last. A clause for each table of a tenant. Raises Unavailable."""
    found = await bounded(_AT_ONCE, *(_holders(client, database, table, tenants) for table in tables))
    changes = []
    for table, holders in zip(tables, found, strict=True):
        for tenant in holders:
            changes += await erase_tenant(client, database, [table], tenant)
    return changes


async def _holders(client: ClickHouse, database: str, table: str, tenants: Sequence[UUID]) -> list[UUID]:
    question = (
        f"SELECT DISTINCT tenant_id AS id FROM {qualified(database, table)} "  # noqa: S608
        "WHERE has({tenants:Array(UUID)}, tenant_id)"
    )
    rows = await client.rows(question, tenants=[str(tenant) for tenant in tenants])
    return [UUID(row["id"]) for row in rows]


async def _count(client: ClickHouse, database: str, table: str, tenant: UUID) -> int:
    question = f"SELECT count() AS n FROM {qualified(database, table)} WHERE tenant_id = {literal(tenant)}"  # noqa: S608
    found = await client.rows(question)
    return int(found[0]["n"])


async def _start(client: ClickHouse, database: str, table: str, tenant: UUID) -> None:
    if not await _unfinished(client, database, [table], tenant):
        where = f"tenant_id = {literal(tenant)}"
        await client.run(f"ALTER TABLE {qualified(database, table)} DELETE WHERE {where} SETTINGS mutations_sync = 0")


async def _unfinished(client: ClickHouse, database: str, tables: list[str], tenant: UUID) -> list[str]:
    if not tables:
        return []
    rows = await client.rows(
        "SELECT DISTINCT table FROM system.mutations WHERE NOT is_done AND database = {database:String} "
        "AND has({tables:Array(String)}, table) AND position(command, {tenant:String}) > 0",
        database=database,
        tables=tables,
        tenant=str(tenant),
    )
    return [row["table"] for row in rows]
