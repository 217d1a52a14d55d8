"""The queue's promises, one by one and under random use."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_operator.queue import Key, WorkQueue

A, B, C = (Key("tenants", "", name) for name in "abc")


async def test_a_key_submitted_often_is_taken_once() -> None:
    queue = WorkQueue()
    for _ in range(10):
        queue.submit([A, B])
    assert await queue.take("tenants", 10) == [A, B]
    assert queue.depth("tenants") == 0


async def test_what_is_submitted_during_its_work_comes_after_it() -> None:
    queue = WorkQueue()
    queue.submit([A])
    await queue.take("tenants", 10)
    queue.submit([A, B])
    assert await queue.take("tenants", 10) == [B], "A is being worked on"
    queue.done(A)
    assert await queue.take("tenants", 10) == [A]


async def test_a_failure_comes_back_after_a_growing_wait() -> None:
    queue = WorkQueue(first_retry=0.02)
    queue.submit([A])
    loop = asyncio.get_running_loop()
    waits = []
    for _ in range(4):
        before = loop.time()
        async with asyncio.timeout(5):
            await queue.take("tenants", 1)
        waits.append(loop.time() - before)
        queue.done(A, retry=True)
    assert waits[0] < waits[1] < waits[2] < waits[3]
    assert queue.failures(A) == 4


async def test_a_success_forgets_the_failures() -> None:
    queue = WorkQueue(first_retry=0.001)
    queue.submit([A])
    await queue.take("tenants", 1)
    queue.done(A, retry=True)
    async with asyncio.timeout(5):
        await queue.take("tenants", 1)
    queue.done(A)
    assert queue.failures(A) == 0
    assert queue.idle


async def test_an_event_overtakes_the_backoff() -> None:
    queue = WorkQueue(first_retry=3600)
    queue.submit([A])
    await queue.take("tenants", 1)
    queue.done(A, retry=True)
    queue.submit([A])
    async with asyncio.timeout(1):
        assert await queue.take("tenants", 1) == [A]


async def test_a_change_goes_before_the_background_which_has_the_rest_of_the_batch() -> None:
    queue = WorkQueue()
    queue.submit_in_background([A, B])
    queue.submit([C])
    assert queue.depth("tenants") == 3
    assert await queue.take("tenants", 2) == [C, A]
    queue.submit([B])
    assert queue.depth("tenants") == 1, "what comes to the front is no longer behind"
    assert await queue.take("tenants", 2) == [B]


async def test_the_background_adds_nothing_to_what_is_ready_or_under_way() -> None:
    queue = WorkQueue(first_retry=3600)
    queue.submit([A, B, C])
    assert await queue.take("tenants", 2) == [A, B]
    queue.submit_in_background([A, B, C])
    assert queue.depth("tenants") == 1
    queue.done(A)
    queue.done(B, retry=True)
    assert await queue.take("tenants", 10) == [C], "A was just looked at"
    queue.done(C)
    queue.submit_in_background([B])
    assert not queue.idle
    async with asyncio.timeout(1):
        assert await queue.take("tenants", 10) == [B], "a comparison does not wait for a backoff"


async def test_takers_get_their_own_kind() -> None:
    queue = WorkQueue()
    module = Key("kernelmodules", "crm", "crm")
    taker = asyncio.create_task(queue.take("kernelmodules", 1))
    await asyncio.sleep(0)
    queue.submit([A])
    await asyncio.sleep(0)
    assert not taker.done()
    queue.submit([module])
    async with asyncio.timeout(1):
        assert await taker == [module]


async def test_standing_still_is_told_only_while_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("kernel_operator.queue.time.monotonic", lambda: now)
    queue = WorkQueue()
    now += 500
    assert queue.standing_still() == 0, "a quiet queue is not a stalled one"
    queue.submit([A, B])
    now += 7
    assert queue.standing_still() == 7
    await queue.take("tenants", 1)
    now += 5
    assert queue.standing_still() == 12, "what is being worked on counts"
    queue.done(A)
    assert queue.standing_still() == 0
    now += 3
    assert queue.standing_still() == 3, "B still waits"
    await queue.take("tenants", 1)
    queue.done(B)
    queue.submit_in_background([A])
    now += 4
    assert queue.standing_still() == 4, "a comparison is work as well"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["submit", "compare", "take", "done", "fail"]), st.sampled_from([A, B, C])),
        max_size=60,
    )
)
def test_no_key_is_lost_and_none_is_worked_on_twice_at_once(steps: list[tuple[str, Key]]) -> None:
    async def play() -> None:
        queue = WorkQueue(first_retry=0.0001, last_retry=0.001)
        working: Counter[Key] = Counter()
        owed: set[Key] = set()
        for step, key in steps:
            if step == "submit":
                queue.submit([key])
                owed.add(key)
            elif step == "compare":
                queue.submit_in_background([key])
                if not working[key]:
                    owed.add(key)
            elif step == "take" and queue.depth("tenants"):
                for taken in await queue.take("tenants", 2):
                    working[taken] += 1
                    assert working[taken] == 1, "two workers on one key"
                    owed.discard(taken)
            elif step in ("done", "fail") and working[key]:
                working[key] -= 1
                queue.done(key, retry=step == "fail")
                if step == "fail":
                    owed.add(key)
        for key in [key for key, count in working.items() if count]:
            queue.done(key)
        async with asyncio.timeout(5):
            while owed:
                taken = await queue.take("tenants", 10)
                owed.difference_update(taken)
                for key in taken:
                    queue.done(key)

    asyncio.run(play())
