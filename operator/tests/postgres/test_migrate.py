"""Migrations in a database of their own: order, checksums, two at once, failures."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from kernel_common.database import open_pool
from kernel_local.testing import PostgresServer
from kernel_operator.targets.postgres.migrate import Migration, MigrationError, migrate, shipped

ONE = Migration(1, "one", "CREATE TABLE kernel.one (a int)")
TWO = Migration(2, "two", "CREATE TABLE kernel.two (a int); INSERT INTO kernel.one VALUES (1)")
BROKEN = Migration(3, "broken", "CREATE TABLE kernel.three (a int); SELECT 1/0")


@pytest.fixture
async def scratch(postgres: PostgresServer) -> AsyncIterator[asyncpg.Pool]:
    """An empty database with nothing but what the bootstrap makes, as kernel_operator."""
    admin = await asyncpg.connect(postgres.admin_url)
    await admin.execute("DROP DATABASE IF EXISTS scratch")
    await admin.execute("CREATE DATABASE scratch TEMPLATE template0")
    await admin.execute("GRANT CREATE ON DATABASE scratch TO kernel_operator")
    inside = await asyncpg.connect(postgres.admin_url, database="scratch")
    await inside.execute(
        "CREATE SCHEMA kernel AUTHORIZATION kernel_operator; SET ROLE kernel_operator;"
        "CREATE TABLE kernel.schema_migrations (number int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, "
        "applied_at timestamptz NOT NULL DEFAULT now())"
    )
    await inside.close()
    pool = await open_pool(postgres.operator_url.replace("/platform", "/scratch"), application="tests")
    yield pool
    await pool.close()
    await admin.execute("DROP DATABASE scratch WITH (FORCE)")
    await admin.close()


async def test_each_is_applied_once_in_order(scratch: asyncpg.Pool) -> None:
    assert await migrate(scratch, [ONE]) == ["0001_one"]
    assert await migrate(scratch, [ONE, TWO]) == ["0002_two"]
    assert await migrate(scratch, [ONE, TWO]) == []
    assert await scratch.fetchval("SELECT count(*) FROM kernel.one") == 1


async def test_of_two_at_once_one_does_the_work(scratch: asyncpg.Pool) -> None:
    slow = replace(ONE, sql=f"{ONE.sql}; SELECT pg_sleep(0.3)")
    results = await asyncio.gather(*(migrate(scratch, [slow, TWO]) for _ in range(4)))
    assert sorted(name for names in results for name in names) == ["0001_one", "0002_two"]
    assert await scratch.fetchval("SELECT count(*) FROM kernel.one") == 1


async def test_a_failure_leaves_the_version_before(scratch: asyncpg.Pool) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(scratch, [ONE, TWO, BROKEN])
    assert await scratch.fetchval("SELECT max(number) FROM kernel.schema_migrations") == 2
    assert await scratch.fetchval("SELECT to_regclass('kernel.three')") is None
    assert await migrate(scratch, [ONE, TWO, replace(BROKEN, sql="SELECT 1")]) == ["0003_broken"]


async def test_a_changed_file_is_refused(scratch: asyncpg.Pool) -> None:
    await migrate(scratch, [ONE, TWO])
    with pytest.raises(MigrationError, match="0001_one was changed after it was applied"):
        await migrate(scratch, [replace(ONE, sql="SELECT 1"), TWO])


async def test_gaps_and_newer_databases_are_refused(scratch: asyncpg.Pool) -> None:
    with pytest.raises(MigrationError, match="0002 expected, found 0003"):
        await migrate(scratch, [ONE, BROKEN])
    await migrate(scratch, [ONE, TWO])
    with pytest.raises(MigrationError, match="run the newer version"):
        await migrate(scratch, [ONE])
    await scratch.execute("DELETE FROM kernel.schema_migrations WHERE number = 1")
    with pytest.raises(MigrationError, match="0001 is missing in the database"):
        await migrate(scratch, [ONE, TWO])


def test_the_shipped_ones_are_numbered_without_a_gap() -> None:
    migrations = shipped()
    assert [migration.number for migration in migrations] == list(range(1, len(migrations) + 1))
    assert len({migration.name for migration in migrations}) == len(migrations) >= 4
