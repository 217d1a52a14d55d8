"""Who may not do what, and what a broker that is away looks like."""

import asyncio
import time

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from kernel_operator.desired import Unavailable
from kernel_operator.targets.kafka import KafkaTarget

QUIET = {"log_level": 0}
DENIED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)


def read(configuration, topic):
    """The error code of reading ``topic``, or None."""
    consumer = Consumer({**configuration, **QUIET, "group.id": "probe"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None and message.error():
                return message.error().code()
    except KafkaException as error:
        return error.args[0].code()
    finally:
        consumer.close()
    return None


def write(configuration, topic):
    """The error code of writing to ``topic``, or None."""
    codes = []
    producer = Producer({**configuration, **QUIET, "message.timeout.ms": 5000})
    producer.produce(topic, b"x", on_delivery=lambda error, _: codes.append(error and error.code()))
    producer.flush(10)
    assert codes
    return codes[0]


async def test_a_stranger_sees_reads_and_writes_nothing(target, module, stranger):
    crm = module()
    await target.apply_modules([crm])
    seen = await asyncio.to_thread(AdminClient({**stranger, **QUIET}).list_topics, timeout=10)
    assert [name for name in seen.topics if name.startswith("platform.")] == []
    assert await asyncio.to_thread(write, stranger, crm.topic) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert await asyncio.to_thread(read, stranger, crm.topic) in DENIED


async def test_the_operator_can_not_read_or_write_events(kafka, target, module):
    crm = module()
    await target.apply_modules([crm])
    assert await asyncio.to_thread(write, kafka.operator_conf, crm.topic) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert await asyncio.to_thread(read, kafka.operator_conf, crm.topic) in DENIED


async def test_the_administrator_can(kafka, target, module):
    """So that the refusals above are the ACLs' work."""
    crm = module(partitions=1)
    await target.apply_modules([crm])
    assert await asyncio.to_thread(write, kafka.admin_conf, crm.topic) is None


async def test_the_operator_deletes_nothing_outside_its_prefix(broker, target):
    broker.create("elsewhere", 1)
    try:
        with pytest.raises(Unavailable, match="lacks a right on the topic"):
            await target._admin.delete(["elsewhere"])
        assert "elsewhere" in broker.topics()
    finally:
        broker.delete("elsewhere")


async def test_a_wrong_password_is_unavailable_and_not_repeated_in_the_message(kafka, module):
    target = KafkaTarget(
        kafka.brokers,
        username="kernel_operator",
        password="wrong-secret",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-256",
    )
    with pytest.raises(Unavailable, match="the user name or password was refused") as caught:
        await target.apply_modules([module()])
    assert caught.value.system == "Kafka"
    assert "wrong-secret" not in str(caught.value)
    assert kafka.brokers not in str(caught.value)


async def test_a_dead_broker_is_unavailable_and_converges_when_it_is_back(kafka, target, module):
    crm, shop = module(), module()
    await target.apply_modules([crm])
    kafka.kill()
    try:
        began = time.monotonic()
        for call in (target.apply_modules([crm, shop]), target.remove_module(crm.slug, drop_data=True), target.ping()):
            with pytest.raises(Unavailable) as caught:
                await call
            assert caught.value.system == "Kafka"
            assert "127.0.0.1" not in str(caught.value)
        assert time.monotonic() - began < 60
    finally:
        kafka.start()
    deadline = time.monotonic() + 30
    while True:
        try:
            outcomes = await target.apply_modules([crm, shop])
            break
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
    assert not outcomes[crm.slug].changes
    assert outcomes[shop.slug].changes == [f"created topic {shop.topic}", f"created topic {shop.topic}.dlq"]


async def test_the_loop_is_free_while_kafka_is_asked(target, module):
    turns = 0
    done = asyncio.Event()

    async def spin():
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)

    spinner = asyncio.create_task(spin())
    await target.apply_modules([module()])
    done.set()
    await spinner
    assert turns > 50
