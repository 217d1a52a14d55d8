"""Messages on their way to Kafka, and how far PostgreSQL may forget.

librdkafka sends from threads of its own and calls back, in ``poll``, for each message. What is sent is counted in
chunks, in the order of the log; a chunk may hold the ends of transactions, and it is done when all of it is
acknowledged. The log is confirmed up to the last end in the longest run of chunks that are done: partitions answer in
any order, the log is let go only in its own.

A message that Kafka will never take (too large; a module's topic that is gone) is left out, counted and logged,
because waiting for it would stop everybody. Every other refusal ends the producer: the log is read again from
where it is confirmed, so nothing is lost and something may come twice.

The order of a key holds because the producer is idempotent, never gives up on a message, and outlives a broken
connection to PostgreSQL: what is read again is queued behind what was read before.

What is read from tables goes beside the log: in batches, which confirm nothing of it and are waited for by themselves.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kernel_cdc import metrics
from kernel_cdc.source.rows import TOPIC, Headers
from kernel_common.logs import about

OVERHEAD = 300
"""Bytes that a message costs beside its value."""
MOST_MESSAGE_BYTES = 64_000_000
"""Above this librdkafka itself refuses; the topic's own limit is lower."""
TOPIC_SECONDS = 120
"""How long a topic may be unknown before a message to it counts as refused: one that was just made is not seen at once,
and the operator makes those that are missing each minute."""

_WINDOW_SECONDS, _FEW = 0.005, 100
_HURRY_SECONDS = 0.001
"""How long librdkafka is told to send without lingering: its threads need a moment to see it."""
_CHUNK_MESSAGES, _CHUNK_BYTES = 500, 250_000
_KERNEL_TOPICS = frozenset(
    f"platform.{domain}.events" for domain in ("auth", "module", "money", "data", "files", "notify", "billing", "audit")
)
"""These are never gone for good: their messages wait."""
_MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_EXPLAINED = {
    KafkaError._ALL_BROKERS_DOWN: "no broker answers",
    KafkaError._TRANSPORT: "no broker answers",
    KafkaError._TIMED_OUT: "no answer in time",
    KafkaError._RESOLVE: "the brokers' name can't be resolved",
    KafkaError._AUTHENTICATION: "the user name or password was refused",
    KafkaError.SASL_AUTHENTICATION_FAILED: "the user name or password was refused",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "the user lacks the right to write to a topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the user lacks a right on the cluster",
}

Answered = Callable[[KafkaError | None, Message], None]
BY_KEY = -1
"""The partition that the key says."""

log = logging.getLogger(__name__)


class PublishFailed(Exception):
    """Kafka refused what must not be left out; the message is fit to show."""


class Position:
    """How far the log of one connection is confirmed, and how many seconds after its commit the last was."""

    __slots__ = ("confirmed", "lag")

    def __init__(self) -> None:
        self.confirmed = 0
        self.lag = 0.0


class Chunk:
    """Messages that are confirmed together. ``end``: where the last transaction that ends among them ends."""

    __slots__ = ("_publisher", "committed_at", "end", "made", "messages", "outstanding", "position", "size")

    def __init__(self, publisher: "Publisher", position: Position) -> None:
        self._publisher, self.position = publisher, position
        self.outstanding = self.messages = self.size = self.end = 0
        self.committed_at = 0.0
        self.made = time.monotonic()

    def answered(self, error: KafkaError | None, message: Message) -> None:
        self.outstanding -= 1
        if error is not None:
            self._publisher.refused(error, message)


class Batch:
    """Messages that don't come from the log; for what is pending they count like all others."""

    def __init__(self, publisher: "Publisher") -> None:
        self._publisher, self._producers = publisher, publisher.producers
        self._outstanding = 0
        self._failed = False

    def send(self, topic: str, key: bytes, value: bytes, headers: Headers, partition: int = BY_KEY) -> None:
        """Queues a message; never waits."""
        self._outstanding += self._publisher.queue(topic, key, value, headers, self._answered, partition)

    def _answered(self, error: KafkaError | None, message: Message) -> None:
        self._outstanding -= 1
        if self._producers == self._publisher.producers:
            self._publisher.freed(len(message) + OVERHEAD)
        if error is not None and not self._publisher.refused(error, message):
            self._failed = True

    async def acknowledged(self) -> None:
        """Waits until Kafka has all of it, but for what it will never take. Raises PublishFailed."""
        while True:
            self._publisher.settle()
            if self._failed or self._producers != self._publisher.producers:
                raise PublishFailed("Kafka: the producer was made anew")
            if not self._outstanding:
                return
            await asyncio.sleep(0.005)


