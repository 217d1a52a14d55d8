"""A member of a consumer group, on a thread of its own.

librdkafka rather than a client in pure asyncio, because it alone rebalances cooperatively: a partition that stays where
it is goes on being worked on while others move. Its calls block, and two at once can lock each other out, so they are
all made on one thread, which does nothing else. Rebalances are told on that thread too, within ``poll``, and a
partition is only handed over once the lanes, on the event loop, have let it go.

What is done (``done_up_to``) is stored with the next poll, and librdkafka commits what was stored twice a second,
before a partition is handed over, and at the end. Nothing else moves an offset: what was read and not done is read
again, here or elsewhere.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition

from kernel_common.events.outage import Away

T = TypeVar("T")
Place = tuple[str, int]
"""Topic and partition."""

MOST = 200
"""Messages that one poll brings."""
POLL = 0.1
"""Seconds that a poll waits for the first."""
_COMMIT_MS = 500

_log = logging.getLogger(__name__)


class Feed:
    """``taken`` and ``given_up`` are called on the event loop; a partition stays ours until ``given_up`` returns."""

    def __init__(
        self,
        configuration: Mapping[str, Any],
        topics: Sequence[str],
        *,
        group: str,
        session_timeout: float,
        taken: Callable[[Collection[Place]], Awaitable[None]],
        given_up: Callable[[Collection[Place]], Awaitable[None]],
        most: int = MOST,
    ) -> None:
        self._topics, self._taken, self._given_up, self._most = list(topics), taken, given_up, most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-feed")
        self._batch: list[Message] = []
        self._done: dict[Place, int] = {}
        self._loop = asyncio.get_running_loop()
        self.trouble: str | None = None
        """What Kafka last complained about; None when ``lag`` has found it well again."""
        self._consumer = Consumer(
            {
                **configuration,
                "group.id": group,
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": round(session_timeout * 1000),
                # Members learn of a rebalance by it, and a cooperative one has two rounds.
                "heartbeat.interval.ms": 1000,
                # A group that is new, or was away for longer than the topic is kept, skips nothing that is there.
                "auto.offset.reset": "earliest",
                "enable.auto.offset.store": False,
                "enable.auto.commit": True,
                "auto.commit.interval.ms": _COMMIT_MS,
                "topic.metadata.refresh.interval.ms": 10_000,
                # At most this is read ahead, whatever the number of partitions.
                "queued.max.messages.kbytes": 8_192,
                "fetch.max.bytes": 4_194_304,
                # How soon it reads on when that is used up; the default of a second would be the speed of a drain.
                "fetch.queue.backoff.ms": 10,
                "fetch.wait.max.ms": 100,
                "error_cb": self._complain,
                "on_commit": self._committed,
                "log_level": 0,
            }
        )

    async def start(self) -> None:
        await self._on_thread(self._subscribe)

    async def poll(self, pause: Collection[Place] = (), resume: Collection[Place] = ()) -> list[Message]:
        """What has come, at most ``most`` messages. Raises KafkaException for what no waiting mends."""
        done = self._take_done()
        return await self._on_thread(lambda: self._poll(done, pause, resume))

    def done_up_to(self, place: Place, offset: int) -> None:
        """Everything before ``offset`` is done in ``place``."""
        self._done[place] = offset

    async def rewind(self, places: Mapping[Place, int]) -> None:
        """Goes back to these offsets. Raises KafkaException."""

        def seek() -> None:
            for place, offset in places.items():
                self._consumer.seek(TopicPartition(*place, offset))

        await self._on_thread(seek)

    async def lag(self, places: Mapping[Place, int | None]) -> dict[Place, int]:
        """Messages not done, from what the broker last told us; a partition of which it told nothing is left out.

        ``places`` has the offset of the first of each that is not done, None where none came yet. Where there was
        trouble, this also looks whether it is over.
        """
        return await self._on_thread(lambda: self._lag(places))

    async def close(self) -> None:
        """Commits and leaves the group."""
        await self._on_thread(self._consumer.close)
        self._thread.shutdown(wait=False)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._thread, work)

    def _subscribe(self) -> None:
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _take_done(self) -> dict[Place, int]:
        """On the loop's side: the thread never touches what lanes write to."""
        done, self._done = self._done, {}
        return done

    def _store(self, done: Mapping[Place, int]) -> None:
        for place, offset in done.items():
            try:
                self._consumer.store_offsets(offsets=[TopicPartition(*place, offset)])
            except KafkaException:
                # The partition is no longer ours: whoever has it does these messages again.
                _log.info("partition %d of %s was gone before its work was done", place[1], place[0])

    def _poll(self, done: Mapping[Place, int], pause: Collection[Place], resume: Collection[Place]) -> list[Message]:
        self._store(done)
        if pause:
            self._consumer.pause(_partitions(pause))
        if resume:
            self._consumer.resume(_partitions(resume))
        self._batch = []
        message = self._consumer.poll(POLL)
        while message is not None:
            if error := message.error():
                self._complain(error)
            else:
                self._batch.append(message)
            if len(self._batch) >= self._most:
                break
            message = self._consumer.poll(0)
        return self._batch

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._store(self._tell(self._taken, _places(partitions)))
        consumer.incremental_assign(partitions)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(partitions)
        self._store(self._tell(self._given_up, _places(partitions)))
        consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Somebody else has them already."""
        self._revoked(consumer, partitions)

    def _forget(self, partitions: list[TopicPartition]) -> None:
        """Messages of this very poll that no lane has yet must not reach one that is made later."""
        gone = _places(partitions)
        self._batch = [message for message in self._batch if (message.topic(), message.partition()) not in gone]

    def _tell(
        self, what: Callable[[Collection[Place]], Awaitable[None]], places: Collection[Place]
    ) -> dict[Place, int]:
        """Returns what was done until then."""

        async def told() -> dict[Place, int]:
            await what(places)
            return self._take_done()

        return asyncio.run_coroutine_threadsafe(told(), self._loop).result()

    def _complain(self, error: KafkaError) -> None:
        if error.fatal():
            raise KafkaException(error)
        self.trouble = str(Away("Kafka", error.name() or "trouble"))
        _log.warning("%s", self.trouble)

    @staticmethod
    def _committed(error: KafkaError | None, _: list[TopicPartition]) -> None:
        # What could not be committed is stored still, and goes with the next commit.
        if error is not None and error.code() != KafkaError._NO_OFFSET:
            _log.warning("Kafka did not take the offsets: %s", error.name())

    def _lag(self, places: Mapping[Place, int | None]) -> dict[Place, int]:
        found = {}
        if self.trouble is not None:
            with contextlib.suppress(KafkaException):
                topics = self._consumer.list_topics(timeout=2).topics
                if all(name in topics and topics[name].error is None for name in self._topics):
                    self.trouble = None
        for place, next_offset in places.items():
            partition = TopicPartition(*place)
            low, high = self._consumer.get_watermark_offsets(partition, cached=True) or (OFFSET_INVALID, OFFSET_INVALID)
            if high < 0:
                continue
            found[place] = max(0, high - (next_offset if next_offset is not None else self._start(partition, low)))
        return found

    def _start(self, partition: TopicPartition, low: int) -> int:
        (at,) = self._consumer.position([partition])
        return at.offset if at.offset >= 0 else max(low, 0)


def _partitions(places: Collection[Place]) -> list[TopicPartition]:
    return [TopicPartition(*place) for place in places]


def _places(partitions: Collection[TopicPartition]) -> set[Place]:
    return {(partition.topic, partition.partition) for partition in partitions}
