"""The replication slot: made, made again when it is lost, and kept moving.

A slot that is missing or lost means that changes will never come from the log. What has to be read instead is written
down *before* a lost slot is dropped and before a new one is made. A crash at any step leaves either a slot that is
missing or lost, and all of it happens again, or a new slot beside the note of what is due.
"""

import logging
from dataclasses import dataclass
from importlib import resources

import asyncpg

from kernel_cdc.source.asking import asking
from kernel_cdc.source.ledger import CAPTURED, EVENTS, Ledger
from kernel_cdc.source.replication import StreamUnavailable, create_slot

SLOT = "platform_cdc_slot"
PUBLICATIONS = (CAPTURED, EVENTS)
BEAT = "platform_cdc"
"""Stands before what the source writes into the log itself."""

_OBSERVE = (resources.files("kernel_cdc.source") / "observe_slot.sql").read_text()
_BEAT = """
SELECT pg_logical_emit_message(false, $1,
  $2 || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), true) - '0/0'::pg_lsn
"""
_DROP_LOST = """
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND wal_status = 'lost'
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Observed:
    """``retained``: bytes of the log that the slot keeps. ``lost``: PostgreSQL has removed what it needs;
    ``unreserved``: it will with its next checkpoint. ``confirmed``: where the stream would begin."""

    exists: bool
    lost: bool
    unreserved: bool
    retained: int
    confirmed: int


async def ensure(pool: asyncpg.Pool, url: str, ledger: Ledger) -> None:
    """Makes the slot when it is missing or lost. Raises StreamUnavailable or DatabaseUnavailable.

    A publication that is missing would not fail the stream: its rows would be passed over in silence.
    """
    with asking():
        rows = await pool.fetch("SELECT pubname FROM pg_publication WHERE pubname = ANY ($1)", PUBLICATIONS)
    missing = sorted(set(PUBLICATIONS) - {row["pubname"] for row in rows})
    if missing:
        raise StreamUnavailable(f"PostgreSQL: the operator has not made the publication {missing[0]} yet")
    found = await observe(pool)
    if found.exists and not found.lost:
        return
    await ledger.everything()
    if found.lost:
        # Only while it is lost: another source may have made it anew meanwhile.
        with asking():
            await pool.execute(_DROP_LOST, SLOT)
    await create_slot(url, SLOT)
    log.info("made the slot %s", SLOT)


async def observe(pool: asyncpg.Pool) -> Observed:
    """The slot as it is. Raises DatabaseUnavailable."""
    with asking():
        row = await pool.fetchrow(_OBSERVE, SLOT)
    return Observed(row["exists"], row["lost"], row["unreserved"], row["retained"], row["confirmed"])


async def beat(pool: asyncpg.Pool, token: str = "") -> int:
    """Writes a sign of life to the log, so that it moves on; returns where. Raises DatabaseUnavailable.

    It says ``token``, which tells one's own from others', and PostgreSQL's time.
    """
    with asking():
        return int(await pool.fetchval(_BEAT, BEAT, token))
