"""Each night: ``OPTIMIZE ... FINAL`` of every partition of the analytics tables, one after the other.

ClickHouse merges old versions of rows away when it likes; readers pay for those that are left, in FINAL. What is to
be done is asked of the server (``system.parts``) and remembered nowhere: partitions of more than one part whose
largest is older than this night. So an operator that starts again in the middle goes on where it was, and a partition
that is written to meanwhile is not done twice. The statements run on a connection of their own, beside everything.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from kernel_operator import metrics
from kernel_operator.desired import Unavailable
from kernel_operator.targets.clickhouse.client import ClickHouse
from kernel_operator.targets.clickhouse.quoting import literal, qualified
from kernel_operator.targets.clickhouse.sql import text

NIGHT = timedelta(hours=4)
"""Nothing is begun later than this after its hour."""
PARTITION_SECONDS = 3600.0
"""Then the answer is waited for no longer, and the next is begun."""
AGAIN_SECONDS = 60.0
"""After which it is tried again while ClickHouse is away."""

MayBegin = Callable[[], bool]

log = logging.getLogger(__name__)


async def optimize_nightly(work: Callable[[datetime, MayBegin], Awaitable[bool]], hour: int) -> None:
    """Has ``work`` (``ClickHouseTarget.optimize``) done each night from ``hour`` (UTC) on, for ever.

    While ClickHouse is away it waits.
    """
    while True:
        began = last_start(datetime.now(UTC), hour)
        until = began + NIGHT
        try:
            finished = await work(began, partial(_before, until))
        except Unavailable as error:
            log.warning("%s: nothing is optimized: %s", error.system, error.message)
            finished = False
        except Exception:
            log.exception("ClickHouse: optimizing failed")
            finished = False
        now = datetime.now(UTC)
        again = finished or now >= until
        await asyncio.sleep((next_start(now, hour) - now).total_seconds() if again else AGAIN_SECONDS)


def _before(end: datetime) -> bool:
    return datetime.now(UTC) < end


def last_start(now: datetime, hour: int) -> datetime:
    today = now.replace(hour=hour, minute=0, second=0, microsecond=0)
    return today if today <= now else today - timedelta(days=1)


def next_start(now: datetime, hour: int) -> datetime:
    return last_start(now, hour) + timedelta(days=1)


async def optimize(client: ClickHouse, database: str, since: datetime, may_begin: MayBegin) -> bool:
    """Merges each partition that was not merged since ``since``, while ``may_begin``.

    Returns whether none is left but those that failed, which are logged and counted. Raises Unavailable when the
    server can't be asked.
    """
    if not may_begin():
        return False
    started = time.monotonic()
    found = await client.rows(text("observe_unmerged"), database=database, since=int(since.timestamp()))
    done = 0
    for row in found:
        if not may_begin():
            log.warning("ClickHouse: the night is over with %d of %d partitions optimized", done, len(found))
            return False
        table, partition = row["table"], row["partition_id"]
        statement = f"OPTIMIZE TABLE {qualified(database, table)} PARTITION ID {literal(partition)} FINAL"
        try:
            await client.run(statement, seconds=PARTITION_SECONDS)
        except Unavailable as error:
            metrics.optimized.labels("failed").inc()
            log.warning("ClickHouse: %s, partition %s is not optimized: %s", table, partition, error.message)
            await client.ping()
        else:
            metrics.optimized.labels("done").inc()
            done += 1
    metrics.optimize_finished.set_to_current_time()
    if found:
        log.info("ClickHouse: optimized %d of %d partitions in %.1f s", done, len(found), time.monotonic() - started)
    return True
