"""How fresh a table is: up to when analytics has all that was committed.

The sink tells two things in Valkey. ``cdc:lastsync:{table}`` is the commit of the newest change that it has written.
``cdc:heartbeat`` holds, for each partition of the stream, the newest heartbeat that it has got past: everything that
was committed before the oldest of them is written, in every table, so a table without changes does not look stale.
``cdc:stopped:{table}`` is there while ClickHouse refuses the table's rows: then heartbeats say nothing of it.

It is read before the question is asked, so that it never promises more than the answer holds.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from redis.asyncio import Redis
from redis.exceptions import RedisError

from kernel_data import metrics

SECONDS = 0.25
"""What an answer may be late for it."""
PAUSE_SECONDS = 1.0
"""After a failure nobody waits again for so long."""


class Freshness:
    """``async with``."""

    def __init__(self, url: str) -> None:
        self._valkey: Redis = Redis.from_url(
            url, decode_responses=True, socket_timeout=SECONDS, socket_connect_timeout=SECONDS, max_connections=16
        )
        self._not_before = 0.0

    async def __aenter__(self) -> "Freshness":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._valkey.aclose()

    async def of(self, table: str) -> datetime | None:
        """When ``table`` was last known to be complete; None when nothing is known, or Valkey is away."""
        found = await self._read(table)
        if found is None:
            metrics.freshness_unknown.inc()
        return found

    async def _read(self, table: str) -> datetime | None:
        if time.monotonic() < self._not_before:
            return None
        try:
            async with self._valkey.pipeline(transaction=False) as pipeline:
                pipeline.get(f"cdc:lastsync:{table}")
                pipeline.exists(f"cdc:stopped:{table}")
                pipeline.hgetall("cdc:heartbeat")
                last, stopped, heartbeat = await pipeline.execute()
        except (RedisError, OSError, TimeoutError):
            self._not_before = time.monotonic() + PAUSE_SECONDS
            return None
        moments = [_moment(last), None if stopped else oldest(heartbeat)]
        return max((moment for moment in moments if moment), default=None)


def oldest(heartbeat: Mapping[str, str]) -> datetime | None:
    """The heartbeat that every partition is past; None while one of them has told nothing."""
    count = heartbeat.get("n", "")
    if not count.isascii() or not count.isdigit() or not 0 < int(count) <= len(heartbeat):
        return None
    moments = [_moment(heartbeat.get(str(partition))) for partition in range(int(count))]
    known = [moment for moment in moments if moment is not None]
    return min(known) if len(known) == len(moments) else None


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else None
