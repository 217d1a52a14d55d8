"""The source's process: streams the log into Kafka, again and again, until it is told to stop.

Four loops. One reads and publishes. One tells PostgreSQL each second what may be forgotten, also while reading
stands still because Kafka is away, so that PostgreSQL does not take us for dead. One reads tables beside the stream.
One writes a sign of life into the log and looks at the slot. When a connection breaks all that matters is in the slot
and in ``kernel.cdc_snapshots``: the next one goes on where they say.

What happens in which order, so that a crash at any step loses nothing:

1. A slot is missing or lost. All captured tables and the outbox are written down as due; the lost slot is dropped; a
   new one is made (``slot``).
2. The stream is opened. Whoever has it is alone: everything below is its work, and ends with it.
3. Snapshots that were ahead of where the stream now begins start over (``opening`` says why).
4. The outbox is published again, if it is due (``replay``).
5. The stream is read. Beside it tables are read: those of step 1, those that came into the publication, those that
   somebody asked for (``snapshot``).

A restart finds the slot in place, what is due in the table, and goes on at step 2.
"""

import asyncio
import json
import logging
import random
import secrets
import time
from contextlib import suppress
from datetime import datetime
from functools import partial

import asyncpg

from kernel_cdc import metrics
from kernel_cdc.health import serving
from kernel_cdc.settings import SettingsError, SourceSettings
from kernel_cdc.source import slot
from kernel_cdc.source.chunks import ChunkReader
from kernel_cdc.source.decoder import Decoder
from kernel_cdc.source.ledger import Ledger
from kernel_cdc.source.publisher import Position, Publisher, PublishFailed
from kernel_cdc.source.replay import OutboxReplay
from kernel_cdc.source.replication import KEEPALIVE, WAL, ReplicationStream, StreamUnavailable
from kernel_cdc.source.rows import TOPIC
from kernel_cdc.source.snapshot import Snapshots
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
        self._token = f"{secrets.token_hex(16)} "
        """Stands in our signs of life, because every login may write some."""
        self._calm = True
        """The stream is not behind, or what that asks for was done."""
        metrics.source_lag.set_function(self._lag)
        metrics.source_pending.set_function(lambda: self._publisher.pending)

    @property
    def trouble(self) -> str | None:
        return self._reason or self._publisher.trouble

    async def run(self, stop: asyncio.Event) -> None:
        """Works until ``stop`` is set. Raises SettingsError."""
        try:
            pool = await open_pool(self._url, application="kernel-cdc", max_size=4)
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
        wait, ledger = SHORTEST_WAIT, Ledger(pool)
        while True:
            began = time.monotonic()
            try:
                await slot.ensure(pool, self._url, ledger)
                await self._stream(pool, ledger)
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

    async def _stream(self, pool: asyncpg.Pool, ledger: Ledger) -> None:
        """One connection, until it breaks. On the way out what was sent is waited for and confirmed."""
        stream = await ReplicationStream.open(self._url, slot.SLOT, slot.PUBLICATIONS)
        publisher, reader = self._publisher, ChunkReader(self._url)
        self._position = publisher.begin()
        tasks = [asyncio.create_task(self._report(stream))]
        try:
            self._reason = "publishing the outbox again"
            await ledger.stream_begins(slot.SLOT)
            await OutboxReplay(reader, publisher, ledger).run()
            self._reason = None
            metrics.source_connected.set(1)
            log.info("streaming")
            snapshots = Snapshots(pool, reader, publisher, ledger, min(self._settings.cdc_heartbeat_sec, LONGEST_WAIT))
            tasks.append(asyncio.create_task(snapshots.run()))
            await self._read(stream, tasks[-1], ledger)
        except asyncio.CancelledError:
            await _ended(tasks[1:])
            with suppress(PublishFailed, StreamUnavailable):
                await publisher.settled(DRAIN_SECONDS)
                stream.report(self._position.confirmed)
            raise
        finally:
            await _ended(tasks)
            await reader.close()
            await stream.close()

    async def _read(self, stream: ReplicationStream, beside: asyncio.Task[None], ledger: Ledger) -> None:
        """``beside``: what fails there ends the reading too."""
        publisher = self._publisher
        decoder = Decoder(publisher.send, partial(self._heard, ledger), ledger.floors)
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
            if beside.done():
                beside.result()
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

    def _heard(self, ledger: Ledger, lsn: int, prefix: str, content: bytes) -> None:
        """Our sign of life came back. All that was committed before it is on its way to Kafka before these messages, of
        which each partition gets one; unless tables still have to be read for that."""
        said = content.decode(errors="replace")
        if prefix != slot.BEAT or not said.startswith(self._token):
            return
        written = said.removeprefix(self._token)
        partitions = self._publisher.partitions if ledger.complete else 0
        for partition in range(partitions):
            beat = {"op": "h", "partition": partition, "partitions": partitions, "committedAt": written, "lsn": lsn}
            value = json.dumps(beat, separators=(",", ":")).encode()
            self._publisher.send(TOPIC, b"heartbeat", value, [("type", b"data.heartbeat")], partition)
        self._publisher.mark(lsn, datetime.fromisoformat(written).timestamp())

    async def _report(self, stream: ReplicationStream) -> None:
        with suppress(StreamUnavailable):  # reading finds out too
            while True:
                await asyncio.sleep(REPORT_SECONDS)
                stream.report(self._position.confirmed)
                if self._beat and self._position.confirmed >= self._beat[0]:
                    self._beat = None

    async def _watch(self, pool: asyncpg.Pool) -> None:
        bloat, ledger = self._settings.cdc_wal_bloat_alert_gb * 1e9, Ledger(pool)
        while True:
            with suppress(DatabaseUnavailable):
                reached, now = await slot.beat(pool, self._token), time.time()
                self._beat = self._beat or (reached, now)
                found = await slot.observe(pool)
                metrics.source_retained.set(found.retained)
                metrics.source_bloat.set(found.retained > bloat)
                await self._look_behind(ledger, found.unreserved)
            await self._publisher.ask()
            await asyncio.sleep(self._settings.cdc_heartbeat_sec)

    async def _look_behind(self, ledger: Ledger, unreserved: bool) -> None:
        """Has the tables read when the stream is far behind, or when PostgreSQL is about to remove what it needs; once,
        until it is half as far behind. It has to be working: while a server is away, nothing can be read ahead."""
        most, lag = self._settings.cdc_lag_snapshot_sec, self._lag()
        if lag < most / 2 and not unreserved:
            self._calm = True
        elif self._calm and self.trouble is None and (lag > most or unreserved):
            self._calm = False
            if tables := await ledger.lag_spike(time.time() - lag):
                log.warning("the stream is %.0f s behind: %d tables are read ahead of it", lag, len(tables))

    def _lag(self) -> float:
        """Of what came last; while a sign of life is overdue, how old that is."""
        age = time.time() - self._beat[1] if self._beat else 0.0
        return max(self._position.lag, age if age > OVERDUE_SECONDS else 0.0)


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
