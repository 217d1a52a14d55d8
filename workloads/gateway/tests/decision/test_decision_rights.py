"""A change of rights holds from the very next request, whatever is slow, fails or is lost on the way."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from decision_world import CLIENT, MODULE, ROLES, Seat, World

from kernel_common.tenancy import tenant_transaction
from kernel_gateway import metrics
from kernel_gateway.access import Allowed, Identity, Rule
from kernel_gateway.decision.rights import Database, Held, Rights, RightsUnavailable
from kernel_gateway.decision.script import ANNOUNCE, call, version_key
from kernel_gateway.decision.valkey import Valkey
from kernel_local.testing import ValkeyServer

READ = Rule(MODULE, "dcrm.contacts.read")
CREATE = Rule(MODULE, "dcrm.contacts.create")


async def may(seat: Seat, token: str, rule: Rule = READ) -> bool:
    verdict = await seat.decider.decide(rule, [token], CLIENT)
    assert isinstance(verdict, Allowed) or verdict.slug == "forbidden", verdict
    return isinstance(verdict, Allowed)


async def withdraw(connection: asyncpg.Connection, person: Identity) -> None:
    await connection.execute("DELETE FROM auth.member_roles WHERE user_id = $1", person.user)


async def grant(connection: asyncpg.Connection, person: Identity, role: str = "Member") -> None:
    await connection.execute(
        "INSERT INTO auth.member_roles (user_id, role_id) VALUES ($1, $2)", person.user, ROLES[role]
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Gated:
    """Reads rights at once, and hands them over when ``open`` is set: a slow reading, as slow as the test wants."""

    source: Database
    open: asyncio.Event = field(default_factory=asyncio.Event)
    read_rights: int = 0

    async def read(self, tenant: UUID, user: UUID) -> Held | None:
        held = await self.source.read(tenant, user)
        self.read_rights += 1
        await self.open.wait()
        return held


async def test_a_change_holds_for_the_next_request_of_every_replica(world: World) -> None:
    person = await world.person(await world.tenant(), "Member")
    token = world.bearer(person)
    here, there = await world.seat(), await world.seat()
    for seat in (here, there, here, there):
        assert await may(seat, token)
    for change, expected in ((withdraw, False), (grant, True), (withdraw, False)):
        async with tenant_transaction(world.pool, person.tenant) as connection:
            await change(connection, person)
            await here.rights.changed(person.tenant, connection)
        assert [await may(seat, token) for seat in (there, here)] == [expected, expected]


async def test_a_slow_reading_does_not_bring_withdrawn_rights_back(world: World, administrator: Any) -> None:
    person = await world.person(await world.tenant(), "Member")
    token = world.bearer(person)
    gate = Gated(Database(world.pool))
    slow, other = await world.seat(gate), await world.seat()
    early = asyncio.create_task(may(slow, token))
    await until(lambda: gate.read_rights == 1)
    async with tenant_transaction(world.pool, person.tenant) as connection:
        await withdraw(connection, person)
        await slow.rights.changed(person.tenant, connection)
    # In the process whose reading is under way too: it must not be joined.
    late = asyncio.create_task(may(slow, token))
    assert not await may(other, token)
    gate.open.set()
    assert await early, "this one came before the change"
    assert not await late
    assert not await may(slow, token)
    kept = await administrator.smembers(f"rbac:{person.tenant}:{person.user}")
    assert "dcrm.contacts.read" not in kept


async def test_a_reading_between_announcement_and_commit_is_not_kept(world: World, seat: Seat) -> None:
    person = await world.person(await world.tenant(), "Member")
    token = world.bearer(person)
    assert await may(seat, token)
    dropped = metrics.rights_dropped._value.get()
    async with tenant_transaction(world.pool, person.tenant) as connection:
        await withdraw(connection, person)
        await seat.rights.changed(person.tenant, connection)
        assert await may(seat, token), "nothing is committed yet"
        await until(lambda: metrics.rights_dropped._value.get() > dropped)
    assert not await may(seat, token)


async def test_a_change_that_fails_after_the_announcement_changes_nothing(world: World, seat: Seat) -> None:
    person = await world.person(await world.tenant(), "Member")
    token = world.bearer(person)
    assert await may(seat, token)
    with contextlib.suppress(ZeroDivisionError):
        async with tenant_transaction(world.pool, person.tenant) as connection:
            await withdraw(connection, person)
            await seat.rights.changed(person.tenant, connection)
            raise ZeroDivisionError
    kept, dropped = metrics.rights_kept._value.get(), metrics.rights_dropped._value.get()
    for _ in range(3):
        assert await may(seat, token)
        assert not await may(seat, token, CREATE)
    await until(lambda: metrics.rights_dropped._value.get() == dropped + 6)
    assert metrics.rights_kept._value.get() == kept, "slow, but right"
    # The next change that succeeds makes it quick again.
    async with tenant_transaction(world.pool, person.tenant) as connection:
        await grant(connection, person, "Admin")
        await seat.rights.changed(person.tenant, connection)
    assert await may(seat, token, CREATE)
    await until(lambda: metrics.rights_kept._value.get() == kept + 1)


async def test_a_change_that_valkey_cannot_be_told_is_refused(world: World) -> None:
    person = await world.person(await world.tenant(), "Member")
    unconnected = Rights(Database(world.pool), Valkey("redis://127.0.0.1:1/0"), 300)
    with pytest.raises(RightsUnavailable, match="Valkey"):
        async with tenant_transaction(world.pool, person.tenant) as connection:
            await withdraw(connection, person)
            await unconnected.changed(person.tenant, connection)
    assert await may(await world.seat(), world.bearer(person))


async def test_a_change_outside_a_tenants_transaction_is_refused(world: World, seat: Seat) -> None:
    tenant, other = await world.tenant(), await world.tenant()
    version = await world.sql("SELECT version FROM auth.rbac_versions WHERE tenant_id = $1", tenant)
    async with world.pool.acquire() as connection:
        with pytest.raises(RightsUnavailable):
            await seat.rights.changed(tenant, connection)
    async with tenant_transaction(world.pool, other) as connection:
        with pytest.raises(RightsUnavailable):
            await seat.rights.changed(tenant, connection)
    assert await world.sql("SELECT version FROM auth.rbac_versions WHERE tenant_id = $1", tenant) == version


async def test_a_version_is_never_lowered(world: World, seat: Seat, administrator: Any) -> None:
    """An announcement that was held up on its way arrives after the next one."""
    key = version_key(uuid4())
    for version, taken in ((7, 1), (9, 1), (8, 0), (10, 1), (9, 0)):
        assert await seat.valkey.call(call(ANNOUNCE, (key,), version, 300)) == taken
    assert await administrator.get(key) == "10"
    assert 0 < await administrator.ttl(key) <= 300


async def test_what_is_kept_expires(world: World, administrator: Any) -> None:
    person = await world.person(await world.tenant(), "Member")
    seat = await world.seat(keep_seconds=77)
    kept = metrics.rights_kept._value.get()
    assert await may(seat, world.bearer(person))
    await until(lambda: metrics.rights_kept._value.get() == kept + 1)
    assert 70 < await administrator.ttl(f"rbac:{person.tenant}:{person.user}") <= 77
    assert 290 < await administrator.ttl(f"rbac:version:{person.tenant}") <= 300


async def test_many_requests_share_two_readings_and_none_that_was_under_way(world: World) -> None:
    person = await world.person(await world.tenant(), "Member")
    gate = Gated(Database(world.pool))
    seat = await world.seat(gate)
    token = world.bearer(person)
    first = asyncio.create_task(may(seat, token))
    await until(lambda: gate.read_rights == 1)
    shared = metrics.rights_shared._value.get()
    crowd = [asyncio.create_task(may(seat, token)) for _ in range(200)]
    given_up = [asyncio.create_task(may(seat, token)) for _ in range(3)]
    await until(lambda: metrics.rights_shared._value.get() == shared + 203)
    for task in given_up:
        task.cancel()
    gate.open.set()
    assert await first
    assert all(await asyncio.gather(*crowd))
    assert gate.read_rights == 2


async def test_a_server_that_came_back_with_the_past_is_not_believed(
    world: World, seat: Seat, valkey: ValkeyServer, administrator: Any
) -> None:
    """Valkey's log lacks the last second after a crash: the version and the rights are those of before the change."""
    person = await world.person(await world.tenant(), "Member")
    token = world.bearer(person)
    kept = metrics.rights_kept._value.get()
    assert await may(seat, token)
    await until(lambda: metrics.rights_kept._value.get() == kept + 1)
    keys = (f"rbac:{person.tenant}:{person.user}", f"rbac:version:{person.tenant}")
    before = await administrator.smembers(keys[0]), await administrator.get(keys[1])
    era = await administrator.get("rbac:era")
    async with tenant_transaction(world.pool, person.tenant) as connection:
        await withdraw(connection, person)
        await seat.rights.changed(person.tenant, connection)
    await asyncio.to_thread(valkey.kill)
    await asyncio.to_thread(valkey.start)
    await until(lambda: seat.valkey.connected)
    await administrator.connection_pool.disconnect()
    await administrator.delete(*keys)
    await administrator.sadd(keys[0], *before[0])
    await administrator.set(keys[1], before[1])
    assert not await may(seat, token)
    assert await administrator.get("rbac:era") != era
    # What it would have been without the era: the past counts again.
    await administrator.set("rbac:era", era)
    await administrator.delete(*keys)
    await administrator.sadd(keys[0], *before[0])
    await administrator.set(keys[1], before[1])
    assert await may(seat, token)


