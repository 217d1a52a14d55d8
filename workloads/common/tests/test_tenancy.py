"""The tenant of a transaction is set, and is gone after it, however it ended."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from kernel_common.tenancy import set_tenant, tenant_transaction

CURRENT = "SELECT nullif(current_setting('app.tenant_id', true), '')"


async def things(connection: Any) -> list[UUID]:
    return [row["tenant_id"] for row in await connection.fetch("SELECT tenant_id FROM things ORDER BY tenant_id")]


async def test_a_transaction_sees_and_writes_its_tenant_only(pool: asyncpg.Pool, service: Any) -> None:
    for tenant in (service.a, service.b):
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute("INSERT INTO things (label) VALUES ('x')")
    for tenant in (service.a, service.b):
        async with tenant_transaction(pool, tenant) as connection:
            assert set(await things(connection)) == {tenant}
    assert await things(pool) == []


class Boom(Exception):
    pass


async def end_well(pool: asyncpg.Pool, tenant: UUID) -> None:
    async with tenant_transaction(pool, tenant) as connection:
        assert await connection.fetchval(CURRENT) == str(tenant)


async def end_with_an_error(pool: asyncpg.Pool, tenant: UUID) -> None:
    with pytest.raises(Boom):
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute("INSERT INTO things (label) VALUES ('must go')")
            raise Boom


async def end_with_a_failed_statement(pool: asyncpg.Pool, tenant: UUID) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute("INSERT INTO things (label) VALUES ('must go')")
            await connection.execute("SELECT 1/0")


async def end_cancelled_in_a_statement(pool: asyncpg.Pool, tenant: UUID) -> None:
    started = asyncio.Event()

    async def work() -> None:
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute("INSERT INTO things (label) VALUES ('must go')")
            started.set()
            await connection.execute("SELECT pg_sleep(30)")

    task = asyncio.create_task(work())
    await started.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def end_cancelled_between_statements(pool: asyncpg.Pool, tenant: UUID) -> None:
    started = asyncio.Event()

    async def work() -> None:
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute("INSERT INTO things (label) VALUES ('must go')")
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def end_with_a_lost_connection(pool: asyncpg.Pool, tenant: UUID) -> None:
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute("INSERT INTO things (label) VALUES ('must go')")
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def end_with_the_setting_of_the_session(pool: asyncpg.Pool, tenant: UUID) -> None:
    """Code that does the wrong thing: it sets the tenant for the session."""
    async with pool.acquire() as connection:
        await connection.execute(f"SELECT set_config('app.tenant_id', '{tenant}', false)")


@pytest.mark.parametrize(
    "end",
    [
        end_well,
        end_with_an_error,
        end_with_a_failed_statement,
        end_cancelled_in_a_statement,
        end_cancelled_between_statements,
        end_with_a_lost_connection,
        end_with_the_setting_of_the_session,
    ],
)
async def test_the_next_user_of_the_connection_has_no_tenant(end: Any, pool: asyncpg.Pool, service: Any) -> None:
    async with tenant_transaction(pool, service.a) as connection:
        await connection.execute("INSERT INTO things (label) VALUES ('kept')")
        before = len(await things(connection))
    await end(pool, service.a)
    async with asyncio.timeout(10), pool.acquire() as connection:
        assert await connection.fetchval(CURRENT) is None
        assert await things(connection) == []
        async with connection.transaction():
            assert await things(connection) == []
    async with tenant_transaction(pool, service.b) as connection:
        assert service.a not in await things(connection)
    async with tenant_transaction(pool, service.a) as connection:
        assert len(await things(connection)) == before, "what was not committed is gone"


async def test_a_tenant_outside_a_transaction_is_refused(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        with pytest.raises(RuntimeError, match="open one first"):
            await set_tenant(connection, uuid4())


async def test_what_is_no_tenant_id_is_refused(pool: asyncpg.Pool) -> None:
    with pytest.raises(ValueError, match="UUID"):
        async with tenant_transaction(pool, "x' OR true --"):  # type: ignore[arg-type]
            raise AssertionError("entered")
