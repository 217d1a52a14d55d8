"""One prepared database and one Valkey for all of these tests; each test takes tenants of its own."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from decision_world import MODULE, PERMISSIONS, Seat, World

from kernel_common.database import open_pool
from kernel_gateway.tokens import keyring
from kernel_gateway.tokens.holder import KeyHolder
from kernel_local.testing import PostgresServer, ValkeyServer
from kernel_operator.desired import ModuleState
from kernel_operator.targets.postgres import PostgresTarget


@pytest.fixture(scope="session")
async def decision_database(postgres: PostgresServer) -> AsyncIterator[PostgresTarget]:
    target = PostgresTarget(postgres.operator_url)
    await target.prepare()
    module = ModuleState(
        slug=MODULE,
        module_name="@tests/dcrm",
        namespace="tests",
        name="dcrm",
        uid="uid-dcrm",
        version="1.0.0",
        permissions=PERMISSIONS,
    )
    outcome = await target.apply_module(module, "a-random-password-Vd1")
    assert outcome.refusal is None
    yield target
    await target.remove_module(MODULE, drop_data=True)
    await target.close()


@pytest.fixture
async def world(
    postgres: PostgresServer, valkey: ValkeyServer, decision_database: PostgresTarget, tmp_path: Any
) -> AsyncIterator[World]:
    keyring.rotate(tmp_path, time.time() - 2 * keyring.SETTLE)
    operator: Any = redis.asyncio.Redis.from_url(valkey.operator_url, decode_responses=True)
    pool = await open_pool(postgres.gateway_url, application="decision-tests")
    world = World(decision_database, postgres.admin_url, operator, pool, valkey.gateway_url, KeyHolder(tmp_path))
    yield world
    for seat in world.seats:
        await seat.close()
    await pool.close()
    await operator.aclose()


@pytest.fixture
async def administrator(valkey: ValkeyServer) -> AsyncIterator[Any]:
    """The administrator of Valkey, who sees and breaks everything."""
    client: Any = redis.asyncio.Redis.from_url(valkey.admin_url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
async def seat(world: World) -> Seat:
    return await world.seat()
