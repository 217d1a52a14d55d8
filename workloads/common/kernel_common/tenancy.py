"""The tenant of a database transaction.

Row-level security compares ``tenant_id`` with the setting ``app.tenant_id``. It is set for one
transaction only, as its first statement: a setting of the session would stay on the pooled
connection and show one tenant's rows to the next.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT


async def set_tenant(connection: asyncpg.Connection, tenant_id: UUID) -> None:
    """Make ``tenant_id`` the tenant of the transaction that ``connection`` is in.

    Raises RuntimeError outside a transaction, where the setting would be gone at once.
    """
    if not connection.is_in_transaction():
        raise RuntimeError("a tenant is set for a transaction: open one first")
    await connection.execute("SELECT pg_catalog.set_config('app.tenant_id', $1, true)", str(UUID(str(tenant_id))))


@asynccontextmanager
async def tenant_transaction(pool: asyncpg.Pool, tenant_id: UUID) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that sees and writes the rows of ``tenant_id`` only.

    Commits at the end, rolls back on any error or cancellation. Waits at most ``ACQUIRE_TIMEOUT``
    seconds for a connection (TimeoutError).
    """
    async with pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, connection.transaction():
        await set_tenant(connection, tenant_id)
        yield connection
