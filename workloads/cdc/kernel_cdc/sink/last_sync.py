"""``cdc:lastsync:{table}`` in Valkey: when the newest change that analytics has of a table was committed.

It is told beside the writing, never before it, and only ever moves forward, whoever tells it. Valkey being away stops
nothing: the newest is told when it is back.
"""

import asyncio
import logging

from redis.asyncio import Redis
from redis.exceptions import RedisError

PREFIX = "cdc:lastsync:"
EVERY = 0.25
"""Seconds."""

_FORWARD = """
for i, key in ipairs(KEYS) do
  local known = redis.call('GET', key)
  if not known or known < ARGV[i] then redis.call('SET', key, ARGV[i]) end
end
"""

_log = logging.getLogger(__name__)


class LastSync:
    def __init__(self, valkey: Redis) -> None:
        self._valkey = valkey
        self._untold: dict[str, str] = {}
        self._reachable = True

    def applied(self, table: str, committed_at: str) -> None:
        self._untold[table] = max(committed_at, self._untold.get(table, ""))

    async def run(self) -> None:
        """Tells until it is cancelled."""
        while True:
            await self.tell()
            await asyncio.sleep(EVERY)

    async def tell(self) -> None:
        told, self._untold = self._untold, {}
        try:
            await self._forward(told)
            self._reachable = True
        except (RedisError, OSError, TimeoutError) as error:
            if self._reachable:
                _log.warning("Valkey can't be told what was synced (%s)", type(error).__name__)
            self._reachable = False
            for table, committed_at in told.items():
                self.applied(table, committed_at)

    async def _forward(self, told: dict[str, str]) -> None:
        if told:
            keys = [f"{PREFIX}{table}" for table in told]
            await self._valkey.eval(_FORWARD, len(keys), *keys, *told.values())
