"""Dead letters: the message as it came, on ``{topic}.dlq``, with headers that say where it is from and what went wrong.

A process that dies between the letter and the commit of the offset makes a second one. Both name the same topic,
partition, offset and group.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kernel_common.events.outage import Away
from kernel_common.events.received import headers_of
from kernel_common.logs import without_passwords

TIMEOUT = 10.0
"""Seconds that Kafka has to take a letter; after that it is tried again."""
LARGEST = 1_010_000
"""Bytes of a message that are kept: any envelope with its key. The rest is cut off; such a message is none anyway."""
KEPT_HEADERS = ("id", "type", "tenantId", "traceId", "traceparent", "module", "model", "x-dlq-attempt")
_LONGEST_HEADER = 300


class DeadLetters:
    """Writes for one consumer group. ``configuration`` is librdkafka's, with the way to the brokers."""

    def __init__(self, configuration: Mapping[str, Any], group: str) -> None:
        self._group = group
        self._producer = Producer(
            {
                **configuration,
                "enable.idempotence": True,
                "acks": "all",
                "message.timeout.ms": round(TIMEOUT * 1000),
                "message.max.bytes": LARGEST + 20_000,
                "queue.buffering.max.kbytes": 16_384,
                "linger.ms": 0,
                "log_level": 0,
            }
        )

    async def bury(self, message: Message, error: str, attempts: int) -> None:
        """Returns once Kafka has the letter. Raises Away."""
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[None] = loop.create_future()

        def delivered(problem: KafkaError | None, _: Message) -> None:
            loop.call_soon_threadsafe(_settle, taken, problem)

        value, key = message.value(), message.key()
        about = {
            "x-dlq-topic": message.topic(),
            "x-dlq-partition": str(message.partition()),
            "x-dlq-offset": str(message.offset()),
            "x-dlq-group": self._group,
            "x-dlq-attempts": str(attempts),
            "x-dlq-error": without_passwords(error)[:500],
            "x-dlq-failed-at": datetime.now(UTC).isoformat(),
        }
        if value and len(value) > LARGEST:
            about["x-dlq-cut"] = str(len(value))
        kept = {n: v[:_LONGEST_HEADER] for n, v in headers_of(message).items() if n in KEPT_HEADERS}
        try:
            self._producer.produce(
                f"{message.topic()}.dlq",
                value=value[:LARGEST] if value else value,
                key=key[:1600] if key else key,
                headers=[(n, v.encode(errors="replace")) for n, v in {**kept, **about}.items() if v is not None],
                on_delivery=delivered,
            )
        except (KafkaException, BufferError) as problem:
            raise Away("Kafka", f"the dead letter was not taken ({problem})") from None
        await loop.run_in_executor(None, self._producer.flush, TIMEOUT + 1)
        try:
            await asyncio.wait_for(taken, 1)
        except TimeoutError:
            raise Away("Kafka", "the dead letter was not taken in time") from None

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._producer.flush, TIMEOUT + 1)


def _settle(taken: asyncio.Future[None], problem: KafkaError | None) -> None:
    if taken.done():
        return
    if problem is None:
        taken.set_result(None)
    else:
        taken.set_exception(Away("Kafka", f"the dead letter was not taken ({problem.name()})"))
