"""The sink: batches of changes from Kafka into ClickHouse.

A batch is written when it has 10,000 rows or is a second old, one insert a table. Then, and only then, the offsets
move; a process that dies in between writes the same rows again, which the engine collapses to one, the newest version
of each record. While ClickHouse is away the batch waits, all partitions are paused, and the process stays in its group.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from confluent_kafka import Message
from redis.asyncio import Redis

from kernel_cdc import metrics
from kernel_cdc.health import serving
from kernel_cdc.settings import SinkSettings
from kernel_cdc.sink.batch import Batch, Place
from kernel_cdc.sink.changes import TOPIC, NotAChange, read
from kernel_cdc.sink.clickhouse import Away, ClickHouse, Refused
from kernel_cdc.sink.last_sync import LastSync
from kernel_cdc.sink.stopped import StoppedTables
from kernel_common.events import outage
from kernel_common.events.deadletters import DeadLetters
from kernel_common.events.feed import Feed

GROUP = "kernel.cdc-sink"
MOST_BYTES = 32_000_000
"""A batch is written at this size too, however few rows it has."""
AGAIN = 5.0
"""Seconds after which a stopped table is tried again, and lag is measured."""
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
_POLLED = 2_000

_log = logging.getLogger(__name__)


class Sink:
    """One process's part of the work: other processes of the group have the other partitions."""

    def __init__(self, settings: SinkSettings) -> None:
        self._settings = settings
        self._pending: dict[str, Batch] = {}
        self._begun = 0.0
        """When the oldest pending row came, on the loop's clock."""
        self._read: dict[Place, int] = {}
        """The offset behind the last message of each partition that was taken in."""
        self._places: set[Place] = set()
        self._paused: set[Place] = set()
        self._unread: deque[Message] = deque()
        """Messages that were polled and not taken in."""
        self._stopped = StoppedTables()
        self._away: str | None = None
        self._feed: Feed | None = None

    @property
    def trouble(self) -> str | None:
        """Why rows don't arrive, for /ready; None: they do."""
        return self._away or self._stopped.trouble or (self._feed.trouble if self._feed else "Kafka: not connected yet")

    async def run(self, stop: asyncio.Event) -> None:
        """Works until ``stop`` is set, and answers probes meanwhile. What is not written then is read again."""
        settings = self._settings
        valkey = Redis.from_url(settings.valkey_url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2)
        self._last_sync = LastSync(valkey)
        self._dead_letters = DeadLetters(settings.kafka_client(), GROUP)
        try:
            async with (
                serving(settings.cdc_host, settings.cdc_port, lambda: self.trouble),
                ClickHouse(
                    settings.clickhouse_url.get_secret_value(), settings.clickhouse_database
                ) as self._clickhouse,
                self._fed() as feed,
                asyncio.TaskGroup() as beside,
            ):
                telling = beside.create_task(self._last_sync.run())
                try:
                    await self._work(feed, stop)
                finally:
                    telling.cancel()
            await self._last_sync.tell()
        finally:
            await self._dead_letters.close()
            await valkey.aclose()

    @asynccontextmanager
    async def _fed(self) -> AsyncIterator[Feed]:
        self._feed = feed = Feed(
            self._settings.kafka_client(),
            [TOPIC],
            group=GROUP,
            session_timeout=self._settings.cdc_sink_session_sec,
            taken=self._taken,
            given_up=self._given_up,
            most=_POLLED,
        )
        try:
            await feed.start()
            yield feed
        finally:
            await feed.close()
            self._feed = None

    async def _work(self, feed: Feed, stop: asyncio.Event) -> None:
        clock = asyncio.get_running_loop().time
        look_at = clock()
        while not stop.is_set():
            paused = list(self._paused)
            self._paused.clear()
            self._unread += await feed.poll(resume=paused)
            while self._unread:
                await self._take(feed, self._unread.popleft(), stop)
            if self._is_due(clock()):
                await self._flush(feed, stop)
            if clock() >= look_at:
                look_at = clock() + AGAIN
                await self._try_stopped(feed)
                for (_, partition), lag in (await feed.lag(dict.fromkeys(self._places) | self._read)).items():
                    metrics.sink_lag_messages.labels(str(partition)).set(lag)

    async def _take(self, feed: Feed, message: Message, stop: asyncio.Event) -> None:
        place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
        if place not in self._places:
            return
        try:
            change = read(message)
        except NotAChange as problem:
            _log.error("dead letter: partition %d, offset %d: %s", place[1], offset, problem)
            await self._bury(feed, message, str(problem), stop)
            change = None
        if change is not None:
            if change.table in self._stopped:
                self._stopped.hold(change.table, place, offset)
            else:
                if not self._pending:
                    self._begun = asyncio.get_running_loop().time()
                self._pending.setdefault(change.table, Batch()).add(change, place, offset)
        if place in self._places:
            self._read[place] = offset + 1

    async def _bury(self, feed: Feed, message: Message, problem: str, stop: asyncio.Event) -> None:
        wait = FIRST_WAIT
        while not stop.is_set():
            try:
                await self._dead_letters.bury(message, problem, 0)
            except outage.Away as away:
                wait = await self._wait(feed, str(away), wait, stop)
            else:
                self._away = None
                return

    def _is_due(self, now: float) -> bool:
        batches = self._pending.values()
        return bool(batches) and (
            now - self._begun >= self._settings.cdc_sink_flush_sec
            or sum(len(batch.lines) for batch in batches) >= self._settings.cdc_sink_batch_rows
            or sum(batch.size for batch in batches) >= MOST_BYTES
        )

    async def _flush(self, feed: Feed, stop: asyncio.Event) -> None:
        """Writes what is pending, however long ClickHouse is away, and lets the offsets move."""
        for table in list(self._pending):
            batch = self._pending[table]
            if not await self._written(feed, table, batch, stop):
                return
            del self._pending[table]
        for place, offset in self._read.items():
            feed.done_up_to(place, self._stopped.limit(place, offset))

    async def _written(self, feed: Feed, table: str, batch: Batch, stop: asyncio.Event) -> bool:
        """True when the rows are in the table, or it is stopped; False when the process ends first."""
        wait = FIRST_WAIT
        while not stop.is_set():
            try:
                with metrics.sink_insert_seconds.time():
                    await self._clickhouse.insert(table, batch.lines, batch.token)
            except Away as away:
                wait = await self._wait(feed, f"ClickHouse: {away}", wait, stop)
                continue
            except Refused as refused:
                self._stopped.stop(table, str(refused), batch)
            else:
                self._applied(table, batch)
            self._away = None
            return True
        return False

    def _applied(self, table: str, batch: Batch) -> None:
        metrics.sink_rows.labels(table).inc(len(batch.lines))
        self._last_sync.applied(table, batch.newest)
        committed = datetime.fromisoformat(batch.newest)
        metrics.sink_lag_seconds.set(max(0.0, (datetime.now(UTC) - committed).total_seconds()))

    async def _wait(self, feed: Feed, reason: str, wait: float, stop: asyncio.Event) -> float:
        """Waits with everything paused, and stays in the group; how long to wait next time."""
        if self._away is None:
            _log.warning("waiting for %s", reason)
        self._away = reason
        until = asyncio.get_running_loop().time() + wait * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load
        while not stop.is_set() and asyncio.get_running_loop().time() < until:
            pause = self._places - self._paused
            self._paused |= pause
            self._unread += await feed.poll(pause=pause)
        return min(wait * 2, LONGEST_WAIT)

    async def _try_stopped(self, feed: Feed) -> None:
        for table, stopped in self._stopped.items():
            try:
                await self._clickhouse.insert(table, stopped.refused.lines, stopped.refused.token)
            except Refused as refused:
                stopped.reason = str(refused)
            except Away:
                return  # the next flush will wait for it
            else:
                self._applied(table, stopped.refused)
                back = self._stopped.go_on(table)
                await feed.rewind(back)
                self._read |= back

    async def _taken(self, places: Collection[Place]) -> None:
        self._places |= set(places)

    async def _given_up(self, places: Collection[Place]) -> None:
        """Pending rows of theirs may still be written, as the same rows will be by who has them now."""
        self._stopped.forget(places)
        self._unread = deque(m for m in self._unread if (m.topic(), m.partition()) not in set(places))
        for place in places:
            self._places.discard(place)
            self._paused.discard(place)
            self._read.pop(place, None)
