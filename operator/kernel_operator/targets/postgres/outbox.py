"""The outbox's days: made ahead, detached when they are over, dropped when nobody needs them.

A day is detached so that it can be dropped without anybody waiting for it. With a default partition that takes the
outbox's strongest lock, and whoever waits for a lock stops all who come after. So it is asked for shortly, a few times:
writers wait for ``_LOCK_WAIT`` at most, and a day that can't be had now is taken at a later turn.

Under that lock nobody has written to the day and not yet ended, so the end of the log is past all of its commits. It
is noted in ``kernel.outbox_days`` in the same transaction. A detached day is dropped once the slot of change data
capture is past that place, and never while the slot is missing or lost or the outbox is to be published again: then
the day may be all that is left of its events. Locking ``kernel.cdc_snapshots`` keeps anybody from writing that down
meanwhile. Each step is one transaction, and each turn begins with what is there.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from kernel_operator import metrics
from kernel_operator.desired import Outcome
from kernel_operator.targets.postgres.session import Statement, query, run, transaction

DAYS_AHEAD = 14
SLOT = "platform_cdc_slot"

_LOCK_WAIT = "SET LOCAL lock_timeout = '50ms'"
_TRIES = 5
_PAUSE = 0.3
"""Seconds between tries, in which writers go on."""
_NOTE = "INSERT INTO kernel.outbox_days (name, lsn) VALUES ($1, pg_current_wal_insert_lsn())"
_FORGET = "DELETE FROM kernel.outbox_days WHERE name <> ALL ($1::text[])"
_NO_REQUESTS = "LOCK TABLE kernel.cdc_snapshots IN SHARE MODE"

log = logging.getLogger(__name__)


class _LockNotFree(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Held:
    """A detached day that can't be dropped yet, and why."""

    name: str
    reason: str


async def make_partitions(pool: asyncpg.Pool, days_ahead: int = DAYS_AHEAD) -> Outcome:
    """Make the partitions that are missing, from today to ``days_ahead`` days later. Raises Unavailable."""
    async with transaction(pool) as connection:
        rows = await connection.fetch("SELECT kernel.outbox_make_partitions($1) AS name", days_ahead)
    return Outcome(tuple(f"made partition kernel.{row['name']}" for row in rows))


def days_over(names: Sequence[str], keep: timedelta, now: datetime) -> list[str]:
    """Which of the partitions ``names`` hold nothing younger than ``keep``. A day is UTC's."""
    return [name for name in names if _begin(name) + timedelta(days=1) + keep <= now]


async def retire_days(pool: asyncpg.Pool, keep: timedelta) -> tuple[Outcome, list[Held]]:
    """Detach the days that are over, drop those that nobody needs; what was done, and the days that wait.

    Raises Unavailable.
    """
    async with transaction(pool) as connection:
        found = await connection.fetchrow(query("outbox_days"))
        for name in found["unnoted"]:  # detached by hand
            await _note(connection, name)
        await connection.execute(_FORGET, found["detached"])
    changes, waiting = [], list(found["detached"])
    for name in days_over(found["attached"], keep, found["now"]):
        if await _detach(pool, name):
            changes.append(f"detached kernel.{name}")
            waiting.append(name)
        else:
            log.info("kernel.%s is over, but its lock is not free: it is detached later", name)
    held = []
    for name in waiting:
        reason = await _drop(pool, name)
        if reason is None:
            changes.append(f"dropped kernel.{name}")
        else:
            held.append(Held(name, reason))
    metrics.outbox_days_held.set(len(held))
    return Outcome(tuple(changes)), held


async def _detach(pool: asyncpg.Pool, name: str) -> bool:
    for turn in range(_TRIES):
        if turn:
            await asyncio.sleep(_PAUSE)
        try:
            async with _waiting_shortly(pool) as connection:
                await connection.execute("LOCK TABLE ONLY kernel.outbox IN ACCESS EXCLUSIVE MODE")
                await run(connection, [Statement.of("ALTER TABLE kernel.outbox DETACH PARTITION kernel.%I", name)])
                await _note(connection, name)
        except _LockNotFree:
            continue
        return True
    return False


async def _note(connection: asyncpg.Connection, name: str) -> None:
    """Of a day that nobody writes to any more. Who reads the outbox may read it as well; its owner reads neither."""
    await run(
        connection,
        [
            Statement.of("GRANT SELECT ON kernel.%I TO kernel_cdc", name),
            Statement.of("ALTER TABLE kernel.%I FORCE ROW LEVEL SECURITY", name),
        ],
    )
    await connection.execute(_NOTE, name)


async def _drop(pool: asyncpg.Pool, name: str) -> str | None:
    """None when it is gone, else why not."""
    try:
        async with _waiting_shortly(pool) as connection:
            await connection.execute(_NO_REQUESTS)
            row = await connection.fetchrow(query("outbox_hold"), name, SLOT)
            if row is not None and row["reason"] is None:
                await run(connection, [Statement.of("DROP TABLE kernel.%I", name)])
                await connection.execute("DELETE FROM kernel.outbox_days WHERE name = $1", name)
    except _LockNotFree:
        return "somebody reads it"
    return None if row is None else row["reason"]


@asynccontextmanager
async def _waiting_shortly(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Connection]:
    """A transaction. Raises _LockNotFree, with nothing done, rather than make others wait."""
    async with transaction(pool) as connection:
        await connection.execute(_LOCK_WAIT)
        try:
            yield connection
        except asyncpg.LockNotAvailableError:
            raise _LockNotFree from None


def _begin(name: str) -> datetime:
    return datetime.strptime(name.removeprefix("outbox_"), "%Y%m%d").replace(tzinfo=UTC)
