"""What is decided while Valkey, PostgreSQL or both are away: limits degrade open, rights never do."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from decision_world import CLIENT, MODULE, Seat, World

from kernel_gateway import metrics
from kernel_gateway.access import Allowed, Refused, Rule
from kernel_gateway.decision.valkey import TIMEOUT, Valkey, ValkeyAway
from kernel_local.testing import PostgresServer, ValkeyServer

READ = Rule(MODULE, "dcrm.contacts.read")
CREATE = Rule(MODULE, "dcrm.contacts.create")
PUBLIC = Rule(None, public=True)


async def verdict_of(seat: Seat, token: str, rule: Rule) -> str:
    verdict = await seat.decider.decide(rule, [token] if token else [], CLIENT)
    if isinstance(verdict, Allowed):
        return "limited" if verdict.headers else "unlimited"
    return verdict.slug


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def breakable(valkey: ValkeyServer) -> AsyncIterator[ValkeyServer]:
    yield valkey
    await asyncio.to_thread(valkey.start)


async def test_valkey_is_killed_under_decisions(world: World, seat: Seat, breakable: ValkeyServer) -> None:
    member = world.bearer(await world.person(await world.tenant(), "Member"))
    blocked = await world.person(await world.tenant(), "Owner")
    await world.operator.set(f"tenant:blocked:{blocked.tenant}", "1")
    await world.sql("UPDATE kernel.tenants SET blocked = true WHERE id = $1", blocked.tenant)
    without = world.bearer(await world.person(await world.tenant(module=False), "Owner"))
    expected = {
        (member, READ): {"limited", "unlimited"},
        (member, CREATE): {"forbidden"},
        (world.bearer(blocked), READ): {"tenant-blocked"},
        (without, READ): {"module-not-active"},
        ("", PUBLIC): {"limited", "unlimited"},
    }
    seen: set[str] = set()
    finished = asyncio.Event()

    async def ask(token: str, rule: Rule, among: set[str]) -> None:
        while not finished.is_set():
            verdict = await verdict_of(seat, token, rule)
            assert verdict in among | ({"rate-limit-exceeded"} if rule.public else set())
            seen.add(verdict)
            await asyncio.sleep(0.002)

    degraded = metrics.rate_limit_degraded._value.get()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for (token, rule), among in expected.items():
            group.create_task(ask(token, rule, among))
        await until(lambda: "limited" in seen)
        await asyncio.to_thread(breakable.kill)
        await until(lambda: "unlimited" in seen)
        assert metrics.rate_limit_degraded._value.get() > degraded
        await asyncio.to_thread(breakable.start)
        await until(lambda: seat.valkey.connected)
        seen.clear()
        await until(lambda: "limited" in seen)
        finished.set()
    assert await verdict_of(seat, member, READ) == "limited"


async def test_a_valkey_that_hangs_delays_one_burst_and_no_more(
    world: World, seat: Seat, breakable: ValkeyServer
) -> None:
    token = world.bearer(await world.person(await world.tenant(), "Member"))
    assert await verdict_of(seat, token, READ) == "limited"
    os.kill(breakable.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        burst = await asyncio.gather(*(verdict_of(seat, token, READ) for _ in range(50)))
        assert set(burst) == {"unlimited"}
        assert TIMEOUT * 0.9 <= time.monotonic() - began < TIMEOUT + 2
        began = time.monotonic()
        for _ in range(20):
            assert await verdict_of(seat, token, READ) == "unlimited"
        assert time.monotonic() - began < 20 * TIMEOUT / 2, "nobody waited for Valkey again"
    finally:
        os.kill(breakable.pid, signal.SIGCONT)
    await until(lambda: seat.valkey.connected)
    assert await verdict_of(seat, token, READ) == "limited"


async def test_postgresql_is_away(world: World, seat: Seat, postgres: PostgresServer) -> None:
    """What is kept goes on; what would have to be read is refused, and comes back by itself."""
    tenant = await world.tenant()
    known, unknown = [world.bearer(await world.person(tenant, "Member")) for _ in range(2)]
    kept = metrics.rights_kept._value.get()
    assert await verdict_of(seat, known, READ) == "limited"
    await until(lambda: metrics.rights_kept._value.get() == kept + 1)
    await asyncio.to_thread(postgres.kill)
    try:
        assert await verdict_of(seat, known, READ) == "limited"
        assert await verdict_of(seat, known, CREATE) == "forbidden"
        assert await verdict_of(seat, unknown, READ) == "service-unavailable"
    finally:
        await asyncio.to_thread(postgres.start)
    async with asyncio.timeout(10):
        while await verdict_of(seat, unknown, READ) != "limited":
            await asyncio.sleep(0.05)


async def test_both_are_away(world: World, seat: Seat, postgres: PostgresServer, breakable: ValkeyServer) -> None:
    token = world.bearer(await world.person(await world.tenant(), "Owner"))
    assert await verdict_of(seat, token, READ) == "limited"
    await asyncio.gather(asyncio.to_thread(postgres.kill), asyncio.to_thread(breakable.kill))
    try:
        await until(lambda: not seat.valkey.connected)
        for rule in (READ, CREATE, Rule(None), Rule(MODULE)):
            verdict = await seat.decider.decide(rule, [token], CLIENT)
            assert isinstance(verdict, Refused)
            assert (verdict.status, verdict.slug) == (503, "service-unavailable")
            assert verdict.headers["retry-after"] == "1"
            for secret in ("127.0.0.1", "kernel_gateway", str(postgres.port)):
                assert secret not in verdict.detail
        assert await verdict_of(seat, "", PUBLIC) == "unlimited"
    finally:
        await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(breakable.start)
    await until(lambda: seat.valkey.connected)
    async with asyncio.timeout(10):
        while await verdict_of(seat, token, READ) != "limited":
            await asyncio.sleep(0.05)


async def test_a_gateway_starts_without_valkey_and_finds_it_later(world: World, breakable: ValkeyServer) -> None:
    token = world.bearer(await world.person(await world.tenant(), "Member"))
    await asyncio.to_thread(breakable.kill)
    seat = await world.seat()
    assert not seat.valkey.connected
    assert await verdict_of(seat, token, READ) == "unlimited"
    await asyncio.to_thread(breakable.start)
    await until(lambda: seat.valkey.connected)
    assert await verdict_of(seat, token, READ) == "limited"


async def test_scripts_that_were_thrown_away_are_loaded_again(world: World, seat: Seat, administrator: Any) -> None:
    token = world.bearer(await world.person(await world.tenant(), "Member"))
    assert await verdict_of(seat, token, READ) == "limited"
    await administrator.script_flush()
    assert await verdict_of(seat, token, READ) == "unlimited"
    async with asyncio.timeout(5):
        while await verdict_of(seat, token, READ) != "limited":
            await asyncio.sleep(0.01)


async def test_a_password_that_is_refused_is_not_shown(
    world: World, caplog: pytest.LogCaptureFixture, valkey: ValkeyServer
) -> None:
    wrong = Valkey(f"redis://kernel_gateway:not-the-password@127.0.0.1:{valkey.port}/0")
    await wrong.start()
    assert not wrong.connected
    with pytest.raises(ValkeyAway):
        await wrong.call(b"*1\r\n$4\r\nPING\r\n")
    await wrong.close()
    assert "WRONGPASS" in caplog.text
    assert "not-the-password" not in caplog.text


@pytest.mark.parametrize("url", ["http://h:1/0", "redis://", "redis://host:port/0", "localhost:6379"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="VALKEY_URL"):
        Valkey(url)
