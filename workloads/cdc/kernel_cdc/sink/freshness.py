"""How fresh analytics is, told in Valkey beside the writing, never before it.

``cdc:lastsync:{table}`` is when the newest change that is written was committed. ``cdc:heartbeat`` is a hash: for each
partition of the topic the newest heartbeat that everything before it is written of, and ``n``, how many partitions
there are. A table whose rows are refused is held back while the heartbeats of its partitions go on, so
``cdc:stopped:{table}`` is there meanwhile: a hash of the partitions concerned.

A partition leaves that hash only with a heartbeat newer than any that was told of it, after rows of the table were
taken there again: what was held back has been read again by then, by whichever process.

All only moves forward, whoever tells it. Valkey being away stops nothing: the newest is told when it is back. What
Valkey has lost comes back with the next heartbeats.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from kernel_cdc.sink.changes import Heartbeat

LAST, STOPPED, HEARTBEAT = "cdc:lastsync:", "cdc:stopped:", "cdc:heartbeat"
EVERY = 0.25
"""Seconds."""
RENEWED = 5.0
KEPT = 7 * 24 * 3600
"""Seconds: as long as the topic keeps what was held back."""

_FORWARD = """
for i, key in ipairs(KEYS) do
  local known = redis.call('GET', key)
  if not known or known < ARGV[i] then redis.call('SET', key, ARGV[i]) end
end
"""
_STOP = """
for i = 2, #ARGV do redis.call('HSET', KEYS[1], ARGV[i], '1') end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""
_BEAT = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and known >= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], 'n', ARGV[3])
for i = 2, #KEYS do redis.call('HDEL', KEYS[i], ARGV[1]) end
return 1
"""

_log = logging.getLogger(__name__)


class _Beat(NamedTuple):
    heartbeat: Heartbeat
    complete: frozenset[str]
    """Tables of which rows were written in the partition, and none is held back."""


class Freshness:
    def __init__(self, valkey: Redis) -> None:
        self._valkey = valkey
        self._last: dict[str, str] = {}
        self._written: dict[int, set[str]] = {}
        """By partition, the tables with rows that were written since a heartbeat moved forward."""
        self._beats: dict[int, _Beat] = {}
        self._held: dict[str, list[int]] = {}
        self._told_held: dict[str, list[int]] = {}
        self._renew_at = 0.0
        self._reachable = True

    def applied(self, table: str, partitions: Iterable[int], committed_at: str) -> None:
        """Rows of ``table`` are written. ``committed_at``: of the newest change among them, empty for none."""
        if committed_at:
            self._last[table] = max(committed_at, self._last.get(table, ""))
        for partition in partitions:
            self._written.setdefault(partition, set()).add(table)

    def passed(self, held: Mapping[str, Collection[int]], beats: Mapping[int, Heartbeat]) -> None:
        """All before ``beats`` is written but for what is ``held`` back: partitions by table."""
        self._held = {table: sorted(partitions) for table, partitions in held.items()}
        for partition, beat in beats.items():
            complete = {t for t in self._written.get(partition, ()) if partition not in held.get(t, ())}
            self._beats[partition] = _Beat(beat, frozenset(complete))

    async def run(self) -> None:
        """Tells until it is cancelled."""
        while True:
            await self.tell()
            await asyncio.sleep(EVERY)

    async def tell(self) -> None:
        try:
            await self._tell_held()
            await self._tell_last()
            await self._tell_beats()
            self._reachable = True
        except (RedisError, OSError, TimeoutError) as error:
            if self._reachable:
                _log.warning("Valkey can't be told what was synced (%s)", type(error).__name__)
            self._reachable = False

    async def _tell_held(self) -> None:
        """Before the heartbeats that it takes the meaning from."""
        held, now = self._held, time.monotonic()
        if held == self._told_held and now < self._renew_at:
            return
        for table, partitions in held.items():
            await self._valkey.eval(_STOP, 1, f"{STOPPED}{table}", str(KEPT), *map(str, partitions))
        self._told_held, self._renew_at = held, now + RENEWED

    async def _tell_last(self) -> None:
        told = dict(self._last)
        if told:
            keys = [f"{LAST}{table}" for table in told]
            await self._valkey.eval(_FORWARD, len(keys), *keys, *told.values())
            self._last = {table: at for table, at in self._last.items() if told.get(table) != at}

    async def _tell_beats(self) -> None:
        for partition, beat in list(self._beats.items()):
            keys = [HEARTBEAT, *(f"{STOPPED}{table}" for table in sorted(beat.complete))]
            arguments = [str(partition), beat.heartbeat.committed_at, str(beat.heartbeat.partitions)]
            forward = await self._valkey.eval(_BEAT, len(keys), *keys, *arguments)
            if self._beats.get(partition) is beat:
                del self._beats[partition]
            if forward:
                self._written.get(partition, set()).difference_update(beat.complete)
