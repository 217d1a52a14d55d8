"""Snapshots as the sink sees them: rows read again, sweeps of what is gone, heartbeats, and all of it once more."""

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from sink_world import COLUMNS, TENANT, Broker, Reader, Record, current, until

from kernel_cdc.sink.batch import Batch
from kernel_cdc.sink.changes import TOPIC, Change
from kernel_cdc.sink.clickhouse import ClickHouse
from kernel_local.testing import ClickHouseServer, ValkeyServer
from kernel_operator.desired import Column, ColumnType, ModuleState
from kernel_operator.targets.clickhouse import ClickHouseTarget

S = 1_000


async def state(reader: Reader, module: ModuleState) -> dict[str, tuple[int, str]]:
    rows = await reader.rows(
        f"SELECT email, toUInt32(_lsn) AS lsn, _op FROM analytics.module_{module.slug}__contacts FINAL "
        "WHERE is_deleted = 0 ORDER BY email"
    )
    return {row["email"]: (row["lsn"], row["_op"]) for row in rows}


async def test_a_sweep_ends_what_is_gone_and_again_it_changes_nothing(
    broker: Broker, reader: Reader, install: Any, sinking: Any, clickhouse: ClickHouseServer
) -> None:
    module, other = await install(), await install()
    table = f"analytics.module_{module.slug}__contacts"
    begin = broker.places()
    names = [f"{kind}{number:02}" for kind in ("kept", "gone", "newer", "soft") for number in range(30)]
    records = {name: Record(module.slug, TENANT) for name in names}

    def send(name: str, message: bytes) -> None:
        broker.send(message, key=str(records[name].id))

    for name in names:
        deleted = "2026-01-01T00:00:00.000000Z" if name.startswith("soft") else None
        send(name, records[name].change("c", email=name, score=1, deleted_at=deleted))
    stranger = Record(other.slug, TENANT)
    broker.send(stranger.change("c", email="stranger", score=1), key=str(stranger.id))
    for name in names:
        if name.startswith("kept"):
            send(name, records[name].read_again(S, email=name, score=1))
        if name.startswith("newer"):  # changed while the table was read: its row is not read again
            records[name].lsn = S
            send(name, records[name].change("u", email=name, score=2))
    broker.sweep(module.slug, S)
    expected = {
        name: (S, "s") if name.startswith("kept") else (S + 1, "u") for name in names if name[:4] in "kept newer"
    }
    async with sinking():
        broker.flush()
        await until(lambda: broker.lag() == 0)
        assert await state(reader, module) == expected
    (swept,) = await reader.rows(
        f"SELECT count() AS n, uniqExact(kafkaMurmurHash(toString(record_id)) % 12) AS places FROM {table} FINAL "
        f"WHERE is_deleted = 1 AND _op = 'w' AND _lsn = {S} AND deleted_at = updated_at AND created_at < updated_at"
    )
    assert int(swept["n"]) == 60
    assert int(swept["places"]) == 12

    # Newer rows come, then everything is done once more from the beginning, in small batches.
    late = Record(module.slug, TENANT, lsn=2 * S)
    broker.send(late.change("c", email="zlate", score=3), key=str(late.id))
    broker.flush()
    expected["zlate"] = (2 * S + 1, "c")
    async with sinking():
        await until(lambda: broker.lag() == 0)
    assert await state(reader, module) == expected
    broker.go_back(begin)
    async with sinking(CDC_SINK_BATCH_ROWS="17"):
        await until(lambda: broker.lag() == 0)
    assert await state(reader, module) == expected
    await reader.rows(f"OPTIMIZE TABLE {table} FINAL")
    assert await state(reader, module) == expected
    (versions,) = await reader.rows(f"SELECT count() AS n FROM {table}")
    assert int(versions["n"]) == len(names) + 1
    assert [row["email"] for row in await current(reader, other)] == ["stranger"]