async def test_no_request_ever_sees_rights_from_before_it_began(world: World) -> None:
    """Two replicas are asked all the time while a right is given and taken sixty times; one change in five fails
    after it was announced. Every request that no change overlapped must see exactly what is committed."""
    person = await world.person(await world.tenant(limit=10_000_000, burst=1_000_000), "Member")
    token = world.bearer(person)
    seats = [await world.seat(), await world.seat()]
    committed, changing, checked = True, 0, [0, 0]
    finished = asyncio.Event()

    async def watch(seat: Seat) -> None:
        while not finished.is_set():
            began, expected = changing, committed
            verdict = await may(seat, token)
            if began == changing and began % 2 == 0:
                assert verdict is expected
                checked[expected] += 1

    async def change() -> None:
        nonlocal committed, changing
        for number in range(60):
            changing += 1
            try:
                async with tenant_transaction(world.pool, person.tenant) as connection:
                    await (withdraw if committed else grant)(connection, person)
                    await seats[number % 2].rights.changed(person.tenant, connection)
                    if number % 5 == 0:
                        raise ZeroDivisionError
                committed = not committed
            except ZeroDivisionError:
                pass
            changing += 1
            for _ in range(3):
                await asyncio.gather(*(may(seat, token) for seat in seats))
        finished.set()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for seat in seats:
            for _ in range(3):
                group.create_task(watch(seat))
        group.create_task(change())
    assert min(checked) > 30, "enough was seen of both"


async def test_a_slow_reading_does_not_bring_back_the_rights_of_a_withdrawn_module(world: World) -> None:
    """The operator writes the database and then the epoch; a reading from before them carries the epoch before."""
    person = await world.person(await world.tenant(), "Admin")
    token = world.bearer(person)
    gate = Gated(Database(world.pool))
    slow = await world.seat(gate)
    elsewhere = Rule(None, "dcrm.contacts.read")
    early = asyncio.create_task(may(slow, token, elsewhere))
    await until(lambda: gate.read_rights == 1)
    await world.sql("DELETE FROM kernel.module_tenants WHERE tenant_id = $1", person.tenant)
    await world.operator.set(f"modules:epoch:{person.tenant}", uuid4().hex)
    dropped = metrics.rights_dropped._value.get()
    gate.open.set()
    assert await early
    await until(lambda: metrics.rights_dropped._value.get() == dropped + 1)
    assert not await may(slow, token, elsewhere)
