"""The route table, from the operator's write to Envoy's answer: quick, without a gap, and never for the worse."""

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from envoy_edge import Edge, Upstream, eventually, read_answer, running_edge, start_envoy, stop_envoy
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from kernel_gateway.envoy import published, publisher, transitions
from kernel_gateway.envoy.admin import Admin
from kernel_gateway.envoy.watcher import CHANNEL, TABLE_KEY, VERSION_KEY, Watcher
from kernel_local.testing import ValkeyServer
from kernel_operator.desired import ModuleState, Route, RouteRule
from kernel_operator.targets.valkey import ValkeyTarget

CONTACTS = "/api/v1/crm/contacts"


def module(slug: str = "crm", version: str = "1.0.0", permission: str = "read", **route: Any) -> ModuleState:
    rules = (RouteRule(("GET",), "/contacts", f"{slug}.{permission}"), RouteRule(("GET",), "/slow", f"{slug}.slow"))
    return ModuleState(
        slug=slug,
        module_name=f"@acme/{slug}",
        namespace=slug,
        name=slug,
        uid=f"uid-{slug}",
        version=version,
        permissions=(f"{slug}.{permission}", f"{slug}.slow"),
        route=replace(Route(f"/api/v1/{slug}", slug, 8080, rules), **route),
    )


@dataclass
class World:
    """``operator`` writes tables as the operator does; ``overrides`` says where each module's service listens."""

    edge: Edge
    upstream: Upstream
    server: ValkeyServer
    admin: Redis
    operator: ValkeyTarget
    overrides: dict[str, str] = field(default_factory=dict)
    watcher: Watcher | None = None

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Watcher]:
        """The gateway's part in it, under the gateway's own login."""
        client = Redis.from_url(self.server.gateway_url, socket_timeout=5)
        admin = Admin(self.edge.settings.gateway_envoy_admin_port)
        follows = Watcher(client, self.edge.settings.gateway_envoy_directory, admin, overrides=self.overrides)
        task = asyncio.create_task(follows.run())
        try:
            yield follows
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await admin.close()
            await client.aclose()

    async def status(self, path: str = CONTACTS) -> int:
        return (await self.edge.ask(path)).status

    async def becomes(self, status: int, path: str = CONTACTS, seconds: float = 8) -> None:
        """Returns when a request is answered so."""

        async def holds() -> bool:
            return await self.status(path) == status

        await eventually(holds, seconds)


@pytest.fixture(scope="module")
async def envoy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("watched")) as edge:
        yield edge


@pytest.fixture
async def world(envoy: Edge, valkey: ValkeyServer) -> AsyncIterator[World]:
    admin = Redis.from_url(valkey.admin_url, decode_responses=True)
    await admin.flushall()
    upstream = Upstream()
    await upstream.start()
    target = ValkeyTarget(valkey.operator_url)
    envoy.tokens.asked.clear()
    (envoy.settings.gateway_envoy_directory / published.TABLE).unlink(missing_ok=True)
    await envoy.publish()
    yield World(envoy, upstream, valkey, admin, target, {"crm": f"127.0.0.1:{upstream.port}"})
    await target.close()
    await upstream.stop()
    await admin.aclose()


def refused_entries() -> float | None:
    return REGISTRY.get_sample_value("kernel_gateway_route_entries_refused")


def counted(document: str, result: str) -> float:
    labels = {"document": document, "result": result}
    return REGISTRY.get_sample_value("kernel_gateway_envoy_publications_total", labels) or 0


async def test_a_module_answers_within_a_second_and_is_gone_within_a_second(world: World) -> None:
    async with world.watching():
        await asyncio.sleep(0.2)
        assert await world.status() == 404
        await world.operator.apply_modules([module()])
        await world.becomes(200, seconds=1)
        await world.operator.apply_modules([module(permission="write")])
        await eventually(lambda: _asked(world, "crm.write"), 1)
        await world.operator.remove_module("crm")
        await world.becomes(404, seconds=1)


async def _asked(world: World, permission: str) -> bool:
    world.edge.tokens.asked.clear()
    await world.status()
    return [rule.permission for rule, _, _ in world.edge.tokens.asked] == [permission]


