"""What the tests of consumers share: topics of their own, messages in them, consumers that run meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from kernel_common.events import Envelope
from kernel_common.events.consumer import Consumer
from kernel_common.events.received import headers_of
from kernel_local.testing import KafkaServer

USER, PASSWORD = "events-tests", "a-random-password-Ck5"
VALKEY_RIGHTS = "~t.* +set +get +del +eval +ping +auth +hello +select +client|setinfo +client|setname"
"""All that a consumer's user in Valkey needs, for groups whose names begin with ``t.``."""


async def until(condition: Callable[[], Any], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.05)


@dataclass
class Broker:
    """Kafka as the administrator and the publishers use it, and the login of the consumers under test."""

    server: KafkaServer
    producer: Producer = field(init=False)
    admin: AdminClient = field(init=False)
    _readers: dict[str, KafkaConsumer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.admin = AdminClient({**self.server.admin_conf, "log_level": 0})
        self.producer = Producer(
            {**self.server.admin_conf, "enable.idempotence": True, "message.max.bytes": 1_040_000, "log_level": 0}
        )
        made = UserScramCredentialUpsertion(
            USER, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096), PASSWORD.encode()
        )
        for future in self.admin.alter_user_scram_credentials([made]).values():
            future.result(20)
        self._allow(ResourceType.TOPIC, "platform.", ResourcePatternType.PREFIXED, AclOperation.READ)
        self._allow(ResourceType.GROUP, "t.", ResourcePatternType.PREFIXED, AclOperation.READ)

    def _allow(self, kind: Any, name: str, pattern: Any, operation: Any) -> None:
        rule = AclBinding(kind, name, pattern, f"User:{USER}", "*", operation, AclPermissionType.ALLOW)
        for future in self.admin.create_acls([rule]).values():
            future.result(20)

    @property
    def consumer_conf(self) -> dict[str, Any]:
        """The login of a consumer: it reads, and writes to its dead-letter topics only."""
        return {
            **self.server.admin_conf,
            "sasl.mechanisms": "SCRAM-SHA-256",
            "sasl.username": USER,
            "sasl.password": PASSWORD,
        }

    def topic(self, domain: str, partitions: int) -> str:
        name = f"platform.{domain}.events"
        topics = [NewTopic(name, partitions, 1), NewTopic(f"{name}.dlq", 1, 1)]
        for future in self.admin.create_topics(topics).values():
            future.result(20)
        self._allow(ResourceType.TOPIC, f"{name}.dlq", ResourcePatternType.LITERAL, AclOperation.WRITE)
        return name

    def send(self, *events: Envelope, partition: int = 0, headers: dict[str, str] | None = None) -> None:
        for event in events:
            self.send_raw(event.topic, event.to_json().encode(), partition, event.key, headers)
        assert self.producer.flush(20) == 0

    def send_raw(
        self, topic: str, value: bytes, partition: int = 0, key: str = "", headers: dict[str, str] | None = None
    ) -> None:
        self.producer.produce(topic, value, key, partition=partition, headers=list((headers or {}).items()))
        self.producer.poll(0)

    def dead(self, topic: str) -> list[Message]:
        """All letters there are now."""
        reader = KafkaConsumer({**self.server.admin_conf, "group.id": "none", "enable.auto.commit": False})
        place = TopicPartition(f"{topic}.dlq", 0, 0)
        _, end = reader.get_watermark_offsets(TopicPartition(f"{topic}.dlq", 0), timeout=20) or (0, 0)
        reader.assign([place])
        letters: list[Message] = []
        deadline = time.monotonic() + 20
        while len(letters) < end:
            assert time.monotonic() < deadline
            if (message := reader.poll(0.5)) is not None and message.error() is None:
                letters.append(message)
        reader.close()
        return letters

    def committed(self, group: str, topic: str, partitions: int) -> list[int]:
        """Empty while Kafka has no answer, as right after the group's first commit."""
        if group not in self._readers:
            self._readers[group] = KafkaConsumer({**self.consumer_conf, "group.id": group, "enable.auto.commit": False})
        wanted = [TopicPartition(topic, number) for number in range(partitions)]
        try:
            return [partition.offset for partition in self._readers[group].committed(wanted, timeout=2)]
        except KafkaException:
            return []

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


def event(domain: str, tenant: UUID, number: int = 0, verb: str = "made", **data: Any) -> Envelope:
    return Envelope(type=f"{domain}.thing.{verb}", source="tests", tenant_id=tenant, data={"number": number, **data})


def numbers(events: Iterable[Envelope]) -> list[Any]:
    return [e.data["number"] for e in events]


@asynccontextmanager
async def running(*consumers: Consumer) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Runs them, and stops them in order at the end; a consumer that fails fails the test."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(consumer.run(stop)) for consumer in consumers]
    try:
        yield tasks
    finally:
        stop.set()
        async with asyncio.timeout(40):
            await asyncio.gather(*tasks)


def about(letter: Message) -> dict[str, str]:
    return headers_of(letter)
