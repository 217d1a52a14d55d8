"""What a night does to the analytics tables, on the real engine."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import Counter

from kernel_common.ids import tenant_id, uuid7
from kernel_operator import metrics
from kernel_operator.desired import Unavailable
from kernel_operator.targets.clickhouse import ClickHouseTarget
from kernel_operator.targets.clickhouse.optimize import AGAIN_SECONDS, NIGHT, last_start, next_start, optimize_nightly


def count(counter: Counter, result: str) -> float:
    return counter.labels(result)._value.get()


@pytest.fixture
def filled(target: ClickHouseTarget, module: Any, write: Any, admin: Any) -> Callable[[], Awaitable[str]]:
    """A table with three versions of one record, in as many parts, that nothing else merges."""

    async def fill() -> str:
        made = module()
        await target.apply_module(made)
        table = f"module_{made.slug}__contacts"
        await admin.rows(f"SYSTEM STOP MERGES analytics.{table}")
        record = uuid7()
        for version in range(3):
            await write(table, tenant_id("t"), f"{version}@x.example", record)
        await admin.rows(f"SYSTEM START MERGES analytics.{table}")
        return table

    return fill


async def test_old_versions_are_gone_in_the_morning_and_no_partition_is_done_twice_a_night(
    target: ClickHouseTarget, filled: Callable[[], Awaitable[str]], admin: Any
) -> None:
    tables = [await filled(), await filled()]

    async def parts(table: str) -> int:
        (number,) = await admin.values(
            f"SELECT toInt32(count()) FROM system.parts WHERE active AND table = '{table}' AND database = 'analytics'"
        )
        return int(number)

    assert all([await parts(table) > 1 for table in tables]), "parts to merge are there"
    done, tonight = count(metrics.optimized, "done"), datetime.now(UTC) + timedelta(seconds=2)
    asked = iter([True, True, False])
    assert not await target.optimize(tonight, lambda: next(asked)), "the night was over"
    assert count(metrics.optimized, "done") == done + 1
    left = [table for table in tables if await parts(table) > 1]
    assert len(left) >= 1
    assert await target.optimize(tonight, lambda: True), "it goes on where it was"
    for table in tables:
        assert await admin.values(f"SELECT email FROM analytics.{table}") == ["2@x.example"]
    done = count(metrics.optimized, "done")
    assert await target.optimize(tonight, lambda: True)
    assert count(metrics.optimized, "done") == done
    # Written to in the same night: that waits for the next.
    written = await filled()
    assert await target.optimize(datetime.now(UTC) - timedelta(hours=1), lambda: True)
    assert await parts(written) > 1


async def test_a_server_that_is_away_is_unavailable_and_one_bad_table_holds_no_other_back(
    target: ClickHouseTarget, filled: Callable[[], Awaitable[str]], admin: Any, clickhouse: Any, monkeypatch: Any
) -> None:
    first, second = sorted([await filled(), await filled()])
    tonight, failed = datetime.now(UTC) + timedelta(seconds=2), count(metrics.optimized, "failed")

    rows = target._client.rows

    async def with_one_that_is_gone(sql: str, **about: Any) -> list[dict[str, Any]]:
        return [{"table": "module_aa__gone", "partition_id": "all"}, *await rows(sql, **about)]

    with monkeypatch.context() as patched:
        patched.setattr(target._client, "rows", with_one_that_is_gone)
        assert await target.optimize(tonight, lambda: True)
    assert count(metrics.optimized, "failed") == failed + 1
    for table in (first, second):
        assert await admin.values(f"SELECT email FROM analytics.{table}") == ["2@x.example"]
    clickhouse.stop()
    try:
        with pytest.raises(Unavailable):
            await target.optimize(tonight, lambda: True)
    finally:
        clickhouse.start()


async def test_the_night_waits_for_a_server_that_is_away_and_survives_what_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hour = datetime.now(UTC).hour
    outcomes: list[Any] = [Unavailable("ClickHouse", "away"), RuntimeError("bug"), False, True]
    begun: list[datetime] = []
    slept: list[float] = []
    over = asyncio.Event()

    async def work(since: datetime, may_begin: Callable[[], bool]) -> bool:
        assert may_begin()
        begun.append(since)
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return bool(outcome)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if not outcomes:
            over.set()
            await asyncio.Event().wait()

    monkeypatch.setattr("kernel_operator.targets.clickhouse.optimize.asyncio.sleep", sleep)
    task = asyncio.create_task(optimize_nightly(work, hour))
    async with asyncio.timeout(10):
        await over.wait()
    task.cancel()
    assert slept[:3] == [AGAIN_SECONDS] * 3
    assert 22 * 3600 < slept[3] <= 24 * 3600
    assert set(begun) == {last_start(datetime.now(UTC), hour)}


def test_a_night_begins_once_a_day() -> None:
    for hour in (0, 3, 23):
        for now in (datetime(2026, 3, 1, h, m, 5, tzinfo=UTC) for h in range(24) for m in (0, 59)):
            begun, following = last_start(now, hour), next_start(now, hour)
            assert begun <= now < following
            assert begun.hour == following.hour == hour
            assert following - begun == timedelta(days=1) > NIGHT
