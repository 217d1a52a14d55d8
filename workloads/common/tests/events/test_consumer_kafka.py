"""Consumers on a real Kafka: what is delivered, in which order, how often its effect comes, what a failure costs."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from consumer_world import Broker, about, event, numbers, running, until
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from kernel_common.events import Envelope
from kernel_common.events.consumer import Consumer
from kernel_common.events.lane import FULL
from kernel_common.events.received import Received
from kernel_local.testing import PostgresServer, ValkeyServer

QUICK = (0.1, 0.2, 0.3)
"""Seconds before the attempts that follow the first."""


def group(domain: str) -> str:
    return f"t.{domain}"


async def test_a_poison_message_ends_as_a_dead_letter_and_the_rest_goes_on_in_order(
    broker: Broker, marks: Redis, domain: str, service: Any
) -> None:
    topic = broker.topic(domain, 2)
    begun: list[tuple[int, int, float]] = []
    broken = True

    async def handler(given: Received) -> None:
        number = given.envelope.data["number"]
        assert isinstance(number, int)
        begun.append((number, given.attempt, time.monotonic()))
        if number == 1 and broken:
            raise ValueError("no good: postgres://crm:secret@db/x")

    consumer = Consumer(
        kafka=broker.consumer_conf,
        group=group(domain),
        handlers={f"{domain}.thing.made": handler},
        valkey=marks,
        retry_after=QUICK,
    )
    first, poison, after = (event(domain, service.a, number) for number in range(3))
    elsewhere = [event(domain, service.a, number) for number in range(100, 105)]
    foreign = event("otherdomain", service.a, 7)
    async with running(consumer):
        broker.send_raw(topic, b"{ no JSON", partition=0)
        broker.send_raw(topic, b"x" * 1_030_000, partition=0, key="k")
        broker.send_raw(topic, foreign.to_json().encode(), partition=0)
        broker.send(
            first, poison, after, partition=0, headers={"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
        )
        broker.send(*elsewhere, partition=1)
        await until(lambda: len(begun) >= 11)
        await until(lambda: (2, 1) in [entry[:2] for entry in begun])
    of_partition_0 = [entry for entry in begun if entry[0] < 100]
    assert [entry[:2] for entry in of_partition_0] == [(0, 1), (1, 1), (1, 2), (1, 3), (1, 4), (2, 1)]
    times = [entry[2] for entry in of_partition_0]
    assert all(
        later - earlier >= wait * 0.79 for earlier, later, wait in zip(times[1:4], times[2:5], QUICK, strict=True)
    )
    assert [entry[0] for entry in begun if entry[0] >= 100] == numbers(elsewhere)
    assert max(t for n, _, t in begun if n >= 100) < times[-1], "the other partition did not wait"

    letters = [(letter, about(letter)) for letter in broker.dead(topic)]
    assert [headers["x-dlq-offset"] for _, headers in letters] == ["0", "1", "2", "4"]
    assert [headers["x-dlq-attempts"] for _, headers in letters] == ["0", "0", "0", "4"]
    assert {(h["x-dlq-topic"], h["x-dlq-partition"], h["x-dlq-group"]) for _, h in letters} == {
        (topic, "0", group(domain))
    }
    assert letters[0][0].value() == b"{ no JSON"
    assert letters[1][1]["x-dlq-cut"] == "1030000"
    assert "otherdomain" in letters[2][1]["x-dlq-error"]
    letter, headers = letters[3]
    assert letter.value() == poison.to_json().encode() and letter.key() == poison.key.encode()
    assert "ValueError: no good" in headers["x-dlq-error"] and "secret" not in headers["x-dlq-error"]
    assert headers["traceparent"].startswith("00-aaaa")
    await until(lambda: broker.committed(group(domain), topic, 2) == [6, 5])
    keys = {e.id: f"{group(domain)}:{domain}:{e.id}" for e in (first, poison, after)}
    assert [await marks.get(key) for key in keys.values()] == [b"1", None, b"1"], "a dead letter leaves no mark"

    # Sent again on request, it is done; those that were done are not done again.
    broken, already = False, len(begun)
    again = Consumer(
        kafka=broker.consumer_conf, group=group(domain), handlers={f"{domain}.thing.made": handler}, valkey=marks
    )
    async with running(again):
        broker.send(first, poison, after, partition=1)
        await until(lambda: len(begun) > already)
        await until(lambda: again.trouble is None and broker.committed(group(domain), topic, 2) == [6, 8])
    assert [entry[0] for entry in begun[already:]] == [1]


async def test_what_nobody_asked_for_passes_and_what_is_delivered_says_where_it_is_from(
    broker: Broker, marks: Redis, domain: str, service: Any
) -> None:
    topic = broker.topic(domain, 1)
    got: list[Received] = []

    async def handler(given: Received) -> None:
        got.append(given)

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    mine, other = event(domain, service.a, 1), event(domain, service.b, 2)
    unasked = event(domain, service.a, 3, verb="lost")
    traced = Envelope(
        type=mine.type, source="tests", tenant_id=service.a, trace_id="of-the-envelope", data={"number": 4}
    )
    consumer = Consumer(
        kafka=broker.consumer_conf,
        group=group(domain),
        handlers={mine.type: handler},
        valkey=marks,
        tenants=[service.a],
    )
    async with running(consumer):
        for given in (other, unasked):
            broker.send(given)
            broker.send(given, headers={"type": given.type, "tenantId": str(given.tenant_id)})
        broker.send(mine, headers={"type": mine.type, "tenantId": str(service.a), "traceparent": trace})
        broker.send(traced)
        await until(lambda: len(got) == 2)
    assert [g.envelope for g in got] == [mine, traced]
    assert (got[0].topic, got[0].partition, got[0].offset, got[0].attempt) == (topic, 0, 4, 1)
    assert got[0].traceparent == trace
    assert [g.trace_id for g in got] == ["0af7651916cd43dd8448eb211c80319c", "of-the-envelope"]
    await until(lambda: broker.committed(group(domain), topic, 1) == [6])
    assert broker.dead(topic) == []


async def test_a_partition_that_is_stuck_is_paused_within_bounds_and_the_lag_is_told(
    broker: Broker, marks: Redis, domain: str, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel_common.events.consumer._LOOK", 0.1)
    topic = broker.topic(domain, 2)
    gate, seen = asyncio.Event(), []

    async def handler(given: Received) -> None:
        if given.partition == 0:
            await gate.wait()
        seen.append((given.partition, given.envelope.data["number"]))

    consumer = Consumer(
        kafka=broker.consumer_conf, group=group(domain), handlers={f"{domain}.thing.made": handler}, valkey=marks
    )
    broker.send(*(event(domain, service.a, number) for number in range(700)), partition=0)
    broker.send(*(event(domain, service.a, number) for number in range(100)), partition=1)

    def lag(partition: int) -> float | None:
        where = {"group": group(domain), "topic": topic, "partition": str(partition)}
        return REGISTRY.get_sample_value("kernel_consumer_lag_messages", where)

    async with running(consumer):
        await until(lambda: len(seen) == 100 and lag(1) == 0)
        assert lag(0) == 700
        stuck = consumer._lanes[topic, 0]
        assert stuck.paused
        assert FULL <= stuck._waiting.qsize() < FULL + 200
        gate.set()
        await until(lambda: len(seen) == 800 and lag(0) == 0)
    assert [number for partition, number in seen if partition == 0] == list(range(700))
    assert lag(0) is None, "a partition that is not ours has no lag"


async def test_repeated_deliveries_have_one_effect_in_the_database(
    broker: Broker, effects: asyncpg.Pool, labels: Any, domain: str, service: Any
) -> None:
    """Each event comes three times, in two partitions, to two consumers; some attempts fail after they wrote."""
    topic = broker.topic(domain, 2)
    calls: Counter[Any] = Counter()

    async def handler(given: Received, connection: asyncpg.Connection) -> None:
        number = given.envelope.data["number"]
        calls[number] += 1
        await connection.execute("INSERT INTO things (label) VALUES ($1)", f"{domain}-{number}")
        if number == 3 and calls[number] == 1:
            raise ZeroDivisionError

    consumers = [
        Consumer(
            kafka=broker.consumer_conf,
            group=group(domain),
            in_database={f"{domain}.thing.made": handler},
            pool=effects,
            retry_after=QUICK,
        )
        for _ in range(2)
    ]
    events = [event(domain, service.a, number) for number in range(30)]
    async with running(*consumers):
        broker.send(*events, partition=0)
        broker.send(*events, *events, partition=1)
        await until(lambda: broker.committed(group(domain), topic, 2) == [30, 60])
    mine = Counter(label for label in await labels() if label.startswith(domain))
    assert mine == {f"{domain}-{number}": 1 for number in range(30)}


async def test_a_rebalance_during_work_loses_nothing_and_stops_only_what_moves(
    broker: Broker, effects: asyncpg.Pool, labels: Any, marks: Redis, domain: str, service: Any
) -> None:
    partitions, count = 4, 40
    topic = broker.topic(domain, partitions)
    order: dict[int, list[Any]] = {number: [] for number in range(partitions)}

    def consumer() -> Consumer:
        async def seen(given: Received) -> None:
            await asyncio.sleep(0.01)
            order[given.partition].append(given.envelope.data["number"])

        async def made(given: Received, connection: asyncpg.Connection) -> None:
            await connection.execute(
                "INSERT INTO things (label) VALUES ($1)", f"{domain}-{given.partition}-{given.envelope.data['number']}"
            )
            await asyncio.sleep(0.01)

        return Consumer(
            kafka=broker.consumer_conf,
            group=group(domain),
            handlers={f"{domain}.thing.seen": seen},
            in_database={f"{domain}.thing.made": made},
            valkey=marks,
            pool=effects,
        )

    for partition in range(partitions):
        for number in range(count):
            broker.send_raw(topic, event(domain, service.a, number, "seen").to_json().encode(), partition)
            broker.send_raw(topic, event(domain, service.a, number, "made").to_json().encode(), partition)
    assert broker.producer.flush(20) == 0
    first, second = consumer(), consumer()
    async with running(first):
        await until(lambda: len(first.partitions) == partitions and all(order.values()))
        before = dict(first._lanes)
        async with running(second):
            await until(lambda: len(first.partitions) == 2 and len(second.partitions) == 2)
            assert all(first._lanes[place] is before[place] for place in first.partitions), "what stays is not stopped"
            assert not first.partitions & second.partitions
            await asyncio.sleep(0.2)
        await until(lambda: len(first.partitions) == partitions)
        await until(lambda: broker.committed(group(domain), topic, partitions) == [2 * count] * partitions)
    for seen in order.values():
        assert list(dict.fromkeys(seen)) == list(range(count)), "each is done, in order"
    mine = Counter(label for label in await labels() if label.startswith(f"{domain}-"))
    assert mine == {f"{domain}-{p}-{n}": 1 for p in range(partitions) for n in range(count)}
    assert broker.dead(topic) == []


async def test_a_killed_process_loses_nothing(
    broker: Broker, service: Any, labels: Any, marks_url: str, marks: Redis, valkey: ValkeyServer, domain: str
) -> None:
    topic = broker.topic(domain, 2)
    count = 100
    for partition in range(2):
        for number in range(partition * count, (partition + 1) * count):
            for verb in ("seen", "made"):
                broker.send_raw(topic, event(domain, service.a, number, verb).to_json().encode(), partition)
    assert broker.producer.flush(20) == 0
    look = Redis.from_url(valkey.admin_url)

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("consumer_process.py")),
            domain,
            group(domain),
            env={
                **os.environ,
                "DATABASE_URL": service.url,
                "VALKEY_URL": marks_url,
                "EFFECTS_URL": valkey.admin_url,
                "KAFKA": json.dumps(broker.consumer_conf),
            },
        )

    async def seen() -> list[int]:
        return [int(number) for number in await look.lrange(f"seen:{domain}", 0, -1)]  # type: ignore[misc]

    async def until_seen(enough: int) -> None:
        async with asyncio.timeout(90):
            while len(set(await seen())) < enough:
                await asyncio.sleep(0.05)

    process = await start()
    try:
        await until_seen(20)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        at_death = len(await seen())
        assert at_death < 2 * count, "it died in the middle"
        process = await start()
        await until_seen(2 * count)
        await until(lambda: broker.committed(group(domain), topic, 2) == [2 * count, 2 * count])
        final = await seen()
    finally:
        process.kill()
        await process.wait()
        await look.aclose()
    assert len(final) <= 2 * count + 4, "one event a partition was under way, and is repeated; the others hold marks"
    mine = Counter(label for label in await labels() if label.startswith(f"{domain}-"))
    assert mine == {f"{domain}-{number}": 1 for number in range(2 * count)}


@pytest.mark.parametrize("away", ["valkey", "postgres"])
async def test_a_system_that_is_away_is_waited_for_and_nothing_is_skipped_or_buried(
    away: str,
    broker: Broker,
    effects: asyncpg.Pool,
    marks: Redis,
    labels: Any,
    domain: str,
    service: Any,
    valkey: ValkeyServer,
    postgres: PostgresServer,
) -> None:
    topic = broker.topic(domain, 1)
    server = {"valkey": valkey, "postgres": postgres}[away]
    seen: list[Any] = []

    async def outside(given: Received) -> None:
        seen.append(given.envelope.data["number"])

    async def made(given: Received, connection: asyncpg.Connection) -> None:
        await connection.execute("INSERT INTO things (label) VALUES ($1)", f"{domain}-{given.envelope.data['number']}")

    consumer = Consumer(
        kafka=broker.consumer_conf,
        group=group(domain),
        handlers={f"{domain}.thing.seen": outside},
        in_database={f"{domain}.thing.made": made},
        valkey=marks,
        pool=effects,
        retry_after=(0.01, 0.01, 0.01),
    )
    verb = "seen" if away == "valkey" else "made"
    async with running(consumer):
        broker.send(event(domain, service.a, 0, verb))
        await until(lambda: broker.committed(group(domain), topic, 1) == [1])
        server.kill()
        try:
            broker.send(*(event(domain, service.a, number, verb) for number in range(1, 4)))
            await until(lambda: consumer.trouble is not None)
            name = {"valkey": "Valkey", "postgres": "PostgreSQL"}[away]
            assert consumer.trouble is not None and consumer.trouble.startswith(f"{name}: ")
            await until(lambda: broker.committed(group(domain), topic, 1) == [1])
        finally:
            server.start()
        await until(lambda: broker.committed(group(domain), topic, 1) == [4])
        assert consumer.trouble is None
    done = seen if away == "valkey" else [int(x.rpartition("-")[2]) for x in await labels() if x.startswith(domain)]
    assert done == [0, 1, 2, 3]
    assert broker.dead(topic) == []


async def test_kafka_killed_is_waited_for_and_what_was_done_is_not_done_again(
    broker: Broker, marks: Redis, domain: str, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel_common.events.consumer._LOOK", 0.2)
    topic = broker.topic(domain, 1)
    seen: list[Any] = []

    async def handler(given: Received) -> None:
        seen.append(given.envelope.data["number"])

    consumer = Consumer(
        kafka=broker.consumer_conf, group=group(domain), handlers={f"{domain}.thing.made": handler}, valkey=marks
    )
    async with running(consumer):
        broker.send(*(event(domain, service.a, number) for number in range(50)))
        await until(lambda: len(seen) == 50)
        broker.server.kill()
        try:
            await until(lambda: consumer.trouble is not None)
            assert consumer.trouble is not None and consumer.trouble.startswith("Kafka: ")
        finally:
            broker.server.start()
        broker.send(*(event(domain, service.a, number) for number in range(50, 60)))
        await until(lambda: len(seen) >= 60 and consumer.trouble is None)
        await until(lambda: broker.committed(group(domain), topic, 1) == [60])
    assert seen == list(range(60))


async def test_without_a_place_for_dead_letters_the_partition_waits(
    broker: Broker, marks: Redis, domain: str, service: Any
) -> None:
    """A letter that can't be written is worse than a wait: nothing is dropped, and readiness says why."""
    topic = broker.topic(domain, 1)
    for future in broker.admin.delete_topics([f"{topic}.dlq"]).values():
        future.result(20)

    async def handler(_: Received) -> None:
        raise AssertionError("not an event")

    consumer = Consumer(
        kafka={**broker.consumer_conf, "topic.metadata.propagation.max.ms": 100},
        group=group(domain),
        handlers={f"{domain}.thing.made": handler},
        valkey=marks,
    )
    async with running(consumer):
        broker.send_raw(topic, b"nonsense")
        assert broker.producer.flush(20) == 0
        await until(lambda: consumer.trouble is not None)
        assert consumer.trouble is not None and "dead letter" in consumer.trouble
    await until(lambda: broker.committed(group(domain), topic, 1) == [-1001])


def test_handlers_that_do_not_fit_together_are_refused() -> None:
    async def plain(_: Received) -> None: ...

    async def exact(_: Received, __: Any) -> None: ...

    valkey, pool = Redis(), object()
    for message, fields in {
        "money": {"handlers": {"money.wallet.credited": plain}, "valkey": valkey},
        "valkey:": {"handlers": {"auth.user.created": plain}},
        "pool:": {"in_database": {"auth.user.created": exact}},
        "as well": {
            "handlers": {"a.b.c": plain},
            "in_database": {"a.b.c": exact},
            "valkey": valkey,
            "pool": pool,
        },
        "give one": {},
        "group:": {"group": f"T:{uuid4()}"},
    }.items():
        with pytest.raises(ValueError, match=message):
            Consumer(**{"kafka": {}, "group": "t.x", **fields})  # type: ignore[arg-type]
