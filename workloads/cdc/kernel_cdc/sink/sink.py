"""The sink: batches of changes from Kafka into ClickHouse.

A batch is written when it has 10,000 rows or is a second old, one insert a table. Then, and only then, the offsets
move; a process that dies in between writes the same rows again, which the engine collapses to one, the newest version
of each record. While ClickHouse is away the batch waits, all partitions are paused, and the process stays in its group.

Of two versions with the same ``updated_at`` the engine keeps the one that was written last, and a record that was read
again has to win over the change that it was read after. So rows of a partition are written in its order, all
of them when they are written again (``Batch.token``), and not at all once the partition is another's.

A sweep is done behind the rows before it, and before the rows after it. Done again, it finds nothing to do: what came
later is not older than it.
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
from kernel_cdc.sink.changes import TOPIC, Change, Heartbeat, NotAChange, Sweep, read
from kernel_cdc.sink.clickhouse import Away, ClickHouse, Refused
from kernel_cdc.sink.freshness import Freshness
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
        self._beats: dict[Place, Heartbeat] = {}
        """The newest of each partition; told when what came before it is written."""
        self._begun = 0.0
        """When the oldest pending row or heartbeat came, on the loop's clock."""
        self._read: dict[Place, int] = {}
        """The offset behind the last message of each partition that was taken in."""
        self._places: dict[Place, object] = {}
        """What is ours; the value is another one when a partition was given up and has come back."""
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
        self._freshness = Freshness(valkey)
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
                telling = beside.create_task(self._freshness.run())
                try:
                    await self._work(feed, stop)
                finally:
                    telling.cancel()
            await self._freshness.tell()
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
            polled = await feed.poll(resume=paused)
            self._unread += polled
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
        ours = self._places.get(place)
        if ours is None:
            return
        try:
            said = read(message)
        except NotAChange as problem:
            _log.error("dead letter: partition %d, offset %d: %s", place[1], offset, problem)
            await self._bury(feed, message, str(problem), stop)
            said = None
        if isinstance(said, Change | Sweep) and self._is_swept(said.table, place):
            await self._flush(feed, stop)
        if self._places.get(place) is not ours or stop.is_set():
            return  # it is read again, here or elsewhere
        if said is not None:
            self._add(said, place, offset)
        self._read[place] = offset + 1

    def _is_swept(self, table: str, place: Place) -> bool:
        return table in self._pending and self._pending[table].is_swept(place)

    def _add(self, said: Change | Sweep | Heartbeat, place: Place, offset: int) -> None:
        if not self._pending and not self._beats:
            self._begun = asyncio.get_running_loop().time()
        if isinstance(said, Heartbeat):
            self._beats[place] = said
        elif said.table in self._stopped:
            self._stopped.hold(said.table, place, offset)
        elif isinstance(said, Sweep):
            self._pending.setdefault(said.table, Batch()).add_sweep(said, place, offset)
        else:
            self._pending.setdefault(said.table, Batch()).add(said, place, offset)

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
        return bool(batches or self._beats) and (
            now - self._begun >= self._settings.cdc_sink_flush_sec
            or sum(batch.rows for batch in batches) >= self._settings.cdc_sink_batch_rows
            or sum(batch.size for batch in batches) >= MOST_BYTES
        )

    async def _flush(self, feed: Feed, stop: asyncio.Event) -> None:
        """Writes what is pending, however long ClickHouse is away, and lets the offsets move."""
        for table in list(self._pending):
            if not await self._written(feed, table, self._pending[table], stop):
                return
            del self._pending[table]
        for place, offset in self._read.items():
            feed.done_up_to(place, self._stopped.limit(place, offset))
        self._freshness.passed(self._stopped.held, {place[1]: beat for place, beat in self._beats.items()})
        self._beats.clear()

    async def _written(self, feed: Feed, table: str, batch: Batch, stop: asyncio.Event) -> bool:
        """True when the batch is in the table, or it is stopped; False when the process ends first."""
        wait = FIRST_WAIT
        while not stop.is_set():
            try:
                await self._write(table, batch)
            except Away as away:
                wait = await self._wait(feed, f"ClickHouse: {away}", wait, stop)
                continue
            except Refused as refused:
                self._stopped.stop(table, str(refused), batch)
            self._away = None
            return True
        return False

    async def _write(self, table: str, batch: Batch) -> None:
        """Rows, then what is swept behind them. Raises Away, Refused."""
        if batch.rows:
            with metrics.sink_insert_seconds.time():
                await self._clickhouse.insert(table, batch.lines, batch.token)
            metrics.sink_rows.labels(table).inc(batch.rows)
        for (lsn, partitions), swept in batch.sweeps.items():
            await self._clickhouse.sweep(table, lsn, partitions, swept)
            metrics.sink_sweeps.labels(table).inc(len(swept))
            _log.info("swept %s: partitions %s of %d, from before %d", table, swept, partitions, lsn)
        self._freshness.applied(table, [partition for _, partition in batch.parts], batch.newest)
        if batch.newest:
            committed = datetime.fromisoformat(batch.newest)
            metrics.sink_lag_seconds.set(max(0.0, (datetime.now(UTC) - committed).total_seconds()))

    async def _wait(self, feed: Feed, reason: str, wait: float, stop: asyncio.Event) -> float:
        """Waits with everything paused, and stays in the group; how long to wait next time."""
        if self._away is None:
            _log.warning("waiting for %s", reason)
        self._away = reason
        until = asyncio.get_running_loop().time() + wait * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load
        while not stop.is_set() and asyncio.get_running_loop().time() < until:
            pause = self._places.keys() - self._paused
            self._paused |= pause
            polled = await feed.poll(pause=pause)
            self._unread += polled
        return min(wait * 2, LONGEST_WAIT)

    async def _try_stopped(self, feed: Feed) -> None:
        for table, stopped in self._stopped.items():
            try:
                await self._write(table, stopped.refused)
            except Refused as refused:
                stopped.reason = str(refused)
            except Away:
                return  # the next flush will wait for it
            else:
                back = self._stopped.go_on(table)
                await feed.rewind(back)
                self._read |= back
                for place in back:
                    self._beats.pop(place, None)

    async def _taken(self, places: Collection[Place]) -> None:
        self._places |= {place: object() for place in places}

    async def _given_up(self, places: Collection[Place]) -> None:
        """Whoever has them now begins where they are not written."""
        self._stopped.forget(places)
        self._unread = deque(m for m in self._unread if (m.topic(), m.partition()) not in set(places))
        for batch in self._pending.values():
            batch.drop(places)
        for place in places:
            self._places.pop(place, None)
            self._paused.discard(place)
            self._beats.pop(place, None)
            self._read.pop(place, None)
