"""Dedup by itself: leases and marks as a state machine, and what a login may write into the memory of events."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from consumer_world import event
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from kernel_common.events.dedup import HandlerFailed, InDatabase, InValkey, Outcome
from kernel_common.events.outage import LetGo
from kernel_common.events.received import Received
from kernel_common.tenancy import tenant_transaction

TENANT = UUID("018f0000-0000-7000-8000-000000000001")


class Here:
    """A partition in which nothing is waited for: a delivery that would wait ends at once."""

    reason: str | None = None

    async def wait(self, seconds: float) -> None:
        raise LetGo

    def blocked(self, reason: str | None) -> None:
        self.reason = reason


def received(number: int = 0, offset: int = 0) -> Received:
    return Received(event("machine", TENANT, number), "platform.machine.events", 0, offset, None)


class Dies(BaseException):
    """The process ends here: nothing after it happens."""


class Deduplication(RuleBasedStateMachine):
    """Two consumers of one group, a few events, and everything that can happen to a delivery."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.valkey = Redis.from_url(self.url)
        self.group = f"t.machine-{uuid4().hex}"
        self.events = [received(number, number) for number in range(3)]
        self.done: dict[int, int] = dict.fromkeys(range(3), 0)
        self.leased: set[int] = set()
        self.calls = 0

    def consumer(self, end: str) -> InValkey:
        async def handler(_: Received) -> None:
            self.calls += 1
            if end == "fails":
                raise ZeroDivisionError
            if end == "hangs":
                await asyncio.Event().wait()

        return InValkey(self.valkey, self.group, handler, timeout=0.02 if end == "hangs" else 5)

    @rule(number=st.integers(0, 2), end=st.sampled_from(["works", "fails", "hangs"]))
    def deliver(self, number: int, end: str) -> None:
        self.calls = 0
        called = self.runner.run(self._deliver(number, end))
        if number in self.leased:
            assert called == "waits" and self.calls == 0, "another is at work, or died at it a moment ago"
        elif self.done[number]:
            assert called == Outcome.REPEATED and self.calls == 0
        elif end == "works":
            assert called == Outcome.DONE and self.calls == 1
            self.done[number] += 1
        else:
            assert called == "failed" and self.calls == 1

    async def _deliver(self, number: int, end: str) -> str:
        try:
            return await self.consumer(end)(self.events[number], Here())
        except HandlerFailed:
            return "failed"
        except LetGo:
            return "waits"

    @rule(number=st.integers(0, 2))
    def die_at_work(self, number: int) -> None:
        """A process that is killed holds its lease until it ends."""
        if not self.done[number]:
            key = self.consumer("works").key(self.events[number])
            if self.runner.run(self.valkey.set(key, "p:dead", nx=True, px=60_000)):
                self.leased.add(number)

    @rule()
    def leases_end(self) -> None:
        for number in self.leased:
            self.runner.run(self.valkey.delete(self.consumer("works").key(self.events[number])))
        self.leased.clear()

    @invariant()
    def never_more_than_once_while_marked(self) -> None:
        assert all(count <= 1 for count in self.done.values())

    @invariant()
    def what_is_there_is_a_mark_or_a_lease(self) -> None:
        for number, received_ in enumerate(self.events):
            value = self.runner.run(self.valkey.get(self.consumer("works").key(received_)))
            expected = b"1" if self.done[number] else b"p:dead" if number in self.leased else None
            assert value == expected, "a failure leaves nothing"

    def teardown(self) -> None:
        self.runner.run(self.valkey.aclose())
        self.runner.close()


async def test_whatever_happens_an_event_is_done_once_and_is_never_lost(marks: Redis, marks_url: str) -> None:
    Deduplication.url = marks_url
    bounds = settings(max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))
    # In a thread: the machine has a loop of its own.
    await asyncio.to_thread(run_state_machine_as_test, Deduplication, settings=bounds)


async def test_a_delivery_that_is_cancelled_gives_its_lease_back_and_only_its_own(marks: Redis) -> None:
    begun = asyncio.Event()

    async def hangs(_: Received) -> None:
        begun.set()
        await asyncio.Event().wait()

    once, given = InValkey(marks, "t.cancel", hangs, timeout=30), received()
    for others in (False, True):
        begun.clear()
        task = asyncio.create_task(once(given, Here()))
        await begun.wait()
        if others:
            await marks.set(once.key(given), "p:another's")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await marks.get(once.key(given)) == (b"p:another's" if others else None)


async def test_the_lease_and_the_mark_end_by_themselves(marks: Redis, valkey: Any) -> None:
    seen: list[int] = []
    admin = Redis.from_url(valkey.admin_url)

    async def works(given: Received) -> None:
        seen.append(await admin.pttl(once.key(given)))

    once, given = InValkey(marks, "t.ends", works, timeout=30), received()
    assert await once(given, Here()) == Outcome.DONE
    assert 0 < seen[0] <= 60_000
    assert 86_000 < await admin.ttl(once.key(given)) <= 86_400
    await admin.aclose()


def test_a_handler_that_may_outlive_its_lease_is_refused() -> None:
    async def handler(_: Received) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match="lease"):
        InValkey(Redis(), "t.x", handler, timeout=60, lease=60)


async def test_in_the_database_effect_and_memory_come_and_go_together(
    effects: asyncpg.Pool, service: Any, labels: Any
) -> None:
    given = Received(event("exact", service.a), "platform.exact.events", 0, 0, None)

    async def fails(_: Received, connection: asyncpg.Connection) -> None:
        await connection.execute("INSERT INTO things (label) VALUES ('exact-failed')")
        raise ZeroDivisionError

    async def swallows(_: Received, connection: asyncpg.Connection) -> None:
        await connection.execute("INSERT INTO things (label) VALUES ('exact-swallowed')")
        try:
            await connection.execute("SELECT 1/0")
        except asyncpg.PostgresError:
            return

    async def works(_: Received, connection: asyncpg.Connection) -> None:
        await connection.execute("INSERT INTO things (label) VALUES ('exact-works')")

    for handler in (fails, swallows):
        with pytest.raises(HandlerFailed):
            await InDatabase(effects, "t.exact", handler, 5)(given, Here())
    once = InDatabase(effects, "t.exact", works, 5)
    assert sorted(await asyncio.gather(*(once(given, Here()) for _ in range(4)))) == ["done", *["repeated"] * 3]
    assert await InDatabase(effects, "t.other-group", works, 5)(given, Here()) == Outcome.DONE
    assert [label for label in await labels() if label.startswith("exact")] == ["exact-works"] * 2


async def test_a_login_remembers_for_its_own_groups_only_and_reads_nothing(effects: asyncpg.Pool, service: Any) -> None:
    insert = "INSERT INTO kernel.processed_event_ids (consumer_group, event_id, event_type) VALUES ($1, $2, 'a.b.c')"
    async with tenant_transaction(effects, service.a) as connection:
        await connection.execute(insert, "module_common_tests/x", uuid4())
    for group in ("kernel_money/x", "x", "module_common_testsx/x", ""):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await effects.execute(insert, group, uuid4())
    for statement in (
        "SELECT * FROM kernel.processed_event_ids",
        "DELETE FROM kernel.processed_event_ids",
        "UPDATE kernel.processed_event_ids SET event_type = 'x'",
        "TRUNCATE kernel.processed_event_ids",
        "INSERT INTO kernel.processed_event_ids VALUES ('module_common_tests/x', uuidv7(), 'a.b.c', now())",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await effects.execute(statement)
