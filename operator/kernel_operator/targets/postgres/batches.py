"""Changes to any number of a tenant's rows: in bounded batches, each its own transaction, so that no lock and no
transaction grows with the tenant."""

from uuid import UUID

import asyncpg

from kernel_common.tenancy import set_tenant
from kernel_operator.targets.postgres.session import transaction

BATCH = 5000
"""Rows a transaction."""


async def in_batches(pool: asyncpg.Pool, statement: str, tenant_id: UUID, batch: int = BATCH) -> int:
    """Repeat ``statement`` ($1 the tenant, $2 how many rows) until it finds less than a batch; returns how many there
    were. Raises Unavailable; the same call then goes on."""
    total = 0
    while True:
        async with transaction(pool) as connection:
            await set_tenant(connection, tenant_id)
            done = int((await connection.execute(statement, tenant_id, batch)).split()[-1])
        total += done
        if done < batch:
            return total
