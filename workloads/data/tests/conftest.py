"""The API on a real engine, with the tables and users that the operator makes."""

import base64
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from data_world import MODULE, SECRET, A, B, Client, World, Writer, a_tenant, as_member, deals, served

from kernel_local.testing import ClickHouseServer, ValkeyServer
from kernel_operator.targets.clickhouse import ClickHouseTarget

MASTER_KEY = bytes(range(32))


@pytest.fixture(scope="session")
async def target(clickhouse: ClickHouseServer) -> AsyncIterator[ClickHouseTarget]:
    target = ClickHouseTarget(clickhouse.operator_url, clickhouse.database, MASTER_KEY)
    await target.apply_tenants([a_tenant(A), a_tenant(B)])
    yield target
    await target.close()


@pytest.fixture(scope="session")
async def world(clickhouse: ClickHouseServer, valkey: ValkeyServer, target: ClickHouseTarget) -> World:
    """A's records have a history: older versions, deleted and soft-deleted ones beside those that are seen."""
    assert (await target.apply_module(MODULE)).refusal is None
    writer, table = Writer(clickhouse.writer_url), "module_sales__deals"
    seen, gone, soft = deals(240, seed=1), deals(20, seed=2), deals(20, seed=3)
    older = [{**row, "stage": "older", "updated_at": row["updated_at"] - timedelta(hours=1)} for row in seen[:60]]
    await writer.insert(table, A, [*older, *seen])
    await writer.insert(table, A, gone, is_deleted=1)
    await writer.insert(table, A, soft, deleted_at="2026-11-01 00:00:00.000000")
    await writer.insert(table, B, deals(240, seed=4, mark=SECRET))
    # B has records under the very ids of A's too.
    await writer.insert(table, B, [{**row, "stage": SECRET, "score": 1} for row in seen[:20]])
    where = urlsplit(clickhouse.operator_url)
    environment = {
        "CLICKHOUSE_URL": f"http://{where.hostname}:{where.port}",
        "VALKEY_URL": valkey.data_url,
        "KERNEL_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        "DATA_HOST": "127.0.0.1",
        "DATA_SHUTDOWN_DELAY": "0",
    }
    return World(environment, seen, writer)


@pytest.fixture(scope="session")
async def address(world: World) -> AsyncIterator[str]:
    async with served(world.settings()) as address:
        yield address


@pytest.fixture(scope="session")
async def a(address: str) -> AsyncIterator[Client]:
    async with as_member(address, A) as client:
        yield client


@pytest.fixture(scope="session")
async def b(address: str) -> AsyncIterator[Client]:
    async with as_member(address, B) as client:
        yield client
