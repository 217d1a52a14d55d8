"""The consumer group ``kernel.dlq``: every dead letter of every topic becomes a row.

Offsets are committed after the rows, and a row that is there is left as it is: whatever dies when, each letter is there
once. While PostgreSQL is away nothing is read further.
"""

import asyncio
import json
import logging
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from uuid import UUID

from confluent_kafka import KafkaException, Message

from kernel_common.database import reason_to_wait
from kernel_common.events.feed import Feed, Place
from kernel_common.events.received import headers_of
from kernel_common.logs import about
from kernel_gateway.api.services import Services
from kernel_gateway.events import metrics
from kernel_gateway.events.kafka import Kafka
from kernel_gateway.events.letters import Letter, store

GROUP = "kernel.dlq"
TOPICS = r"^platform\.[a-z][a-z0-9_]*\.events\.dlq$"
SESSION_SECONDS = 10.0
MOST = 100
_TOPIC = re.compile(r"platform\.[a-z][a-z0-9_]*\.events")
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
_AGAIN = 5.0
"""Seconds before a reader that Kafka has thrown out begins anew."""

log = logging.getLogger(__name__)


async def run(services: Services, kafka: Kafka) -> None:
    """Until cancelled."""
    while True:
        try:
            await _collect(services, kafka)
        except KafkaException as error:
            log.error("dead letters can't be read: %s", error.args[0].name(), extra=about(group=GROUP))
            await asyncio.sleep(_AGAIN)


async def _collect(services: Services, kafka: Kafka) -> None:
    feed = Feed(
        kafka.configuration,
        [TOPICS],
        group=GROUP,
        session_timeout=SESSION_SECONDS,
        taken=_nothing_to_do,
        given_up=_nothing_to_do,
        most=MOST,
    )
    await feed.start()
    try:
        while True:
            # All that a poll brought is stored before the next, in which alone partitions come and go.
            if messages := await feed.poll():
                await keep(services, messages)
                for message in messages:
                    feed.done_up_to((message.topic() or "", message.partition() or 0), (message.offset() or 0) + 1)
    finally:
        await asyncio.shield(feed.close())


async def keep(services: Services, messages: Collection[Message]) -> None:
    """Returns when all of them are rows; waits for PostgreSQL."""
    letters = [letter for message in messages if (letter := read(message)) is not None]
    for attempt in range(10**9):
        try:
            await store(services, letters)
        except Exception as error:
            if (reason := reason_to_wait(error)) is None:
                raise
            if attempt == 0:
                log.warning("dead letters wait for the database: %s", reason, extra=about(group=GROUP))
            await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
        else:
            metrics.letters.inc(len(letters))
            return


def read(message: Message) -> Letter | None:
    """None for what no consumer of ours has written, which nobody could send anywhere: it is logged and passed."""
    headers = headers_of(message)
    topic = (message.topic() or "").removesuffix(".dlq")
    partition, offset = _number(headers.get("x-dlq-partition")), _number(headers.get("x-dlq-offset"))
    group = _text(headers.get("x-dlq-group"))
    if not _TOPIC.fullmatch(topic) or partition is None or offset is None or partition >= 2**31 or not group:
        log.error(
            "a message that is no dead letter was passed over",
            extra=about(topic=message.topic() or "", partition=message.partition() or 0, offset=message.offset() or 0),
        )
        return None
    return Letter(
        tenant=_tenant(headers, message.value()),
        event_id=_uuid(headers.get("id")),
        event_type=_text(headers.get("type")),
        place=(topic, partition, offset),
        group=group,
        key=message.key(),
        value=message.value(),
        cut="x-dlq-cut" in headers,
        headers={
            n: v.replace("\0", "") for n, v in headers.items() if n == "x-dlq-attempt" or not n.startswith("x-dlq-")
        },
        error=_text(headers.get("x-dlq-error")) or "",
        attempts=min(_number(headers.get("x-dlq-attempts")) or 0, 10**6),
        failed_at=_time(headers.get("x-dlq-failed-at"), message),
    )


def _tenant(headers: Mapping[str, str], value: bytes | None) -> UUID | None:
    """Whose it is. A message that says two different things is nobody's: an owner of the platform looks at it."""
    said = _uuid(headers.get("tenantId"))
    try:
        envelope = json.loads(value or b"")
    except (ValueError, RecursionError):
        return said
    inside = _uuid(envelope.get("tenantId")) if isinstance(envelope, dict) else None
    if said is not None and inside is not None and said != inside:
        return None
    return said or inside


def _uuid(text: object) -> UUID | None:
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None


def _text(text: str | None) -> str | None:
    return text.replace("\0", "")[:300] if text else None


def _time(text: str | None, message: Message) -> datetime:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        found = datetime.fromtimestamp(max(message.timestamp()[1], 0) / 1000, UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


async def _nothing_to_do(_: Collection[Place]) -> None: ...
