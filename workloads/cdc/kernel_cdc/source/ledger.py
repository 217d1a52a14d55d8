"""``kernel.cdc_snapshots``: what has to be read from tables, why, and how far Kafka has it.

Whoever changes a request (a slot that was lost, a table that came back, an operator's command) gives it another
``requested_at``. Each step that is recorded names the one it belongs to, so work for a request that was overtaken is
recorded nowhere and ends at its next step.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Literal

import asyncpg

from kernel_cdc import metrics
from kernel_cdc.source.asking import asking

CAPTURED, EVENTS = "platform_cdc", "platform_outbox"
"""The publications: rows of captured tables, and the outbox."""
OUTBOX = "kernel.outbox"
Why = Literal["first start", "slot lost", "new table", "lag spike", "requested"]
_MISSED: tuple[Why, ...] = ("first start", "slot lost", "new table")
"""What was committed before, nobody else will bring."""
Key = tuple[str, str]
"""The primary key of a row, as text: of a model (tenant_id, id), of an event (created_at, id)."""

_HERE = resources.files("kernel_cdc.source")
_MAKE_DUE, _OUTBOX_DUE, _LAG_DUE, _FORGET, _START_OVER = (
    (_HERE / f"{name}.sql").read_text()
    for name in ("make_due", "make_outbox_due", "lag_due", "forget_uncaptured", "start_over")
)
_DUE = """
SELECT name, why, requested_at, (sweep_lsn - '0/0'::pg_lsn)::bigint AS lsn, stream_lsn IS NOT NULL AS sweeps, done_up_to
FROM kernel.cdc_snapshots WHERE finished_at IS NULL ORDER BY requested_at, name
"""
_FLOORS = (
    "SELECT name, (sweep_lsn - '0/0'::pg_lsn)::bigint AS lsn FROM kernel.cdc_snapshots WHERE stream_lsn IS NOT NULL"
)
_START = """
UPDATE kernel.cdc_snapshots AS s
SET started_at = clock_timestamp(), sweep_lsn = '0/0'::pg_lsn + $3::bigint, stream_lsn = '0/0'::pg_lsn + $4::bigint
FROM unnest($1::text[], $2::timestamptz[]) AS w (name, requested_at)
WHERE (s.name, s.requested_at) = (w.name, w.requested_at)
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Due:
    """``lsn``: None while it is not being read. ``sweeps``: it is, and will end with the sweep of what is gone."""

    name: str
    why: Why
    requested_at: datetime
    lsn: int | None
    sweeps: bool
    done_up_to: Key | None


class Ledger:
    """All calls raise DatabaseUnavailable."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.complete = False
        """Nothing is due that the stream will never bring."""
        self.floors: dict[str, int] = {}
        """For each table the place of its last snapshot that sweeps. A server that crashed may send a change from
        before it once more, behind the sweep: published as of this place, no repeated sweep can reach it."""

    async def everything(self) -> None:
        """Before a slot is made: nothing of what was there before will come from it."""
        with asking():
            async with self._pool.acquire() as connection, connection.transaction():
                known = await connection.fetchval("SELECT EXISTS (SELECT FROM kernel.cdc_snapshots)")
                why: Why = "slot lost" if known else "first start"
                await connection.execute(_OUTBOX_DUE, why, True)
                await connection.execute(_MAKE_DUE, CAPTURED, why, None, True)
        log.warning("%s: all captured tables are read, and the outbox is published again", why)

    async def requested(self, tables: Sequence[str] | None) -> list[str]:
        """By hand: all tables, or these ("schema.table"). Returns which are captured."""
        with asking():
            return [row["name"] for row in await self._pool.fetch(_MAKE_DUE, CAPTURED, "requested", tables, True)]

    async def lag_spike(self, reached: float) -> list[str]:
        """``reached``: Unix time of what the stream is at. What was asked after it is not asked again."""
        with asking():
            return [row["name"] for row in await self._pool.fetch(_LAG_DUE, reached)]

    async def compare(self) -> None:
        """Tables that came into the publication become due, those that left it are forgotten."""
        with asking():
            gone = await self._pool.fetch(_FORGET, CAPTURED)
            came = await self._pool.fetch(_MAKE_DUE, CAPTURED, "new table", None, False)
        for row in gone:
            log.info("%s is no longer captured", row["name"])
        for row in came:
            log.info("%s is captured now: it is read from its beginning", row["name"])

    async def stream_begins(self, slot: str) -> None:
        """Call when the stream stands at its beginning, before anything is read from it."""
        with asking():
            await self._pool.execute(_OUTBOX_DUE, "first start", False)
            for row in await self._pool.fetch(_START_OVER, slot):
                log.warning("%s is read again from its beginning: the stream goes back before it", row["name"])
            self.floors.update({row["name"]: row["lsn"] for row in await self._pool.fetch(_FLOORS)})

    async def tables(self) -> list[Due]:
        """What is not finished, oldest request first."""
        return [due for due in await self._unfinished() if due.name != OUTBOX]

    async def outbox(self) -> Due | None:
        return next((due for due in await self._unfinished() if due.name == OUTBOX), None)

    async def start(self, due: Sequence[Due], lsn: int | None, stream_lsn: int | None) -> None:
        """They are being read now, as of ``lsn``. ``stream_lsn``: None when they won't sweep."""
        if lsn is not None and stream_lsn is not None:
            self.floors.update(dict.fromkeys((d.name for d in due), lsn))
        with asking():
            await self._pool.execute(_START, [d.name for d in due], [d.requested_at for d in due], lsn, stream_lsn)

    async def progress(self, due: Due, key: Key | None) -> bool:
        """Kafka has all up to ``key``. False when the request was overtaken."""
        return await self._record(due, "done_up_to = $3", list(key) if key else None)

    async def finish(self, due: Due) -> bool:
        return await self._record(due, "finished_at = clock_timestamp()")

    async def _unfinished(self) -> list[Due]:
        with asking():
            rows = await self._pool.fetch(_DUE)
        metrics.source_snapshot_tables.set(len(rows))
        metrics.source_snapshot_due.set(bool(rows))
        self.complete = not any(row["name"] != OUTBOX and row["why"] in _MISSED for row in rows)
        return [
            Due(
                row["name"],
                row["why"],
                row["requested_at"],
                row["lsn"],
                row["sweeps"],
                tuple(row["done_up_to"]) if row["done_up_to"] else None,
            )
            for row in rows
        ]

    async def _record(self, due: Due, change: str, *values: object) -> bool:
        with asking():
            done = await self._pool.execute(
                f"UPDATE kernel.cdc_snapshots SET {change} WHERE (name, requested_at) = ($1, $2)",  # noqa: S608
                due.name,
                due.requested_at,
                *values,
            )
        return bool(done == "UPDATE 1")
