"""What the source asks PostgreSQL in ordinary SQL: publications, the slot, and a sign of life in the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources

import asyncpg

from kernel_cdc.source.replication import StreamUnavailable, create_slot
from kernel_common.database import DatabaseUnavailable, waiting_explained

SLOT = "platform_cdc_slot"
PUBLICATIONS = ("platform_cdc", "platform_outbox")
SNAPSHOT_DUE = "platform_cdc_snapshot_due"
"""A physical slot that holds back nothing: the one thing that the role kernel_cdc may write into the database and that
outlives a crash. It is there while rows may exist that are older than the slot."""

_OBSERVE = (resources.files("kernel_cdc.source") / "observe_slot.sql").read_text()
_HOLDS_ROWS = "SELECT EXISTS (SELECT FROM {})"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Observed:
    """``retained``: bytes of the log that the slot keeps. ``lost``: PostgreSQL has removed what it needs."""

    exists: bool
    lost: bool
    retained: int
    snapshot_due: bool


@contextmanager
def _asking() -> Iterator[None]:
    """Whatever goes wrong, the same question is asked again: DatabaseUnavailable."""
    try:
        with waiting_explained():
            yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise DatabaseUnavailable(f"a question failed ({type(error).__name__})") from None


async def ensure(pool: asyncpg.Pool, url: str) -> None:
    """Makes the slot when it is missing. Raises StreamUnavailable or DatabaseUnavailable.

    A publication that is missing would not fail the stream: its rows would be passed over in silence.
    """
    with _asking():
        rows = await pool.fetch("SELECT pubname FROM pg_publication WHERE pubname = ANY ($1)", PUBLICATIONS)
    missing = sorted(set(PUBLICATIONS) - {row["pubname"] for row in rows})
    if missing:
        raise StreamUnavailable(f"PostgreSQL: the operator has not made the publication {missing[0]} yet")
    found = await observe(pool)
    if found.lost:
        raise StreamUnavailable(
            f"PostgreSQL: the slot {SLOT} is lost: drop it, and what it missed has to be read again"
        )
    if not found.exists:
        await _make(pool, url)


async def _make(pool: asyncpg.Pool, url: str) -> None:
    """The note comes first and goes last, so that a crash in between never hides that rows are missing."""
    with _asking():
        await pool.execute(
            "SELECT pg_create_physical_replication_slot($1) "
            "WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)",
            SNAPSHOT_DUE,
        )
    await create_slot(url, SLOT)
    if await _anything_older(pool):
        log.warning("made the slot %s: rows that were there before it are not published", SLOT)
        return
    with _asking():
        await pool.execute("SELECT pg_drop_replication_slot($1)", SNAPSHOT_DUE)
    log.info("made the slot %s", SLOT)


async def _anything_older(pool: asyncpg.Pool) -> bool:
    with _asking():
        for row in await pool.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_publication_tables WHERE pubname = ANY ($1)",
            PUBLICATIONS,
        ):
            if await pool.fetchval(_HOLDS_ROWS.format(row["name"])):
                return True
    return False


async def observe(pool: asyncpg.Pool) -> Observed:
    """The slot as it is. Raises DatabaseUnavailable."""
    with _asking():
        row = await pool.fetchrow(_OBSERVE, SLOT, SNAPSHOT_DUE)
    return Observed(row["exists"], row["lost"], row["retained"], row["snapshot_due"])


async def beat(pool: asyncpg.Pool) -> int:
    """Writes to the log, so that it moves on; returns where. Raises DatabaseUnavailable."""
    with _asking():
        return int(await pool.fetchval("SELECT pg_logical_emit_message(false, 'platform_cdc', '') - '0/0'::pg_lsn"))
