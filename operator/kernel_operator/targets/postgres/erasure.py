"""Deleting a tenant's data, batch by batch.

The tenant is blocked first and marked ``deleted`` last. A crash in between leaves it retired; the
next call goes on with the rows that are left. People keep their accounts: those are not the tenant's.
"""

from uuid import UUID

import asyncpg

from kernel_common.events import emit
from kernel_operator.desired import Outcome
from kernel_operator.targets.postgres.batches import BATCH, in_batches
from kernel_operator.targets.postgres.session import query, transaction
from kernel_operator.targets.postgres.tenants import retire, tenant_event


async def delete_tenant(pool: asyncpg.Pool, tenant_id: UUID, *, batch: int = BATCH) -> Outcome:
    """Delete every row of the tenant in the modules' tables and forget what is personal.

    Harmless when repeated or when nothing is there. Raises Unavailable; the same call then goes on.
    """
    async with transaction(pool) as connection:
        changes = list((await retire(connection, tenant_id)).changes)
        tables = await connection.fetch(query("tenant_tables"))
    await in_batches(pool, query("forget_last_tenant"), tenant_id, batch)
    for table in tables:
        if deleted := await _empty(pool, table["statement"], tenant_id, batch):
            changes.append(f"deleted {deleted} rows of {table['name']}")
    async with transaction(pool) as connection:
        row = await connection.fetchrow(query("forget_tenant"), tenant_id)
        if row is None:
            return Outcome(tuple(changes))
        await connection.execute("DELETE FROM kernel.module_tenants WHERE tenant_id = $1", tenant_id)
        await connection.execute("DELETE FROM kernel.tenant_closure WHERE descendant_id = $1", tenant_id)
        await emit(connection, tenant_event("deleted", tenant_id, {"name": row["name"], "tier": row["tier"]}))
    return Outcome(
        (
            *changes,
            "deleted the tenant",
        )
    )


_LATELY = """
SELECT id FROM kernel.tenants WHERE status = 'deleted' AND updated_at > clock_timestamp() - interval '8 days'
"""


async def lately_deleted(pool: asyncpg.Pool) -> list[UUID]:
    """Tenants of whom Kafka may still hold changes: it keeps them for a week. Raises Unavailable."""
    async with transaction(pool) as connection:
        return [row["id"] for row in await connection.fetch(_LATELY)]


async def _empty(pool: asyncpg.Pool, statement: str, tenant_id: UUID, batch: int) -> int:
    try:
        return await in_batches(pool, statement, tenant_id, batch)
    except asyncpg.UndefinedTableError:  # its module was removed meanwhile
        return 0
