"""What Kafka acknowledges, refuses and never takes, and what that lets PostgreSQL forget."""

import asyncio
import time
from collections.abc import Callable

import pytest
from cdc_source_world import DATA, reading
from confluent_kafka import Consumer, KafkaError

from kernel_cdc import metrics
from kernel_cdc.source.publisher import Publisher, PublishFailed
from kernel_local.testing import KafkaServer

GONE, AUDIT = "platform.gone.events", "platform.audit.events"

pytestmark = pytest.mark.usefixtures("topics")


def a_publisher(kafka: KafkaServer, **more: object) -> Publisher:
    return Publisher({**kafka.cdc_conf, **more}, 1_000_000)


async def settled(publisher: Publisher, enough: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not enough():
            publisher.settle()
            await asyncio.sleep(0.01)


async def test_the_log_is_confirmed_in_its_order_though_partitions_answer_in_theirs(kafka: KafkaServer) -> None:
    """A message for a topic that is not there holds back the log, not the messages behind it, until it is given up."""
    publisher = a_publisher(kafka, **{"topic.metadata.propagation.max.ms": 2000})
    given_up = metrics.source_undeliverable.labels("no such topic")._value.get()
    with reading(kafka.admin_conf, AUDIT) as reader:
        position = publisher.begin()
        publisher.send(AUDIT, b"1", b"{}", [])
        publisher.mark(100, 0)
        await settled(publisher, lambda: position.confirmed == 100)
        publisher.send(GONE, b"2", b"{}", [])
        publisher.mark(200, 0)
        publisher.settle()
        publisher.send(AUDIT, b"3", b"{}", [])
        publisher.mark(300, 0)
        publisher.settle()
        await reader.until(lambda: sorted(got.key for got in reader.messages) == ["1", "3"])
        publisher.settle()
        assert position.confirmed == 100
        await settled(publisher, lambda: position.confirmed == 300)
    assert metrics.source_undeliverable.labels("no such topic")._value.get() == given_up + 1
    assert publisher.pending == 0


async def test_what_must_not_be_left_out_ends_the_producer(kafka: KafkaServer) -> None:
    """The source may write to no other topic; here that stands for every refusal that is not the message's fault."""
    publisher = a_publisher(kafka)
    position = publisher.begin()
    publisher.send("elsewhere", b"1", b"{}", [])
    publisher.mark(100, 0)
    with pytest.raises(PublishFailed, match=r"^Kafka: the user lacks the right to write to a topic$"):
        await settled(publisher, lambda: False)
    assert position.confirmed == 0
    await publisher.renew()
    assert publisher.pending == 0
    again = publisher.begin()
    publisher.send(AUDIT, b"1", b"{}", [])
    publisher.mark(100, 0)
    await settled(publisher, lambda: again.confirmed == 100)
    assert position.confirmed == 0


async def test_what_was_sent_for_a_former_connection_confirms_nothing_for_the_next(kafka: KafkaServer) -> None:
    publisher = a_publisher(kafka)
    former = publisher.begin()
    publisher.send(AUDIT, b"1", b"{}", [])
    publisher.mark(100, 0)
    position = publisher.begin()
    publisher.send(AUDIT, b"1", b"{}", [])
    await settled(publisher, lambda: not publisher.pending)
    assert (former.confirmed, position.confirmed) == (100, 0)


async def test_it_is_full_while_too_much_waits(kafka: KafkaServer) -> None:
    publisher = a_publisher(kafka, **{"bootstrap.servers": "127.0.0.1:1"})
    while not publisher.full:
        publisher.send(AUDIT, b"1", b"x" * 10_000, [])
    assert 1_000_000 <= publisher.pending < 1_100_000
    await settled(publisher, lambda: publisher.trouble is not None)
    assert publisher.trouble == "Kafka: no broker answers"
    await publisher.renew()


async def test_small_traffic_does_not_linger(kafka: KafkaServer) -> None:
    """The best of several, because the machine has other work: far below the time that batches linger for."""
    publisher = a_publisher(kafka, **{"linger.ms": 2000})
    publisher.begin()
    best = 10.0
    for _ in range(5):
        began = time.monotonic()
        publisher.send(AUDIT, b"1", b"{}", [])
        async with asyncio.timeout(20):
            while publisher.pending:
                publisher.hurry()
                publisher.settle()
                await asyncio.sleep(0.001)
        best = min(best, time.monotonic() - began)
    assert best < 1


async def test_the_sources_user_reads_nothing(kafka: KafkaServer) -> None:
    consumer = Consumer(kafka.cdc_conf | {"group.id": "kernel_cdc", "log_level": 0, "allow.auto.create.topics": False})
    try:
        consumer.subscribe([DATA])
        async with asyncio.timeout(20):
            while (message := await asyncio.to_thread(consumer.poll, 0.5)) is None:
                pass
        error = message.error()
        assert error is not None
        assert error.code() in (KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    finally:
        consumer.close()