class Publisher:
    """One producer, renewed when it has failed. All calls belong to one event loop."""

    def __init__(self, client: Mapping[str, Any], most_pending: int) -> None:
        self._client, self._most_pending = dict(client), most_pending
        self._chunks: deque[Chunk] = deque()
        self._pending = self._sent = self._partitions = 0
        self._looked = 0.0
        self.producers = 1
        """How many there have been: what one has lost, the next doesn't have."""
        self._failure: str | None = None
        self._trouble: str | None = None
        self.position = Position()
        self._open = Chunk(self, self.position)
        self._producer = self._made()
        self._produce = self._producer.produce

    def _made(self) -> Producer:
        # librdkafka's own log would repeat, for ever and on stderr, that a broker is away
        quiet = logging.getLogger("kernel_cdc.kafka.client")
        quiet.setLevel(logging.CRITICAL)
        return Producer(
            {
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # never give up: a message given up on would leave a gap
                "compression.type": "lz4",
                "linger.ms": 25,
                "partitioner": "murmur2_random",  # as other clients do, so that a key has one partition whoever sends
                "message.max.bytes": MOST_MESSAGE_BYTES,
                "queue.buffering.max.messages": 0,
                "queue.buffering.max.kbytes": 2_000_000,  # bounded here, before messages are made
                "topic.metadata.propagation.max.ms": TOPIC_SECONDS * 1000,
                "reconnect.backoff.max.ms": 1_000,
                "socket.keepalive.enable": True,
                "log.connection.close": False,
                "error_cb": self._noted,
                **self._client,
            },
            logger=quiet,
        )

    def begin(self) -> Position:
        """A new connection to PostgreSQL: what was sent before no longer confirms anything."""
        self._roll()
        self.position = Position()
        self._open.position = self.position
        return self.position

    def send(self, topic: str, key: bytes, value: bytes, headers: Headers, partition: int = BY_KEY) -> None:
        """Queues a message; never waits. Look at ``full`` before the next."""
        chunk = self._open
        if not self.queue(topic, key, value, headers, chunk.answered, partition):
            return
        chunk.outstanding += 1
        chunk.messages += 1
        chunk.size += len(value) + OVERHEAD
        self._sent += 1
        if chunk.messages >= _CHUNK_MESSAGES or chunk.size >= _CHUNK_BYTES:
            self._roll()

    def queue(  # noqa: PLR0917 - called for each message
        self, topic: str, key: bytes, value: bytes, headers: Headers, answered: Answered, partition: int
    ) -> bool:
        """Hands a message to librdkafka. False when it was refused at once, and is judged already."""
        try:
            self._produce(topic, value, key, partition, on_delivery=answered, headers=headers)
        except KafkaException as error:
            self._judge(error.args[0], topic, key)
            return False
        self._pending += len(value) + OVERHEAD
        return True

    def freed(self, size: int) -> None:
        self._pending -= size

    def mark(self, end: int, committed_at: float) -> None:
        """All that was sent so far completes the log up to ``end``. ``committed_at``: Unix seconds; 0 for just now."""
        self._open.end, self._open.committed_at = end, committed_at

    def settle(self) -> None:
        """Takes Kafka's answers and moves the position. Raises PublishFailed."""
        self._producer.poll(0)
        if self._failure:
            raise PublishFailed(self._failure)
        self._roll()
        chunks, done = self._chunks, 0
        while chunks and not chunks[0].outstanding:
            chunk = chunks.popleft()
            done += chunk.messages
            self._pending -= chunk.size
            if chunk.end > chunk.position.confirmed:
                chunk.position.confirmed = chunk.end
                chunk.position.lag = max(0.0, time.time() - chunk.committed_at) if chunk.committed_at else 0.0
        if done:
            metrics.source_messages.inc(done)
            self._trouble = None

    def hurry(self) -> None:
        """Nothing more has arrived. Has what is queued sent now, without lingering for a larger batch, unless so much
        came lately that larger batches are what Kafka needs."""
        now = time.monotonic()
        if now - self._looked < _WINDOW_SECONDS:
            return
        few, self._sent, self._looked = self._sent < _FEW, 0, now
        if few and self._pending:
            self._producer.flush(_HURRY_SECONDS)

    @property
    def pending(self) -> int:
        """Bytes that wait for an acknowledgement."""
        return self._pending

    @property
    def full(self) -> bool:
        return self._pending >= self._most_pending

    async def room(self) -> None:
        """Waits until half of what may be pending is free, which is the log's alone. Raises PublishFailed."""
        while self._pending > self._most_pending // 2:
            self.settle()
            await asyncio.sleep(0.005)

    @property
    def portion(self) -> int:
        """Bytes to queue beside the log at once."""
        return min(4_000_000, self._most_pending // 8)

    def batch(self) -> Batch:
        """For messages beside the log."""
        return Batch(self)

    @property
    def partitions(self) -> int:
        """Of the topic of changes; 0 while that is not known."""
        return self._partitions

    @property
    def trouble(self) -> str | None:
        """Why Kafka takes nothing; None when it does, or when nothing was asked of it yet."""
        if self._trouble:
            return f"Kafka: {self._trouble}"
        if self._chunks and (waited := time.monotonic() - self._chunks[0].made) > 10:
            return f"Kafka has not acknowledged for {waited:.0f} s"
        return None

    async def ask(self) -> None:
        """Finds out whether Kafka answers us, also while nothing is sent."""
        try:
            found = await asyncio.to_thread(self._producer.list_topics, TOPIC, 5)
        except KafkaException as error:
            self._noted(error.args[0])
        else:
            self._partitions = len(found.topics[TOPIC].partitions) or self._partitions
            self._trouble = None

    async def settled(self, seconds: float) -> bool:
        """Waits until everything is acknowledged. Raises PublishFailed."""
        until = time.monotonic() + seconds
        while True:
            self.settle()
            if not self._chunks:
                return True
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.01)

    async def renew(self) -> None:
        """Throws away what a failed producer still holds and makes a new one."""
        self._producer.purge()
        await asyncio.to_thread(self._producer.flush, 5)
        self._chunks.clear()
        self.producers += 1
        self._pending, self._failure = 0, None
        self._open = Chunk(self, self.position)
        self._producer = self._made()
        self._produce = self._producer.produce

    def refused(self, error: KafkaError, message: Message) -> bool:
        return self._judge(error, message.topic() or "", message.key() or b"")

    def _judge(self, error: KafkaError, topic: str, key: bytes) -> bool:
        """Whether a message that is refused may be left out, which is noted; else the producer has failed."""
        code = error.code()
        if code == KafkaError.MSG_SIZE_TOO_LARGE:
            reason = "too large"
        elif code in _MISSING and topic not in _KERNEL_TOPICS:
            reason = "no such topic"
        else:
            missing = f"there is no topic {topic}" if code in _MISSING else None
            self._failure = self._failure or f"Kafka: {missing or _explained(error)}"
            return False
        metrics.source_undeliverable.labels(reason).inc()
        log.error("a message was left out: %s", reason, extra=about(topic=topic, key=key.decode(errors="replace")))
        return True

    def _roll(self) -> None:
        if self._open.messages or self._open.end:
            self._chunks.append(self._open)
            self._open = Chunk(self, self.position)

    def _noted(self, error: KafkaError) -> None:
        """Also called by librdkafka for what concerns no message."""
        if error.fatal():
            self._failure = self._failure or f"Kafka: {_explained(error)}"
        self._trouble = _explained(error)


def _explained(error: KafkaError) -> str:
    """Without the addresses in librdkafka's own text."""
    return _EXPLAINED.get(error.code(), error.name())
