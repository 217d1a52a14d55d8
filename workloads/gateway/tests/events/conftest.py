"""One gateway with Kafka for all of these tests; each takes tenants and a module of its own."""

from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
import redis.asyncio
from events_world import World, collecting_letters
from gateway_api import Client, calling, serving

from kernel_gateway.api.services import Services
from kernel_gateway.events.grpc_server import EventServer
from kernel_gateway.events.kafka import Kafka
from kernel_local.parts.kafka import GATEWAY
from kernel_local.testing import KafkaServer, PostgresServer, ValkeyServer
from kernel_operator.targets.postgres import PostgresTarget


@pytest.fixture(scope="session")
async def world(
    postgres: PostgresServer, valkey: ValkeyServer, kafka: KafkaServer, database: PostgresTarget
) -> AsyncIterator[World]:
    operator = redis.asyncio.Redis.from_url(valkey.operator_url, decode_responses=True)
    async with asyncpg.create_pool(postgres.admin_url, database="platform", min_size=0, max_size=4) as admin:
        yield World(database, admin, operator, kafka)
    await operator.aclose()


@pytest.fixture(scope="session")
async def with_kafka(services: Services, kafka: KafkaServer) -> AsyncIterator[Services]:
    """The gateway's services, with Kafka as its own limited user."""
    client = Kafka(kafka._part.client(GATEWAY))
    yield replace(services, kafka=client)
    await client.close()


@pytest.fixture(scope="session")
async def events_api(with_kafka: Services) -> AsyncIterator[str]:
    async with serving(with_kafka) as base:
        yield base


@pytest.fixture
async def events(events_api: str) -> AsyncIterator[Client]:
    """A client of that gateway."""
    async with calling(events_api) as client:
        yield client


@pytest.fixture(scope="session")
async def collector(with_kafka: Services, world: World) -> AsyncIterator[None]:
    """Reads dead letters meanwhile, as the gateway's process does."""
    world.prepare()
    async with collecting_letters(with_kafka):
        yield


@pytest.fixture(scope="session")
async def event_server(with_kafka: Services) -> AsyncIterator[EventServer]:
    server = EventServer(with_kafka)
    await server.start("127.0.0.1", 0)
    yield server
    await server.stop(1)
