"""The sink between a real Kafka and a real ClickHouse engine: what analytics shows is what the changes say."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError
from sink_world import COLUMNS, DEAD, DEAD_PARTITIONS, TENANT, TOPIC, Broker, Reader, Record, current, stamp, until

from kernel_local.ports import choose
from kernel_local.testing import ClickHouseServer, KafkaServer, ValkeyServer
from kernel_operator.desired import Column, ColumnType
from kernel_operator.targets.clickhouse import ClickHouseTarget


async def test_values_of_every_type_arrive_and_the_last_sync_is_told(
    broker: Broker, reader: Reader, install: Any, sinking: Any, valkey: ValkeyServer
) -> None:
    module = await install(*COLUMNS)
    table = f"module_{module.slug}__contacts"
    full, empty = Record(module.slug, TENANT), Record(module.slug, TENANT)
    values = {
        "email": 'ada "the first"\n\\ é',
        "score": -5,
        "price": "12345678901234.123456",
        "ratio": 0.1,
        "active": True,
        "born": "1815-12-10",
        "seen": "2026-01-02T03:04:05.123456Z",
        "ref": str(full.id),
        "extra": {"a": [1, {"b": None}]},
    }
    nothing = {**dict.fromkeys(values), "email": ""}
    large = [Record(module.slug, TENANT).change("c", **{**nothing, "email": "z" * 700_000}) for _ in range(3)]
    broker.send(full.change("c", **values), empty.change("s", **nothing), *large)
    broker.flush()
    async with sinking():
        await until(lambda: broker.lag() == 0)
        async with Redis.from_url(valkey.admin_url) as known:

            async def told() -> bool:
                return (await known.get(f"cdc:lastsync:{table}") or b"").endswith(b"Z")

            await until(told)
    (none, row, *more) = await reader.rows(
        f"SELECT * FROM analytics.{table} FINAL ORDER BY email"
        " SETTINGS output_format_json_quote_decimals = 1, output_format_json_quote_64bit_integers = 0"
    )
    assert [len(other["email"]) for other in more] == [700_000] * 3
    assert {name: none[name] for name in values} == nothing
    assert none["_op"] == "s" and none["_lsn"] == 1 and none["is_deleted"] == 0
    assert row["extra"].replace(" ", "") == '{"a":[1,{"b":null}]}'
    assert row["seen"] == "2026-01-02 03:04:05.123456"
    assert {n: row[n] for n in values if n not in ("extra", "seen")} == {
        n: v for n, v in values.items() if n not in ("extra", "seen")
    }
    assert (row["tenant_id"], row["record_id"]) == (str(TENANT), str(full.id))


async def test_the_newest_version_wins_and_a_replay_changes_nothing(
    broker: Broker, reader: Reader, install: Any, sinking: Any
) -> None:
    module = await install()
    table = f"module_{module.slug}__contacts"
    records = [Record(module.slug, TENANT) for _ in range(20)]
    history: list[tuple[str, bytes]] = []
    for version in range(5):
        for number, record in enumerate(records):
            op = "c" if version == 0 else "d" if version == 4 and number % 4 == 0 else "u"
            history.append((str(record.id), record.change(op, email=f"{number:02}@x.example", score=version)))
    gone = Record(module.slug, TENANT)
    history.append((str(gone.id), gone.change("c", email="soft", score=1)))
    history.append((str(gone.id), gone.change("u", email="soft", score=1, deleted_at="2026-01-01T00:00:00.000000Z")))

    def send() -> None:
        for key, value in history:
            broker.send(value, key=key)
        broker.flush()

    expected = [{"email": f"{n:02}@x.example", "score": 4} for n in range(20) if n % 4]
    async with sinking(CDC_SINK_BATCH_ROWS="7"):
        send()
        await until(lambda: broker.lag() == 0)
        assert await current(reader, module) == expected
        # All again, after the tombstones: older versions stay beneath, the dead stay dead.
        send()
        await until(lambda: broker.lag() == 0)
        assert await current(reader, module) == expected
    (tombstones,) = await reader.rows(
        f"SELECT uniqExact(record_id) AS n FROM analytics.{table} WHERE is_deleted = 1 AND deleted_at = updated_at"
    )
    assert int(tombstones["n"]) == 5


async def test_an_unknown_column_stops_that_table_only_and_nothing_of_it_is_lost(
    broker: Broker,
    reader: Reader,
    target: ClickHouseTarget,
    install: Any,
    sinking: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kernel_cdc.sink.sink.AGAIN", 0.5)
    narrow, other = await install(), await install()
    table = f"module_{narrow.slug}__contacts"

    def stopped() -> float | None:
        return REGISTRY.get_sample_value("kernel_cdc_sink_table_stopped", {"table": table})

    def send(number: int, **more: Any) -> None:
        broker.send(
            Record(narrow.slug, TENANT).change("c", email=f"n{number:03}", score=number, **more), key=str(number)
        )
        broker.send(Record(other.slug, TENANT).change("c", email=f"o{number:03}", score=number), key=str(number))

    async with sinking() as sink:
        for number in range(10):
            send(number)
        broker.flush()
        await until(lambda: broker.lag() == 0)
        for number in range(10, 40):
            send(number, **({"nickname": "x"} if number == 20 else {}))
        broker.flush()

        async def others() -> bool:
            return len(await current(reader, other)) == 40

        await until(others)
        await until(lambda: stopped() == 1)
        assert sink.trouble is not None and f"{table}: it has no column nickname" in sink.trouble
        assert broker.lag() > 0, "the offsets stay before the first row that was not taken"

    # Another process begins where the offsets are, and stops in its turn, until the column is there.
    async with sinking() as sink:
        await until(lambda: sink.trouble is not None and "nickname" in sink.trouble)
        model = replace(narrow.models[0], columns=(*COLUMNS[:2], Column("nickname", ColumnType.TEXT)))
        assert (await target.apply_module(replace(narrow, models=(model,)))).refusal is None
        await until(lambda: broker.lag() == 0)
        assert stopped() == 0 and sink.trouble is None
    assert [row["email"] for row in await current(reader, narrow)] == [f"n{number:03}" for number in range(40)]
    named = await current(reader, narrow, "email, nickname")
    assert [row["email"] for row in named if row["nickname"] == "x"] == ["n020"]


async def test_what_is_no_change_becomes_a_dead_letter(
    broker: Broker, reader: Reader, kafka: KafkaServer, install: Any, sinking: Any
) -> None:
    module = await install()
    good = Record(module.slug, TENANT)
    no_stamp = good.change("c", email="x").replace(b'"updated_at"', b'"something"')
    bad = [
        b"{",
        b"[]",
        b"{}",
        no_stamp,
        good.change("x"),
        good.change(["c"]),
        good.change("c").replace(b"sunk", b"`; --"),
    ]  # type: ignore[arg-type]
    letters = Consumer({**kafka.admin_conf, "group.id": "none", "enable.auto.commit": False})

    def dead() -> int:
        parts = [TopicPartition(DEAD, number) for number in range(DEAD_PARTITIONS)]
        return sum(letters.get_watermark_offsets(part, timeout=20)[1] for part in parts)

    before = dead()
    async with sinking():
        broker.send(*bad, good.change("c", email="good", score=1), partition=0)
        broker.producer.produce(TOPIC, b"{", headers=[("type", b"data.other.thing")], partition=0)
        right = {"op": "w", "module": module.slug, "model": "contacts", "lsn": 1, "partition": 0, "partitions": 12}
        right["committedAt"] = stamp(datetime.now(UTC))
        wrong = [
            right | change for change in ({"op": "c"}, {"partition": 1}, {"lsn": -1}, {"lsn": "1"}, {"model": "`"})
        ]
        for sweep in wrong:
            headers = [("type", b"data.table.swept")]
            broker.producer.produce(TOPIC, json.dumps(sweep).encode(), headers=headers, partition=0)
        beat = right | {"op": "h", "partitions": 0}
        broker.producer.produce(TOPIC, json.dumps(beat).encode(), headers=[("type", b"data.heartbeat")], partition=0)
        broker.flush()
        await until(lambda: broker.lag() == 0)
    after = dead()
    letters.close()
    assert after - before == len(bad) + len(wrong) + 1
    assert await current(reader, module) == [{"email": "good", "score": 1}]


async def test_clickhouse_killed_under_load_is_waited_for_and_every_row_arrives(
    broker: Broker, reader: Reader, clickhouse: ClickHouseServer, install: Any, sinking: Any
) -> None:
    module = await install()
    async with sinking(CDC_SINK_BATCH_ROWS="500") as sink:
        sent = 0

        def load(count: int) -> None:
            nonlocal sent
            for number in range(sent, sent + count):
                broker.send(
                    Record(module.slug, TENANT).change("c", email=f"{number:06}", score=number), key=str(number)
                )
            sent += count
            broker.flush()

        load(3000)
        await until(
            lambda: REGISTRY.get_sample_value(
                "kernel_cdc_sink_rows_total", {"table": f"module_{module.slug}__contacts"}
            )
        )
        clickhouse.kill()
        try:
            load(3000)
            await until(lambda: sink.trouble is not None)
            assert sink.trouble is not None and sink.trouble.startswith("ClickHouse: ")
            assert broker.lag() > 0
        finally:
            clickhouse.start()
        await until(lambda: broker.lag() == 0)
        assert sink.trouble is None
    assert [row["score"] for row in await current(reader, module)] == list(range(sent))


async def test_the_process_answers_probes_survives_a_kill_and_ends_in_order(
    broker: Broker, reader: Reader, environment: dict[str, str], install: Any, clickhouse: ClickHouseServer
) -> None:
    module = await install()
    port = choose(set())
    variables = {**os.environ, **environment, "CDC_PORT": str(port), "CDC_SINK_BATCH_ROWS": "200"}

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kernel_cdc", "sink", env=variables, stderr=asyncio.subprocess.PIPE
        )

    async def rows() -> int:
        return len(await current(reader, module))

    async def some() -> bool:
        return await rows() > 0

    for number in range(4000):
        broker.send(Record(module.slug, TENANT).change("c", email=f"{number:06}", score=number), key=str(number))
    broker.flush()
    process = await start()
    try:
        await until(some)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        process = await start()
        async with aiohttp.ClientSession() as session:

            async def is_ready() -> bool:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/ready") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await until(is_ready)
            await until(lambda: broker.lag() == 0)
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                assert f'kernel_cdc_sink_rows_total{{table="module_{module.slug}__contacts"}}' in await answer.text()
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, log
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert await rows() == 4000
    secrets = [
        environment["KAFKA_PASSWORD"],
        *(urlsplit(environment[n]).password for n in ("CLICKHOUSE_URL", "VALKEY_URL")),
    ]
    assert all(secret and secret.encode() not in log for secret in secrets)


async def test_the_logins_can_do_this_work_and_no_other(
    kafka: KafkaServer, broker: Broker, valkey: ValkeyServer
) -> None:
    refused: list[str | None] = []
    producer = Producer({**kafka.sink_conf, "log_level": 0})
    for topic in (TOPIC, "platform.auth.events"):
        producer.produce(topic, b"{}", on_delivery=lambda error, _: refused.append(error and error.name()))
    await asyncio.to_thread(producer.flush, 20)
    assert refused == ["TOPIC_AUTHORIZATION_FAILED"] * 2
    seen = AdminClient({**kafka.sink_conf, "log_level": 0}).list_topics(timeout=20).topics
    assert set(seen) == {TOPIC, DEAD}
    async with Redis.from_url(valkey.cdc_url) as client:
        for command in (("SET", "tenant:x", "1"), ("HGET", "rbac:x", "y"), ("KEYS", "*"), ("DEL", "cdc:lastsync:x")):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*command)
