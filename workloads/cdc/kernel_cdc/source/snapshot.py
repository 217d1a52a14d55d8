"""Captured tables read beside the stream, as rows ``s``, and in the end ``w``: whoever was not among them is gone.

Tables are read one after the other, by primary key, a chunk at a time; how far Kafka has a table is written down after
each chunk, and there a process that was killed goes on. The stream comes first: chunks are only sent while half of what
may wait for Kafka is free, and between any two of them the stream has its turn.

A row may be older than what the stream has said about its record already; its ``updated_at`` tells. When rows may be
read at all is the matter of ``opening``.
"""

import asyncio
import json
import logging
import time

import asyncpg
from psycopg.sql import SQL, Composable, Identifier, Literal

from kernel_cdc import metrics
from kernel_cdc.source.chunks import ROWS, Chunk, ChunkReader, TableUnreadable, fetch
from kernel_cdc.source.ledger import Due, Key, Ledger
from kernel_cdc.source.opening import Opening, open_at_once
from kernel_cdc.source.pgoutput import Relation
from kernel_cdc.source.publisher import Publisher
from kernel_cdc.source.replication import StreamUnavailable
from kernel_cdc.source.rows import TOPIC, CapturedTable, Commit, NotAModel
from kernel_cdc.source.values import EPOCH_SECONDS, iso
from kernel_common.database import DatabaseUnavailable

AT_WORK_SECONDS = 0.25
"""Between two looks while something waits to be read."""
SOONEST_SECONDS, LATEST_SECONDS = 2.0, 300.0
"""After which a table that could not be read is tried again: soon at first, then less and less often."""
_CHUNKS_A_ROUND = 20

log = logging.getLogger(__name__)


class Snapshots:
    """Work for one connection of the stream: it ends with it."""

    def __init__(
        self, pool: asyncpg.Pool, reader: ChunkReader, publisher: Publisher, ledger: Ledger, look: float
    ) -> None:
        """``look``: seconds between two looks at what is due."""
        self._pool, self._reader, self._publisher, self._ledger, self._look = pool, reader, publisher, ledger, look
        self._opening: Opening | None = None
        self._later: dict[str, tuple[float, float]] = {}
        """Tables that could not be read: when they are tried again, and how long they waited for that."""

    async def run(self) -> None:
        """Until it is cancelled. Raises PublishFailed."""
        while True:
            try:
                at_work = await self._round()
            except (DatabaseUnavailable, StreamUnavailable) as error:
                log.warning("tables are not read: %s", error)
                at_work = False
            await asyncio.sleep(AT_WORK_SECONDS if at_work else self._look)

    async def _round(self) -> bool:
        """Goes one step on with everything; whether there is more."""
        await self._ledger.compare()
        due = await self._ledger.tables()
        if ahead := [table for table in due if table.lsn is None and table.why == "lag spike"]:
            await open_at_once(self._pool, self._ledger, ahead)
        waiting = [table for table in due if table.lsn is None and table.why != "lag spike"]
        if self._opening is not None:
            if await self._opening.opened(self._pool, self._ledger):
                self._opening = None
        elif waiting:
            self._opening = await Opening.of(self._pool, waiting)
        now = time.monotonic()
        ready = [t for t in due if t.lsn is not None and self._later.get(t.name, (0.0, 0.0))[0] <= now]
        if ready:
            await self._go_on(ready[0])
        return bool(due)

    async def _go_on(self, due: Due) -> None:
        try:
            for _ in range(_CHUNKS_A_ROUND):
                next_due = await self._one_chunk(due)
                if next_due is None:
                    return
                due = next_due
        except (TableUnreadable, NotAModel) as error:
            _, waited = self._later.get(due.name, (0.0, 0.0))
            wait = min(max(waited * 2, SOONEST_SECONDS), LATEST_SECONDS)
            self._later[due.name] = (time.monotonic() + wait, wait)
            log.error("%s is not read, others are; tried again in %.0f s: %s", due.name, wait, error)
        else:
            self._later.pop(due.name, None)

    async def _one_chunk(self, due: Due) -> Due | None:
        """Publishes the next rows; None when there is no more to do for this request."""
        await self._publisher.room()
        chunk = await self._read(due)
        columns = [column.name for column in chunk.columns]
        batch = self._publisher.batch()
        table = CapturedTable(_relation(due, chunk), batch.send)
        commit = _now()
        lsn = due.lsn or 0
        for row in chunk.rows:
            table.read(commit, lsn, row)
        await batch.acknowledged()
        metrics.source_snapshot_rows.inc(len(chunk.rows))
        key = due.done_up_to
        if chunk.rows:
            tenant, record = (chunk.rows[-1][columns.index(name)] or b"" for name in ("tenant_id", "id"))
            key = (tenant.decode(), record.decode())
        if not await self._ledger.progress(due, key):
            log.info("%s has become due again", due.name)
            return None
        if not chunk.last:
            return Due(due.name, due.why, due.requested_at, due.lsn, due.sweeps, key)
        if due.sweeps:
            await self._sweep(due)
        if await self._ledger.finish(due):
            metrics.source_snapshots.labels(due.why).inc()
            log.info("%s was read (%s)", due.name, due.why)
        return None

    async def _read(self, due: Due) -> Chunk:
        schema, _, name = due.name.partition(".")
        query = SQL("SELECT * FROM {} WHERE {} ORDER BY tenant_id, id LIMIT {}").format(
            Identifier(schema, name), _behind(due.done_up_to), Literal(ROWS)
        )
        async with self._reader.transaction() as cursor:
            return await fetch(cursor, query, self._publisher.portion)

    async def _sweep(self, due: Due) -> None:
        """To every partition, behind all rows."""
        while not (partitions := self._publisher.partitions):
            await self._publisher.ask()
            await asyncio.sleep(0.1)
        schema, _, model = due.name.partition(".")
        module, batch = schema.removeprefix("module_"), self._publisher.batch()
        for partition in range(partitions):
            value = {
                "op": "w",
                "module": module,
                "model": model,
                "lsn": due.lsn,
                "partition": partition,
                "partitions": partitions,
                "committedAt": _now().text.decode(),
            }
            batch.send(
                TOPIC,
                f"{module}.{model}".encode(),
                json.dumps(value, separators=(",", ":")).encode(),
                [("type", b"data.table.swept"), ("module", module.encode()), ("model", model.encode())],
                partition,
            )
        await batch.acknowledged()


def _behind(key: Key | None) -> Composable:
    if key is None:
        return SQL("true")
    return SQL("(tenant_id, id) > ({}, {})").format(*map(Literal, key))


def _relation(due: Due, chunk: Chunk) -> Relation:
    schema, _, name = due.name.partition(".")
    return Relation(0, schema, name, chunk.columns)


def _now() -> Commit:
    at = int((time.time() - EPOCH_SECONDS) * 1_000_000)
    return Commit(at, iso(at))
