"""Pools, and which errors mean that the same work may succeed later."""

import asyncio
from typing import Any

import asyncpg
import pytest

from kernel_common.database import DatabaseUnavailable, open_pool, reason_to_wait, waiting_explained

SECRET = "s3cret-pass"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (asyncpg.CannotConnectNowError("starting up"), "the server is starting or stopping"),
        (asyncpg.AdminShutdownError("x"), "the server is starting or stopping"),
        (asyncpg.TooManyConnectionsError("x"), "the server is out of connections, memory or disk space"),
        (asyncpg.DiskFullError("x"), "the server is out of connections, memory or disk space"),
        (asyncpg.LockNotAvailableError("x"), "a lock was not free in time"),
        (asyncpg.QueryCanceledError("x"), "the statement took too long"),
        (asyncpg.DeadlockDetectedError("x"), "a concurrent change came first"),
        (asyncpg.SerializationError("x"), "a concurrent change came first"),
        (asyncpg.InternalServerError("tuple concurrently updated"), "a concurrent change came first"),
        (asyncpg.ReadOnlySQLTransactionError("x"), "the server is read-only"),
        (asyncpg.InvalidPasswordError("user x"), "the login was refused"),
        (asyncpg.InvalidCatalogNameError("x"), "the database is not there"),
        (asyncpg.ConnectionDoesNotExistError("x"), "the connection failed"),
        (asyncpg.InterfaceError("connection is closed"), "the connection was closed"),
        (
            ConnectionRefusedError(111, "Connect call failed ('10.0.0.1', 5432)"),
            "can't be reached (Connection refused)",
        ),
        (OSError("Multiple exceptions: 10.0.0.1"), "can't be reached"),
        (TimeoutError(), "no answer in time"),
    ],
)
def test_what_may_succeed_later(error: Exception, said: str) -> None:
    reason = reason_to_wait(error)
    assert reason is not None
    assert said in reason
    assert "10.0.0.1" not in reason


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError("x"),
        asyncpg.InsufficientPrivilegeError("x"),
        asyncpg.UndefinedTableError("x"),
        asyncpg.PostgresSyntaxError("x"),
        asyncpg.InternalServerError("a bug"),
        asyncpg.InterfaceError("another operation is in progress"),
        ValueError("x"),
    ],
)
def test_what_would_fail_again(error: Exception) -> None:
    assert reason_to_wait(error) is None
    with pytest.raises(type(error)), waiting_explained():
        raise error


async def test_a_server_that_is_not_there_is_told_without_its_address(unused_tcp_port: int) -> None:
    url = f"postgres://someone:{SECRET}@127.0.0.1:{unused_tcp_port}/platform"
    pool = await open_pool(url, application="tests")
    with pytest.raises(DatabaseUnavailable) as caught, waiting_explained():
        await pool.fetchval("SELECT 1")
    assert caught.value.__cause__ is None
    for part in (SECRET, "someone", "127.0.0.1"):
        assert part not in str(caught.value)
    await pool.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://a:b@c/d",
        f"postgres://u:{SECRET}@host:5432",
        f"postgres://u:{SECRET}@host:port/x",
        f"u:{SECRET}@host",
    ],
)
async def test_a_url_that_is_none_is_told_without_it(url: str) -> None:
    with pytest.raises(ValueError, match="database URL") as caught:
        await open_pool(url, application="tests")
    assert SECRET not in str(caught.value)


async def test_a_statement_ends_at_its_limit(service: Any) -> None:
    pool = await open_pool(service.url, application="tests", statement_timeout=0.2, lock_timeout=0.1)
    with pytest.raises(DatabaseUnavailable, match="took too long"), waiting_explained():
        await pool.fetchval("SELECT pg_sleep(30)")
    async with asyncio.timeout(5):
        assert await pool.fetchval("SHOW lock_timeout") == "100ms"
        assert await pool.fetchval("SHOW application_name") == "tests"
    await pool.close()
