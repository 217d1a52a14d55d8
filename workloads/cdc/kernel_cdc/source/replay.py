"""The outbox published again, before anything of a new slot's stream is.

Events that were committed before the slot was made never come from it. Nobody knows which of them Kafka has, so all
that the outbox still holds are published, in (created_at, id) order: days that are attached, and days that the operator
has detached and keeps, because it drops none while ``kernel.outbox`` is due. Consumers know an event by its id.

Up to the newest event that is there when it begins: what is written later comes from the stream.
"""

import logging

from psycopg import AsyncClientCursor
from psycopg.sql import SQL, Composable, Identifier, Literal

from kernel_cdc.source.chunks import ROWS, Chunk, ChunkReader, TableUnreadable, fetch
from kernel_cdc.source.ledger import OUTBOX, Key, Ledger
from kernel_cdc.source.outbox import SCHEMA, OutboxTable
from kernel_cdc.source.pgoutput import Relation
from kernel_cdc.source.publisher import Publisher
from kernel_cdc.source.replication import StreamUnavailable

_COLUMNS = SQL("created_at, id, topic, key, type, tenant_id, envelope")
# The lock keeps the operator from detaching a day between the list of those that are detached and the reading.
_LOCK = b"LOCK TABLE kernel.outbox IN ACCESS SHARE MODE"
_DETACHED = rb"""
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = 'kernel'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^outbox_[0-9]{8}$'
  AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid)
ORDER BY c.relname
"""

log = logging.getLogger(__name__)


class OutboxReplay:
    def __init__(self, reader: ChunkReader, publisher: Publisher, ledger: Ledger) -> None:
        self._reader, self._publisher, self._ledger = reader, publisher, ledger

    async def run(self) -> None:
        """Does nothing when the outbox is not due. Raises StreamUnavailable, DatabaseUnavailable or PublishFailed."""
        due = await self._ledger.outbox()
        if due is None:
            return
        await self._ledger.start([due], None, None)
        try:
            newest, after = await self._newest(), due.done_up_to
            count, last = 0, newest is None
            while newest is not None and not last:
                await self._publisher.room()
                chunk = await self._chunk(after, newest)
                last = chunk.last
                if not chunk.rows:
                    break
                await self._publish(chunk)
                count += len(chunk.rows)
                after = _key(chunk)
                if not await self._ledger.progress(due, after):
                    raise StreamUnavailable("the outbox has become due again meanwhile")
        except TableUnreadable as error:
            raise StreamUnavailable(f"PostgreSQL: the outbox can't be published again: {error}") from None
        await self._ledger.finish(due)
        log.info("published the outbox again: %d events", count)

    async def _newest(self) -> str | None:
        async with self._reader.transaction() as cursor:
            days = await _days(cursor)
            await cursor.execute(SQL("SELECT max(created_at) FROM ({}) AS days").format(_all(days)))
            result = cursor.pgresult
            value = result.get_value(0, 0) if result else None
        return value.decode() if value is not None else None

    async def _chunk(self, after: Key | None, newest: str) -> Chunk:
        async with self._reader.transaction() as cursor:
            query = SQL(
                "SELECT {} FROM ({}) AS days WHERE created_at <= {} AND {} ORDER BY created_at, id LIMIT {}"
            ).format(
                _COLUMNS,
                _all(await _days(cursor)),
                Literal(newest),
                SQL("(created_at, id) > ({}, {})").format(*map(Literal, after)) if after else SQL("true"),
                Literal(ROWS),
            )
            return await fetch(cursor, query, self._publisher.portion)

    async def _publish(self, chunk: Chunk) -> None:
        batch = self._publisher.batch()
        table = OutboxTable(Relation(0, SCHEMA, "outbox", chunk.columns), batch.send)
        for row in chunk.rows:
            table.published(row)
        await batch.acknowledged()


def _key(chunk: Chunk) -> Key:
    created_at, event, *_ = chunk.rows[-1]
    return (created_at or b"").decode(), (event or b"").decode()


async def _days(cursor: "AsyncClientCursor[object]") -> list[Composable]:
    """Where events are; nothing is attached or detached until the transaction ends."""
    await cursor.execute(_LOCK)
    await cursor.execute(_DETACHED)
    result = cursor.pgresult
    names = [(result.get_value(row, 0) or b"").decode() for row in range(result.ntuples)] if result else []
    return [SQL(OUTBOX), *(Identifier("kernel", name) for name in names)]


def _all(days: list[Composable]) -> Composable:
    return SQL(" UNION ALL ").join(SQL("SELECT {} FROM {}").format(_COLUMNS, day) for day in days)
