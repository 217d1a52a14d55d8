"""A change on its way: from the request through the gateway to the event on its topic, and to the analytics API."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from kernel_local.demo.gateway import CONTACTS, Door, Visitor, owner
from kernel_local.demo.proof import Proof

TOPIC = "platform.crm.events"
_PATIENCE = 30.0


async def streams(door: Door, kubectl: Callable[..., str], kafka: Mapping[str, Any]) -> list[Proof]:
    """Create a contact as acme's owner, then wait for what follows. Times count from the answer to the request."""
    mail = f"{uuid4().hex[:8]}@customer.example"
    events = await asyncio.to_thread(_Events, kafka)
    try:
        async with Visitor(door) as visitor:
            token = await visitor.token(*owner(kubectl, "acme"))
            started = time.perf_counter()
            created = await visitor.call("POST", CONTACTS, token, {"email": mail})
            answered = time.perf_counter()
            one = str((created.body or {}).get("id"))
            asked = f"/api/v1/analytics/crm/contacts?select=count&{quote('filter[id][eq]')}={one}"

            async def event() -> str:
                return await asyncio.to_thread(events.of, one)

            async def counted() -> str:
                answer = await visitor.call("GET", asked, token)
                rows = (answer.body or {}).get("data") or [{}]
                return str(rows[0].get("count")) if answer.status == 200 else str(answer)

            return [
                Proof(
                    *("Gateway", "acme's owner writes a contact", str(created), created.status == 201),
                    (answered - started) * 1000,
                ),
                *await asyncio.gather(
                    _after(answered, "Kafka", f"its event on {TOPIC}", event, "crm.contact.created"),
                    _after(answered, "ClickHouse", "contacts with its id, through the analytics API", counted, "1"),
                ),
            ]
    finally:
        await asyncio.to_thread(events.close)


async def _after(since: float, system: str, question: str, ask: Callable[[], Awaitable[str]], expected: str) -> Proof:
    while True:
        said = await ask()
        if said == expected or time.perf_counter() - since > _PATIENCE:
            break
        await asyncio.sleep(0.01)
    passed = (time.perf_counter() - since) * 1000
    right = said == expected
    return Proof(system, question, f"{said or 'none'}, after {passed:.0f} ms", right, passed)


class _Events:
    """What comes to the topic from now on, as the administrator reads it."""

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        from confluent_kafka import Consumer, TopicPartition

        self._consumer = Consumer({**kafka, "group.id": "kernel-demo", "enable.auto.commit": False, "log_level": 0})
        places = []
        for partition in self._consumer.list_topics(TOPIC, 10).topics[TOPIC].partitions:
            place = TopicPartition(TOPIC, partition)
            place.offset = self._consumer.get_watermark_offsets(place, 10)[1]
            places.append(place)
        self._consumer.assign(places)
        self._types: dict[str, str] = {}

    def of(self, contact: str) -> str:
        """The type of the event that tells of the contact; empty while there is none. Waits a moment for the next."""
        message = self._consumer.poll(0.5)
        if message is not None and message.error() is None:
            envelope = json.loads(message.value() or b"")
            self._types[str(envelope["data"].get("contactId"))] = str(envelope["type"])
        return self._types.get(contact, "")

    def close(self) -> None:
        self._consumer.close()
