"""A change holds from the very next request, at every gateway, whatever is remembered, and whatever dies meanwhile."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import aiohttp
import pytest
import redis.asyncio
from gateway_process import free_port
from people_world import Gateway, World, a_gateway

from kernel_gateway.decision.rights import Database, Held
from kernel_gateway.people.permissions import MEMBER
from kernel_gateway.settings import Settings
from kernel_local.testing import ValkeyServer


@asynccontextmanager
async def a_process(gateway: Gateway, environment: dict[str, str]) -> AsyncIterator[tuple[Gateway, Process]]:
    """A gateway that runs as a process of its own, on the servers of ``gateway``."""
    port, decision_port = free_port(), free_port()
    ports = {"GATEWAY_PORT": str(port), "GATEWAY_DECISION_PORT": str(decision_port)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kernel_gateway",
        "serve",
        env=os.environ | environment | ports,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            await _until_it_serves(http)
            yield Gateway(gateway.services, http), process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture(scope="session")
async def second(gateway: Gateway, environment: dict[str, str]) -> AsyncIterator[Gateway]:
    """Another gateway on the same servers, in a process of its own."""
    async with a_process(gateway, environment) as (second, _):
        yield second


@pytest.fixture
async def memory(valkey: ValkeyServer) -> AsyncIterator[Any]:
    """Valkey as its administrator sees it."""
    client: Any = redis.asyncio.Redis.from_url(valkey.admin_url, decode_responses=True)
    yield client
    await client.aclose()


async def remembered(memory: Any, tenant: UUID, user: UUID) -> set[str]:
    """What Valkey keeps of the user's rights, when it is what counts now."""
    version, epoch, era = await memory.mget(f"rbac:version:{tenant}", f"modules:epoch:{tenant}", "rbac:era")
    kept: set[str] = await memory.smembers(f"rbac:{tenant}:{user}")
    return kept if f"#{version}.{epoch or ''}.{era}" in kept else set()


async def test_each_kind_of_change_holds_at_both_gateways_at_once(
    gateway: Gateway, second: Gateway, world: World, memory: Any
) -> None:
    tenant = await world.tenant()
    owner, role = await world.person(tenant, "Owner"), await world.role(tenant, "roles.list")
    person = await world.person(tenant, role)
    member, choice = f"/members/{person.id}", {"roleIds": [str(role)]}
    steps: list[tuple[str, str, Any, bool]] = [
        ("POST", f"{member}/withdraw-roles", choice, False),
        ("POST", f"{member}/assign-roles", choice, True),
        ("PATCH", f"/roles/{role}", {"permissionIds": ["audit.read"]}, False),
        ("PATCH", f"/roles/{role}", {"permissionIds": ["audit.read", "roles.list"]}, True),
        ("POST", f"{member}/block", None, False),
        ("POST", f"{member}/unblock", None, True),
        ("DELETE", member, None, False),
    ]
    gateways = [gateway, second]
    assert await world.allows(gateway, person)
    assert await world.allows(second, person)
    for place, (method, path, body, allowed) in enumerate(steps):
        async with asyncio.timeout(5):  # it is kept in the background
            while not await remembered(memory, tenant, person.id):
                await world.allows(second, person)
        changed = await gateways[place % 2].ask(owner, method, path, body)
        assert changed.status in (200, 204)
        asked = await asyncio.gather(*(world.allows(gateways[n % 2], person) for n in range(6)))
        assert asked == [allowed] * 6, (method, path)


