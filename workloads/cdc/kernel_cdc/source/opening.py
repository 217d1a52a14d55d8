"""When tables may be read so that records which are gone can be told from those which are to come.

A snapshot has a place S in the log. What it promises: a change before S was committed before the table was read. So
the sink may sweep, at the end: a record that it has from before S, and that was not read, is gone. Two waits make it
true.

- For every transaction that had a number when S was taken: only those can have written before S. A number taken after
  S tells them: they are all below it.
- For the stream to have passed what they wrote. Otherwise a change from before S could come behind the row that was
  read, as the same version of the record, make it look old, and have it swept. For the same reason a snapshot starts
  over when the stream goes back before this place (a server that crashed forgets what was confirmed last).

What is read after a lag spike waits for nothing and sweeps nothing: it is there to be ahead of the stream, which
brings every deletion itself.
"""

from collections.abc import Sequence

import asyncpg

from kernel_cdc.source import slot
from kernel_cdc.source.asking import asking
from kernel_cdc.source.ledger import Due, Ledger

_HERE = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
_NUMBER = "SELECT pg_current_xact_id()::text::bigint"
_OLDEST = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


class Opening:
    """Tables on their way to be read. ``tell`` it again and again; never waits long. Raises DatabaseUnavailable."""

    def __init__(self, tables: Sequence[Due], lsn: int, number: int) -> None:
        self._tables, self._lsn, self._number = tables, lsn, number
        self._passed: int | None = None

    @classmethod
    async def of(cls, pool: asyncpg.Pool, tables: Sequence[Due]) -> "Opening":
        with asking():
            lsn = await pool.fetchval(_HERE)
            return cls(tables, lsn, await pool.fetchval(_NUMBER))

    async def opened(self, pool: asyncpg.Pool, ledger: Ledger) -> bool:
        """Whether both waits are over; then the tables are being read."""
        if self._passed is None:
            with asking():
                if await pool.fetchval(_OLDEST) < self._number:
                    return False
            self._passed = await slot.beat(pool)
        if (await slot.observe(pool)).confirmed < self._passed:
            return False
        await ledger.start(self._tables, self._lsn, self._passed)
        return True


async def open_at_once(pool: asyncpg.Pool, ledger: Ledger, tables: Sequence[Due]) -> None:
    """For those that don't sweep."""
    with asking():
        lsn = await pool.fetchval(_HERE)
    await ledger.start(tables, lsn, None)
