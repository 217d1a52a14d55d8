"""The source's process: streams the log into Kafka, again and again, until it is told to stop.

Three loops. One reads and publishes. One tells PostgreSQL each second what may be forgotten, also while reading
stands still because Kafka is away, so that PostgreSQL does not take us for dead. One writes a sign of life into the log
and looks at the slot. When a connection breaks all that matters is in the slot: the next one goes on where
it was confirmed.
"""

import asyncio
import logging
import random
import time
from contextlib import suppress

import asyncpg

from kernel_cdc import metrics
from kernel_cdc.health import serving
from kernel_cdc.settings import SettingsError, SourceSettings
from kernel_cdc.source import slot
from kernel_cdc.source.decoder import Decoder
from kernel_cdc.source.publisher import Position, Publisher, PublishFailed
from kernel_cdc.source.replication import KEEPALIVE, WAL, ReplicationStream, StreamUnavailable
from kernel_common.database import DatabaseUnavailable, open_pool

REPORT_SECONDS = 1.0
SHORTEST_WAIT, LONGEST_WAIT = 0.2, 5.0
DRAIN_SECONDS = 10.0
OVERDUE_SECONDS = 3.0
"""A sign of life takes a moment: the server flushes it with its next write, and we confirm each second."""
_BURST = 400
"""Messages between two looks at everything else."""

log = logging.getLogger(__name__)


class Source:
    """``trouble`` is None while the log is streamed and Kafka takes it."""

    def __init__(self, settings: SourceSettings) -> None:
        self._settings = settings
        self._url = settings.database_url.get_secret_value()
        self._publisher = Publisher(settings.kafka_client(), settings.cdc_source_buffer_mb * 1_000_000)
        self._position = Position()
        self._reason: str | None = "starting; a slot that has to be made waits for the transactions that are open"
        self._beat: tuple[int, float] | None = None
        """Where in the log the oldest sign of life is that did not come back yet, and when it was written."""
        metrics.source_lag.set_function(self._lag)
        metrics.source_pending.set_function(lambda: self._publisher.pending)

    @property
    def trouble(self) -> str | None:
        return self._reason or self._publisher.trouble

    async def run(self, stop: asyncio.Event) -> None:
        """Works until ``stop`` is set. Raises SettingsError."""
        try:
            pool = await open_pool(self._url, application="kernel-cdc", max_size=2)
        except ValueError as error:
            raise SettingsError(f"DATABASE_URL: {error}") from None
        try:
            async with (
                serving(self._settings.cdc_host, self._settings.cdc_port, lambda: self.trouble),
                asyncio.TaskGroup() as group,
            ):
                tasks = [group.create_task(self._stream_on(pool)), group.create_task(self._watch(pool))]
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            pool.terminate()

    async def _stream_on(self, pool: asyncpg.Pool) -> None:
        """Streams, and again after each failure: soon at first, then less and less often."""
        wait = SHORTEST_WAIT
        while True:
            began = time.monotonic()
            try:
                await slot.ensure(pool, self._url)
                await self._stream()
            except (StreamUnavailable, DatabaseUnavailable, PublishFailed) as error:
                reason = f"PostgreSQL: {error}" if isinstance(error, DatabaseUnavailable) else str(error)
                if reason != self._reason:
                    log.warning("not streaming: %s", reason)
                self._reason = reason
                if isinstance(error, PublishFailed):
                    await self._publisher.renew()
            finally:
                metrics.source_connected.set(0)
            wait = SHORTEST_WAIT if time.monotonic() - began > LONGEST_WAIT else min(wait * 2, LONGEST_WAIT)
            await asyncio.sleep(wait * random.uniform(0.7, 1.3))  # noqa: S311 - no secret

    async def _stream(self) -> None:
        """One connection, until it breaks. On the way out what was sent is waited for and confirmed."""
        stream = await ReplicationStream.open(self._url, slot.SLOT, slot.PUBLICATIONS)
        self._position = self._publisher.begin()
        self._reason = None
        metrics.source_connected.set(1)
        log.info("streaming")
        reporting = asyncio.create_task(self._report(stream))
        try:
            await self._read(stream)
        except asyncio.CancelledError:
            with suppress(PublishFailed, StreamUnavailable):
                await self._publisher.settled(DRAIN_SECONDS)
                stream.report(self._position.confirmed)
            raise
        finally:
            reporting.cancel()
            await stream.close()

    async def _read(self, stream: ReplicationStream) -> None:
        publisher = self._publisher
        decoder = Decoder(publisher.send)
        counted = 0
        while True:
            arrived = True
            for _ in range(_BURST):
                message = stream.take()
                if message is None:
                    arrived = False
                    break
                if message[0] == WAL:
                    end = decoder.feed(message)
                    if end is not None:
                        publisher.mark(end, decoder.committed_at)
                        stream.received = end
                    if publisher.full:
                        break
                elif message[0] == KEEPALIVE:
                    self._alive(stream, decoder, message)
            publisher.settle()
            if decoder.changes > counted:
                metrics.source_read.inc(decoder.changes - counted)
                counted = decoder.changes
            while publisher.full:
                await asyncio.sleep(0.005)
                publisher.settle()
            if arrived:
                await asyncio.sleep(0)
            else:
                publisher.hurry()
                # Kafka's answers come without a sign; while some are due they are looked for often.
                await stream.readable(0.005 if publisher.pending else 0.5)

    def _alive(self, stream: ReplicationStream, decoder: Decoder, message: bytes) -> None:
        """A keepalive names a place before which everything was sent: between transactions as good as an end."""
        if not decoder.in_transaction:
            reached = int.from_bytes(message[1:9], "big")
            stream.received = max(stream.received, reached)
            self._publisher.mark(reached, 0)
        if message[17]:
            stream.report(self._position.confirmed)

    async def _report(self, stream: ReplicationStream) -> None:
        with suppress(StreamUnavailable):  # reading finds out too
            while True:
                await asyncio.sleep(REPORT_SECONDS)
                stream.report(self._position.confirmed)
                if self._beat and self._position.confirmed >= self._beat[0]:
                    self._beat = None

    async def _watch(self, pool: asyncpg.Pool) -> None:
        bloat = self._settings.cdc_wal_bloat_alert_gb * 1e9
        while True:
            with suppress(DatabaseUnavailable):
                reached, now = await slot.beat(pool), time.time()
                self._beat = self._beat or (reached, now)
                found = await slot.observe(pool)
                metrics.source_retained.set(found.retained)
                metrics.source_bloat.set(found.retained > bloat)
                metrics.source_snapshot_due.set(found.snapshot_due)
            await self._publisher.ask()
            await asyncio.sleep(self._settings.cdc_heartbeat_sec)

    def _lag(self) -> float:
        """Of what came last; while a sign of life is overdue, how old that is."""
        age = time.time() - self._beat[1] if self._beat else 0.0
        return max(self._position.lag, age if age > OVERDUE_SECONDS else 0.0)