class SlowDatabase:
    """Reads what is there, and holds it back until it is released."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.has_read, self.release = asyncio.Event(), asyncio.Event()

    async def read(self, tenant: UUID, user: UUID) -> Held | None:
        held = await self._database.read(tenant, user)
        self.has_read.set()
        await self.release.wait()
        return held


async def test_a_slow_reading_never_brings_back_what_was_withdrawn(
    gateway: Gateway, settings: Settings, world: World, memory: Any
) -> None:
    tenant = await world.tenant()
    owner, role = await world.person(tenant, "Owner"), await world.role(tenant, "roles.list")
    person = await world.person(tenant, role)
    source = SlowDatabase(Database(gateway.services.pool))
    async with a_gateway(settings, source) as slow:
        before = asyncio.create_task(world.allows(slow, person))
        await asyncio.wait_for(source.has_read.wait(), 5)
        withdrawn = await gateway.ask(owner, "POST", f"/members/{person.id}/withdraw-roles", {"roleIds": [str(role)]})
        assert withdrawn.body["roles"] == []
        during = asyncio.create_task(world.allows(slow, person))
        assert not await world.allows(gateway, person)
        source.release.set()
        assert await before, "it asked before the change"
        assert not await during
        assert not await world.allows(slow, person)
        assert not await world.allows(gateway, person)
        assert "roles.list" not in await memory.smembers(f"rbac:{tenant}:{person.id}")


async def test_changes_hold_while_many_ask(gateway: Gateway, second: Gateway, world: World) -> None:
    tenant = await world.tenant()
    owner, role = await world.person(tenant, "Owner"), await world.role(tenant, "roles.list")
    person = await world.person(tenant)
    stop = asyncio.Event()

    async def hammer(at: Gateway) -> None:
        while not stop.is_set():
            await world.allows(at, person)

    async with asyncio.TaskGroup() as group:
        for at in (gateway, second) * 2:
            group.create_task(hammer(at))
        for turn in range(16):
            action, allowed = ("assign", True) if turn % 2 == 0 else ("withdraw", False)
            at = (gateway, second)[turn // 2 % 2]
            answer = await at.ask(owner, "POST", f"/members/{person.id}/{action}-roles", {"roleIds": [str(role)]})
            assert answer.status == 200
            seen = [await world.allows(other, person) for other in (second, gateway)]
            assert seen == [allowed, allowed], turn
        stop.set()


@pytest.mark.parametrize("how", ["dead", "hanging"])
async def test_nothing_changes_while_valkey_cant_be_told(
    gateway: Gateway, world: World, valkey: ValkeyServer, how: str
) -> None:
    tenant = await world.tenant()
    owner, person = await world.person(tenant, "Owner"), await world.person(tenant, "Member")
    role = await world.role(tenant, "audit.read")
    before = await world.version(tenant)
    requests = [
        ("POST", f"/members/{person.id}/assign-roles", {"roleIds": [str(role)]}),
        ("POST", f"/members/{person.id}/block", None),
        ("POST", f"/members/{person.id}/make-owner", None),
        ("POST", "/members/invite", {"email": f"{tenant}@nobody.example"}),
        ("PATCH", f"/roles/{role}", {"name": "another"}),
        ("POST", "/roles", {"name": "one more"}),
        ("DELETE", f"/roles/{role}", None),
        ("DELETE", f"/members/{person.id}", None),
    ]
    pid = valkey.pid
    if how == "dead":
        await asyncio.to_thread(valkey.kill)
    else:
        os.kill(pid, signal.SIGSTOP)
    try:
        for method, path, body in requests:
            answer = await gateway.ask(owner, method, path, body)
            assert (answer.status, answer.slug) == (503, "service-unavailable"), (method, path)
            assert "Retry-After" in answer.headers
        assert (await gateway.ask(owner, "GET", "/members")).status == 200, "what reads goes on"
    finally:
        if how == "dead":
            await asyncio.to_thread(valkey.start)
        else:
            os.kill(pid, signal.SIGCONT)
    assert await world.version(tenant) == before
    assert await world.events(tenant) == []
    assert await world.roles_of(person) == {MEMBER}
    assert not await world.admin.fetchval(
        "SELECT true FROM auth.members WHERE tenant_id = $1 AND status <> 'active'", tenant
    )
    async with asyncio.timeout(10):
        while not gateway.services.valkey.connected:
            await asyncio.sleep(0.02)
    assert (await gateway.ask(owner, "POST", f"/members/{person.id}/block")).status == 200
    assert not await world.allows(gateway, person)


async def test_a_gateway_that_dies_between_telling_and_committing_leaves_what_was(
    gateway: Gateway, world: World, environment: dict[str, str], memory: Any
) -> None:
    tenant = await world.tenant()
    owner, role = await world.person(tenant, "Owner"), await world.role(tenant, "roles.list")
    person = await world.person(tenant, role)
    withdraw = (f"/members/{person.id}/withdraw-roles", {"roleIds": [str(role)]})
    version = await world.version(tenant)
    async with a_process(gateway, environment | {"GATEWAY_FAULT": "rights-told"}) as (dying, process):
        with pytest.raises(aiohttp.ClientError):
            await dying.ask(owner, "POST", *withdraw)
        assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
    # Correct: nothing has changed. Slow: what Valkey was told is ahead, so nothing is remembered.
    assert int(await memory.get(f"rbac:version:{tenant}")) == version + 1
    assert await world.allows(gateway, person)
    assert await world.allows(gateway, person)
    assert not await remembered(memory, tenant, person.id)
    assert await world.version(tenant) == version
    assert await world.events(tenant) == []
    # It heals when that number expires,
    await memory.delete(f"rbac:version:{tenant}")
    async with asyncio.timeout(5):
        while not await remembered(memory, tenant, person.id):
            assert await world.allows(gateway, person)
    # and with the next change.
    assert (await gateway.ask(owner, "POST", *withdraw)).status == 200
    assert not await world.allows(gateway, person)


async def _until_it_serves(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                async with http.get("/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectorError:
                pass
            await asyncio.sleep(0.05)