async def test_a_lost_message_is_made_up_for(world: World) -> None:
    async with world.watching() as follows:
        await world.operator.apply_modules([module()])
        await follows.current.wait()
        await world.becomes(200)
        async with world.admin.pipeline(transaction=True) as silent:
            silent.hdel(TABLE_KEY, "crm")
            silent.set(VERSION_KEY, "another")
            await silent.execute()
        await world.becomes(404)


async def test_a_bad_entry_keeps_its_last_routes_and_spoils_no_other(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.watching():
        await world.operator.apply_modules([module()])
        await world.becomes(200)
        other = Upstream()
        await other.start()
        world.overrides["shop"] = f"127.0.0.1:{other.port}"
        bad = {"crm": '{"prefix": "/api/v1/crm"}', "bad slug": "{}", "new": "nonsense", "bytes": b"\xff"}
        await world.admin.hset(TABLE_KEY, mapping=bad)
        with caplog.at_level(logging.WARNING):
            await world.operator.apply_modules([module("shop")])
            await world.becomes(200, "/api/v1/shop/contacts")
        assert await world.status() == 200 and refused_entries() == 4
        said = " ".join(record.getMessage() for record in caplog.records)
        assert "route of crm can't be used, its last routes stay: namespace" in said
        assert "route of new can't be used, it has no routes" in said
    # It stays so for the next process, which knows the last good entry from the disk.
    async with world.watching() as follows:
        await follows.current.wait()
        assert await world.status() == 200
        await world.operator.apply_modules([module(version="2.0.0")])
        await eventually(lambda: refused_entries() == 3)
        assert await world.status() == 200
    await other.stop()


async def test_valkey_may_go_and_come_back_empty(world: World) -> None:
    async with world.watching():
        await world.operator.apply_modules([module()])
        await world.becomes(200)
        world.server.kill()
        try:
            assert await world.status() == 200
            async with world.watching():  # a gateway that starts now has the files of the last
                await asyncio.sleep(0.3)
                assert await world.status() == 200
        finally:
            world.server.start()
            await world.admin.connection_pool.disconnect()
        await world.admin.flushall()
        await asyncio.sleep(1.5)  # longer than any pause of the watcher
        assert await world.status() == 200
        world.overrides["shop"] = world.overrides["crm"]
        await world.operator.apply_modules([module(), module("shop")])
        await world.becomes(200, "/api/v1/shop/contacts")
        await world.operator.remove_module("crm")
        await world.becomes(404)


async def test_envoy_s_own_refusal_is_noticed_and_the_last_good_stays(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clusters = published.module_clusters
    async with world.watching() as follows:
        await world.operator.apply_modules([module()])
        await world.becomes(200)
        good = (world.edge.settings.gateway_envoy_directory / published.CLUSTERS).read_text()

        def broken(modules: Any) -> list[dict[str, Any]]:
            return [cluster | {"connect_timeout": "-1s"} for cluster in clusters(modules)]

        before = counted(published.CLUSTERS, "rejected")
        monkeypatch.setattr(publisher, "module_clusters", broken)
        with caplog.at_level(logging.ERROR):
            await world.operator.apply_modules([module(), module("shop")])
            await eventually(lambda: counted(published.CLUSTERS, "rejected") == before + 1)
        await eventually(lambda: "Envoy rejected cds.json" in caplog.text)
        on_disk = world.edge.settings.gateway_envoy_directory / published.CLUSTERS
        await eventually(lambda: on_disk.read_text() == good)
        assert await world.status() == 200 and await world.status("/api/v1/shop/contacts") == 404
        monkeypatch.undo()
        world.overrides["shop"] = world.overrides["crm"]
        await world.operator.apply_modules([module(), module("shop", version="1.0.1")])
        await world.becomes(200, "/api/v1/shop/contacts")
        assert follows.current.is_set()


async def test_a_request_under_way_outlives_its_route(world: World) -> None:
    async with world.watching():
        await world.operator.apply_modules([module()])
        await world.becomes(200)
        world.upstream.seen.clear()
        slow = [asyncio.ensure_future(world.edge.ask("/api/v1/crm/slow")) for _ in range(10)]
        await eventually(lambda: len(world.upstream.seen) == 10)
        await world.operator.remove_module("crm")
        await world.becomes(404)
        world.upstream.hold.set()
        assert {answer.status for answer in await asyncio.gather(*slow)} == {200}


async def test_a_cluster_goes_when_nobody_can_need_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "_LINGER_SECONDS", 0.5)

    def names() -> list[str]:
        document = json.loads((world.edge.settings.gateway_envoy_directory / published.CLUSTERS).read_text())
        return [cluster["name"] for cluster in document["resources"]]

    async with world.watching():
        await world.operator.apply_modules([module()])
        await world.becomes(200)
        await world.operator.remove_module("crm")
        await world.becomes(404)
        assert names() == ["module_crm"]
        await eventually(lambda: names() == [], 5)


async def test_envoy_may_start_after_and_restart(world: World) -> None:
    async with world.watching():
        await world.operator.apply_modules([module()])
        await world.becomes(200)
        transitions.note("module_crm", "0x1", "open", born=int(time.time()) - 60)
        await stop_envoy(world.edge)
        world.overrides["shop"] = world.overrides["crm"]
        await world.operator.apply_modules([module(), module("shop")])
        await eventually(
            lambda: "module_shop" in (world.edge.settings.gateway_envoy_directory / published.ROUTES).read_text(), 5
        )
        await start_envoy(world.edge)
        assert await world.status() == 200 and await world.status("/api/v1/shop/contacts") == 200
        # The breakers of the old one are gone with it.
        state = {"target": "module_crm"}
        await eventually(lambda: REGISTRY.get_sample_value("circuit_breaker_state", state) is None)


class Quick(asyncio.Protocol):
    """A service that answers 200 as fast as Python can; ``served`` counts by port."""

    def __init__(self, served: Counter[int]) -> None:
        self._served = served
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._port: int = transport.get_extra_info("sockname")[1]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        requests = self._buffer.count(b"\r\n\r\n")
        self._buffer = self._buffer.rpartition(b"\r\n\r\n")[2]
        self._served[self._port] += requests
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" * requests)


async def keep_asking(edge: Edge, over: asyncio.Event, answers: Counter[int]) -> None:
    """Requests one after the other on one connection; ``answers`` counts them by status."""
    reader, writer = await asyncio.open_connection("localhost", edge.port, ssl=edge.tls)
    while not over.is_set():
        writer.write(f"GET {CONTACTS} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ada\r\n\r\n".encode())
        answer = await asyncio.wait_for(read_answer(reader), 10)
        answers[answer.status] += 1
    writer.close()


async def flips(world: World, requests: int, seconds: float) -> None:
    """Rules change, other modules come and go, and the service moves between two ports, all under load: until so many
    requests have been made, or for so long."""
    served: Counter[int] = Counter()
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda: Quick(served), "127.0.0.1", 0) for _ in range(2)]
    places = [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    over, changes = asyncio.Event(), 0
    answers: Counter[int] = Counter()
    world.overrides |= {"crm": places[0], "shop": places[0]}
    async with world.watching():
        await world.operator.apply_modules([module()])
        await world.becomes(200)
        before = counted(published.ROUTES, "accepted")
        load = [asyncio.create_task(keep_asking(world.edge, over, answers)) for _ in range(16)]
        until = time.monotonic() + seconds
        while answers.total() < requests and time.monotonic() < until and not any(task.done() for task in load):
            changes += 1
            world.overrides["crm"] = places[changes % 2]
            shop = [module("shop", version=f"1.0.{changes}")] if changes % 3 else []
            if not shop:
                await world.operator.remove_module("shop")
            await world.operator.apply_modules([module(version=f"1.0.{changes}", permission=f"read{changes}"), *shop])
            await asyncio.sleep(0.02)
        over.set()
        await asyncio.gather(*load)
    for server in servers:
        server.close()
    assert answers.keys() == {200} and answers.total() > 300, answers
    assert changes > 15 and counted(published.ROUTES, "accepted") - before > 10
    assert len(served) == 2 and served.total() >= answers.total()


async def test_changes_drop_no_request(world: World) -> None:
    await flips(world, 2000, 20)


@pytest.mark.soak
async def test_changes_drop_no_request_of_very_many(world: World) -> None:
    await flips(world, 100_000, 600)


async def test_news_for_others_is_not_ours(world: World) -> None:
    async with world.watching() as follows:
        await world.operator.apply_modules([module()])
        await follows.current.wait()
        await world.becomes(200)
        await world.admin.config_resetstat()
        for _ in range(20):
            await world.admin.publish(CHANNEL, "tenants 1")
        await asyncio.sleep(0.3)
        calls = await world.admin.info("commandstats")
        assert "cmdstat_hgetall" not in calls
