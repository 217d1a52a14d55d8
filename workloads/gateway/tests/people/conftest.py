"""One gateway for all of these tests; each test takes tenants of its own."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import redis.asyncio
from people_world import MODULE, PERMISSIONS, Gateway, World, a_gateway

from kernel_gateway.settings import Settings
from kernel_local.testing import PostgresServer, ValkeyServer
from kernel_operator.desired import ModuleState
from kernel_operator.targets.postgres import PostgresTarget


@pytest.fixture(scope="session")
async def people_database(database: PostgresTarget) -> AsyncIterator[PostgresTarget]:
    """With a module that each tenant of these tests has."""
    module = ModuleState(
        slug=MODULE,
        module_name=f"@tests/{MODULE}",
        namespace="tests",
        name=MODULE,
        uid=f"uid-{MODULE}",
        version="1.0.0",
        permissions=PERMISSIONS,
    )
    outcome = await database.apply_module(module, "a-random-password-Pe7")
    assert outcome.refusal is None
    yield database
    await database.remove_module(MODULE, drop_data=True)


@pytest.fixture(scope="session")
async def gateway(people_database: PostgresTarget, settings: Settings) -> AsyncIterator[Gateway]:
    async with a_gateway(settings) as gateway:
        yield gateway


@pytest.fixture
async def world(
    gateway: Gateway, postgres: PostgresServer, valkey: ValkeyServer, people_database: PostgresTarget
) -> AsyncIterator[World]:
    operator: Any = redis.asyncio.Redis.from_url(valkey.operator_url, decode_responses=True)
    mails = gateway.services.settings.mail_directory
    assert mails is not None
    async with asyncpg.create_pool(postgres.admin_url, database="platform", min_size=0, max_size=4) as admin:
        yield World(people_database, admin, operator, gateway, mails)
    await operator.aclose()
