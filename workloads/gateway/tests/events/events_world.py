"""What the tests of the event API share: modules that declare events, dead letters, Kafka from outside."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Message, Producer, TopicPartition
from confluent_kafka import admin as kafka_admin
from gateway_api import Person

from kernel_common.events import Envelope
from kernel_gateway.api.services import Services
from kernel_gateway.events import collecting
from kernel_local.testing import KafkaServer
from kernel_operator.desired import ModuleState
from kernel_operator.targets.postgres import PostgresTarget

_numbers = itertools.count(1)


def _new_slug() -> str:
    return f"ev{next(_numbers)}m{time.time_ns() % 10**6}"


async def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What ``condition``, which may be async, answers when it is true at last."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.05)


@dataclass
class World:
    """``admin`` is PostgreSQL's superuser; ``valkey`` the operator's."""

    database: PostgresTarget
    admin: asyncpg.Pool
    valkey: Any
    kafka: KafkaServer
    _producer: Producer = field(init=False)
    _prepared: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._producer = Producer({**self.kafka.admin_conf, "partitioner": "murmur2_random", "log_level": 0})
        self.brokers: Any = kafka_admin.AdminClient({**self.kafka.admin_conf, "log_level": 0})

    async def module(self, *tenants: UUID, topics: bool = True, **fields: Any) -> str:
        """A new module of these tenants; its slug. It declares {slug}.contact.created, and a permission to publish."""
        if topics and not self._prepared:
            self.prepare()
        slug = self._prepared.pop() if topics else _new_slug()
        plain: dict[str, Any] = {
            "publishes": (f"{slug}.contact.created", f"{slug}.contact.deleted"),
            "subscribes": ("money.wallet.credited",),
            "permissions": (f"{slug}.events.publish", f"{slug}.contacts.read"),
        }
        state = ModuleState(
            slug=slug,
            module_name=f"@tests/{slug}",
            namespace="tests",
            name=slug,
            uid=f"uid-{slug}",
            version="1.0.0",
            tenants=frozenset(tenants),
            **(plain | fields),
        )
        assert (await self.database.apply_module(state, "a-random-password-Ev3")).refusal is None
        rights = {"publishes": list(state.publishes), "subscribes": list(state.subscribes)}
        await self.valkey.hset("events:rights", slug, json.dumps(rights))
        return slug

    def prepare(self) -> None:
        """Topics for modules to come: whoever reads all dead letters looks for new topics every ten seconds."""
        slugs = [_new_slug() for _ in range(6)]
        wanted = [
            kafka_admin.NewTopic(f"platform.{slug}.events{suffix}", partitions, 1)
            for slug in slugs
            for suffix, partitions in (("", 3), (".dlq", 1))
        ]
        for future in self.brokers.create_topics(wanted).values():
            future.result(20)
        self._prepared += slugs

    async def published(self, tenant: UUID) -> list[asyncpg.Record]:
        """The outbox of a tenant, in order."""
        return list(
            await self.admin.fetch(
                "SELECT id, type, topic, key, envelope::text AS envelope FROM kernel.outbox "
                "WHERE tenant_id = $1 AND type NOT LIKE 'auth.%' ORDER BY created_at, id",
                tenant,
            )
        )

    def bury(
        self, event: Envelope | bytes, slug: str, *, group: str, offset: int, key: str = "k", **headers: str
    ) -> None:
        """A dead letter as a consumer writes it."""
        topic = f"platform.{slug}.events"
        value, about = event, {}
        if isinstance(event, Envelope):
            about = {"id": str(event.id), "type": event.type, "tenantId": str(event.tenant_id)}
            value = event.to_json().encode()
        about |= {
            "x-dlq-topic": topic,
            "x-dlq-partition": "0",
            "x-dlq-offset": str(offset),
            "x-dlq-group": group,
            "x-dlq-attempts": "4",
            "x-dlq-error": "ValueError: no such contact",
            "x-dlq-failed-at": "2026-01-02T03:04:05+00:00",
        }
        self.send(f"{topic}.dlq", value, key, about | {n.replace("_", "-"): v for n, v in headers.items()})

    def send(self, topic: str, value: Any, key: str, headers: dict[str, str]) -> None:
        self._producer.produce(topic, value, key, headers=list(headers.items()))
        assert self._producer.flush(20) == 0

    def on(self, topic: str, partitions: int = 3) -> list[Message]:
        """All that is on a topic now."""
        reader = Consumer({**self.kafka.admin_conf, "group.id": "none", "enable.auto.commit": False, "log_level": 0})
        places = [TopicPartition(topic, number, 0) for number in range(partitions)]
        ends = sum((reader.get_watermark_offsets(place, timeout=20) or (0, 0))[1] for place in places)
        reader.assign(places)
        found: list[Message] = []
        deadline = time.monotonic() + 20
        while len(found) < ends:
            assert time.monotonic() < deadline
            if (message := reader.poll(0.5)) is not None and message.error() is None:
                found.append(message)
        reader.close()
        return found

    async def letters(self, where: str, *values: Any) -> list[asyncpg.Record]:
        return list(await self.admin.fetch(f"SELECT * FROM kernel.dlq_records WHERE {where} ORDER BY id", *values))

    async def make_owner(self, person: Person) -> None:
        """Of the platform."""
        await self.admin.execute("UPDATE auth.users SET platform_owner = true WHERE id = $1", person.id)

    def committed(self, group: str, topic: str, partitions: Sequence[int] = (0,)) -> list[int]:
        wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, n) for n in partitions])
        answer = self.brokers.list_consumer_group_offsets([wanted])[group].result(20)
        return [place.offset for place in answer.topic_partitions]


@asynccontextmanager
async def collecting_letters(services: Services) -> AsyncIterator[None]:
    assert services.kafka is not None
    task = asyncio.create_task(collecting.run(services, services.kafka))
    yield
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled(), task.exception()
