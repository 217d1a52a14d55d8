"""Kafka, Valkey and PostgreSQL for consumers, each with the least login that a consumer needs."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from consumer_world import PASSWORD, USER, VALKEY_RIGHTS, Broker
from redis.asyncio import Redis

from kernel_common.database import open_pool
from kernel_local.testing import KafkaServer, ValkeyServer

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def broker(kafka: KafkaServer) -> Iterator[Broker]:
    broker = Broker(kafka)
    yield broker
    broker.close()


@pytest.fixture
def domain() -> str:
    """One that no other test has."""
    return f"consumed{next(_numbers)}"


@pytest.fixture
def marks_url(valkey: ValkeyServer) -> str:
    return f"redis://{USER}:{PASSWORD}@127.0.0.1:{valkey.port}/0"


@pytest.fixture
async def marks(valkey: ValkeyServer, marks_url: str) -> AsyncIterator[Redis]:
    """Valkey as a consumer."""
    admin = Redis.from_url(valkey.admin_url)
    await admin.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *VALKEY_RIGHTS.split())
    await admin.execute_command("ACL", "SAVE")  # some tests kill the server
    await admin.aclose()
    client = Redis.from_url(marks_url, socket_timeout=2, socket_connect_timeout=2)
    yield client
    await client.aclose()


@pytest.fixture
async def effects(service: Any) -> AsyncIterator[Any]:
    """PostgreSQL as a module that may announce and remember events, with room for several deliveries at once."""
    pool = await open_pool(service.url, application="events-tests", max_size=4)
    yield pool
    await pool.close()


@pytest.fixture
def labels(effects: Any, service: Any) -> Callable[[], Any]:
    """The labels of all things of tenant a, in the order of their making."""
    from kernel_common.tenancy import tenant_transaction

    async def labels() -> list[str]:
        async with tenant_transaction(effects, service.a) as connection:
            rows = await connection.fetch("SELECT label FROM things ORDER BY created_at, id")
        return [row["label"] for row in rows]

    return labels
