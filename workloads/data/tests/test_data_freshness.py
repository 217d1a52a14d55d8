"""lastSyncAt: what the sink tells of a table, and what it does not."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from data_world import A, Client, World, as_member, served
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from kernel_data.freshness import oldest
from kernel_local.testing import ValkeyServer

TABLE = "module_sales__deals"
OLD, MIDDLE, NEW = (f"2026-11-24T14:05:0{second}.000000Z" for second in (1, 2, 3))
KEYS = (f"cdc:lastsync:{TABLE}", f"cdc:stopped:{TABLE}", "cdc:heartbeat")


@pytest.fixture
async def sink(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    """What the sink writes, as the administrator."""
    client = Redis.from_url(valkey.admin_url, decode_responses=True)
    await client.delete(*KEYS)
    yield client
    await client.delete(*KEYS)
    await client.aclose()


async def synced(client: Client) -> Any:
    _, document, _ = await client.ask()
    return document["meta"]["lastSyncAt"]


async def test_the_newest_of_what_is_known_counts(a: Client, sink: Redis) -> None:
    assert await synced(a) is None
    await sink.set(KEYS[0], MIDDLE)
    assert await synced(a) == MIDDLE
    await sink.hset("cdc:heartbeat", mapping={"n": "2", "0": NEW})
    assert await synced(a) == MIDDLE, "one partition has not told"
    await sink.hset("cdc:heartbeat", "1", OLD)
    assert await synced(a) == MIDDLE, "the slowest partition counts"
    await sink.hset("cdc:heartbeat", "1", "2026-11-24T15:05:03+01:00")
    assert await synced(a) == "2026-11-24T14:05:03.000000Z"
    await sink.set(KEYS[1], "it has no column x")
    assert await synced(a) == MIDDLE, "a table that stands still is not fresh, whatever comes past it"
    await sink.delete(KEYS[0])
    assert await synced(a) is None


@pytest.mark.parametrize("heartbeat", [{}, {"n": "0"}, {"n": "x", "0": NEW}, {"n": "1", "0": "yesterday"}, {"n": "²"}])
def test_a_heartbeat_that_says_nothing(heartbeat: dict[str, str]) -> None:
    assert oldest(heartbeat) is None


async def test_without_valkey_answers_come_all_the_same(world: World, valkey: ValkeyServer, sink: Redis) -> None:
    await sink.set(KEYS[0], NEW)
    async with served(world.settings()) as address, as_member(address, A) as client:
        assert await synced(client) == NEW
        valkey.stop()
        try:
            began = time.monotonic()
            for _ in range(5):
                status, document, _ = await client.ask()
                assert (status, document["meta"]["lastSyncAt"]) == (200, None)
            assert time.monotonic() - began < 5
        finally:
            valkey.start()
        deadline = time.monotonic() + 20
        await sink.connection_pool.disconnect()
        await sink.set(KEYS[0], NEW)
        while await synced(client) != NEW:
            assert time.monotonic() < deadline


async def test_its_user_can_do_nothing_else(valkey: ValkeyServer) -> None:
    client = Redis.from_url(valkey.data_url)
    for attempt in (
        client.set(KEYS[0], "x"),
        client.delete(KEYS[0]),
        client.hset("cdc:heartbeat", "n", "1"),
        client.get(f"tenant:blocked:{A}"),
        client.hgetall("routes:table"),
        client.keys("*"),
        client.publish("kernel:changes", "x"),
        client.eval("return 1", 0),
    ):
        with pytest.raises(NoPermissionError):
            await attempt
    await client.aclose()
