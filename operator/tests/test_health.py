"""The probes tell whether work gets done, and nothing else."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from objects import tenant

from kernel_operator.cluster import Cluster
from kernel_operator.http import Health, application
from kernel_operator.kube import TENANTS
from kernel_operator.queue import Key, WorkQueue

STALL = 10.0


class Clock:
    """Stands in for the monotonic clock of the queue and the cluster, so that a test need not wait for a stall."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("kernel_operator.queue.time.monotonic", clock.monotonic)
    monkeypatch.setattr("kernel_operator.cluster.time.monotonic", clock.monotonic)
    return clock


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(WorkQueue(), Cluster(), STALL)


@pytest.fixture
async def client(health: Health) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(application(health))) as client:
        yield client


async def ask(client: TestClient[Any, Any], path: str) -> tuple[int, str]:
    response = await client.get(path)
    return response.status, await response.text()


async def test_a_quiet_operator_is_alive_for_ever(client: Any, clock: Clock) -> None:
    clock.now += 1e6
    assert (await ask(client, "/livez"))[0] == 200


async def test_work_that_stands_still_is_told(client: Any, clock: Clock, health: Health) -> None:
    key = Key(TENANTS, "", "a")
    health.queue.submit([key])
    clock.now += STALL + 1
    status, text = await ask(client, "/livez")
    assert status == 503
    assert "none of it was finished" in text
    await health.queue.take(TENANTS, 1)
    assert (await ask(client, "/livez"))[0] == 503, "being worked on is not being finished"
    health.queue.done(key)
    assert (await ask(client, "/livez"))[0] == 200


async def test_slow_but_steady_work_is_alive(client: Any, clock: Clock, health: Health) -> None:
    keys = [Key(TENANTS, "", str(n)) for n in range(10)]
    health.queue.submit(keys)
    for key in keys:
        await health.queue.take(TENANTS, 1)
        clock.now += STALL - 1
        assert (await ask(client, "/livez"))[0] == 200
        health.queue.done(key)


async def test_what_waits_for_its_backoff_is_not_a_stall(client: Any, clock: Clock, health: Health) -> None:
    key = Key(TENANTS, "", "a")
    health.queue.submit([key])
    await health.queue.take(TENANTS, 1)
    health.queue.done(key, retry=True)
    assert health.queue.standing_still() == 0
    assert (await ask(client, "/livez"))[0] == 200


async def test_a_silent_watch_is_told(client: Any, clock: Clock, health: Health) -> None:
    body = tenant("a", "owner")
    health.cluster.reconcile_list(TENANTS, [body["metadata"]], int(body["metadata"]["resourceVersion"]))
    clock.now += STALL + 1
    status, text = await ask(client, "/livez")
    assert status == 503
    assert "watch" in text
    health.cluster.observe(TENANTS, body)
    assert (await ask(client, "/livez"))[0] == 200


async def test_ready_is_told_when_it_is_so(client: Any, health: Health) -> None:
    assert (await ask(client, "/readyz"))[0] == 503
    health.ready = True
    assert (await ask(client, "/readyz"))[0] == 200


async def test_metrics_have_the_names_that_dashboards_know(client: Any, health: Health) -> None:
    health.queue.submit([Key(TENANTS, "", "a")])
    status, text = await ask(client, "/metrics")
    assert status == 200
    for name in ("controller_runtime_reconcile_total", "workqueue_depth", "platform_kernel_repairs_total"):
        assert name in text
    assert 'workqueue_depth{name="tenants"} 1.0' in text