async def test_a_row_read_again_wins_over_the_same_version_written_before_it_each_time(
    reader: Reader, install: Any, clickhouse: ClickHouseServer
) -> None:
    module = await install()
    table = f"module_{module.slug}__contacts"
    record = Record(module.slug, TENANT)
    stamps = '"created_at": "2026-01-01T00:00:00.000000Z", "updated_at": "2026-01-01T00:00:00.000001Z"'
    ids = f'"tenant_id": "{TENANT}", "record_id": "{record.id}", "email": "x"'
    old, again = (f'{{{ids}, {stamps}, "_op": "{op}", "_lsn": {lsn}}}'.encode() for op, lsn in (("c", 5), ("s", S)))

    async with ClickHouse(clickhouse.writer_url, "analytics") as writer:

        async def write(*lines: bytes, times: int = 1) -> None:
            batch = Batch()
            for offset, line in enumerate(lines):
                batch.add(Change(table, line, ""), (TOPIC, 0), offset)
            for _ in range(times):
                await writer.insert(table, batch.lines, batch.token)

        await write(old)
        await write(again, times=3)
        (count,) = await reader.rows(f"SELECT count() AS n FROM analytics.{table}")
        assert int(count["n"]) == 2, "an insert that is sent again is done once"
        # A process died before the offsets moved: the same messages in other batches.
        await write(old, old)
        assert await state(reader, module) == {"x": (5, "c")}
        await write(again)
        assert await state(reader, module) == {"x": (S, "s")}
        await reader.rows(f"OPTIMIZE TABLE analytics.{table} FINAL")
        assert await state(reader, module) == {"x": (S, "s")}
        await writer.sweep(table, S, 1, [0])
        assert await state(reader, module) == {"x": (S, "s")}


async def test_two_sinks_that_come_and_go_and_a_clickhouse_that_is_killed(
    broker: Broker, reader: Reader, install: Any, sinking: Any, clickhouse: ClickHouseServer
) -> None:
    module = await install()
    records = [Record(module.slug, TENANT) for _ in range(1500)]

    def send(op: str, score: int) -> None:
        for number, record in enumerate(records):
            broker.send(record.change(op, email=f"{number:05}", score=score), key=str(record.id))

    async def seen(score: int) -> bool:
        return any(row["score"] >= score for row in await current(reader, module))

    async with AsyncExitStack() as first, AsyncExitStack() as second:
        one = await first.enter_async_context(sinking(CDC_SINK_BATCH_ROWS="300"))
        send("c", 1)
        await until(lambda: seen(1))
        two = await second.enter_async_context(sinking(CDC_SINK_BATCH_ROWS="300"))
        send("u", 2)
        await until(lambda: one._places and two._places)
        clickhouse.kill()
        try:
            send("u", 3)
            broker.flush()
            await until(lambda: one.trouble and two.trouble)
        finally:
            clickhouse.start()
        await first.aclose()
        # What was read again, without the last hundred, which are gone.
        for number, record in enumerate(records[:-100]):
            broker.send(record.read_again(S, email=f"{number:05}", score=3), key=str(record.id))
        broker.sweep(module.slug, S)
        broker.flush()
        await until(lambda: broker.lag() == 0)
    assert await state(reader, module) == {f"{number:05}": (S, "s") for number in range(1400)}


async def test_heartbeats_are_told_when_all_before_them_is_written_and_stopped_tables_are_named(
    broker: Broker,
    reader: Reader,
    target: ClickHouseTarget,
    install: Any,
    sinking: Any,
    valkey: ValkeyServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kernel_cdc.sink.sink.AGAIN", 0.3)
    module = await install()
    key = f"cdc:stopped:module_{module.slug}__contacts"
    async with Redis.from_url(valkey.admin_url, decode_responses=True) as known:

        async def beaten(since: dict[str, str]) -> bool:
            now = await known.hgetall("cdc:heartbeat")
            return all(now.get(str(number), "") > since.get(str(number), "") for number in range(12))

        async def stopped() -> bool:
            return bool(await known.exists(key))

        async def mended() -> bool:
            return not await stopped()

        async with sinking():
            broker.beat()
            broker.flush()
            await until(lambda: beaten({}))
            before = await known.hgetall("cdc:heartbeat")
            assert before["n"] == "12"
            bad = Record(module.slug, TENANT)
            broker.send(bad.change("c", email="x", score=1, nickname="y"), key=str(bad.id))
            broker.sweep(module.slug, S)
            broker.beat()
            broker.flush()
            await until(stopped)
            await until(lambda: beaten(before))
            assert len(await known.hgetall(key)) == 12, "the sweeps wait as rows do"
            assert 0 < await known.ttl(key) <= 7 * 24 * 3600
        assert broker.lag() > 0
        # Another process: what it reads again is older than what was told; the table stays named until it is past it.
        before = await known.hgetall("cdc:heartbeat")
        model = replace(module.models[0], columns=(*COLUMNS[:2], Column("nickname", ColumnType.TEXT)))
        assert (await target.apply_module(replace(module, models=(model,)))).refusal is None
        async with sinking():
            await until(lambda: broker.lag() == 0)
            assert await stopped()
            assert await known.hgetall("cdc:heartbeat") == before
            broker.beat()
            broker.flush()
            await until(mended)
            await until(lambda: beaten(before))
    assert await state(reader, module) == {}, "it was swept as soon as the table took it"
