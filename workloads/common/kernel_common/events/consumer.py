"""Consuming events: each is delivered at least once, and its effect comes once.

    consumer = Consumer(
        kafka=configuration, group="crm.mailer", valkey=valkey, pool=pool,
        handlers={"auth.user.created": welcome},                  # async def welcome(event)
        in_database={"money.wallet.credited": book},              # async def book(event, connection)
    )
    await consumer.run(stop)

``feed`` reads from Kafka, a ``lane`` a partition keeps the order, ``delivery`` brings one message to its end, ``dedup``
does the work once. Nothing is committed before it is done, memory is bounded by pausing partitions whose lane is full,
and a partition that retries or waits holds up no other.
"""

import asyncio
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
from redis.asyncio import Redis

from kernel_common.events import consumer_metrics as metrics
from kernel_common.events.deadletters import DeadLetters
from kernel_common.events.dedup import Handler, InDatabase, InValkey, Once, TransactionHandler
from kernel_common.events.delivery import RETRY_AFTER, Deliveries
from kernel_common.events.feed import Feed, Place
from kernel_common.events.lane import Lane

IN_DATABASE_ONLY = "money"
"""The domain whose events are remembered for ever."""
HANDLER_TIMEOUT = 45.0
GRACE = 10.0
SESSION_TIMEOUT = 10.0
_LOOK = 5.0
"""Seconds between two measurements of lag."""

_GROUP = re.compile(r"[a-z][a-z0-9._-]{0,99}")
"""It begins keys in Valkey, where a colon ends it."""

_log = logging.getLogger(__name__)


class Consumer:
    """A member of the consumer group ``group``, for events of the types in ``handlers`` and ``in_database``.

    ``handlers`` are called under a lease in ``valkey`` and must bear a repeat; those ``in_database`` get the open
    transaction of the event's tenant from ``pool`` and their effect in it is exact. ``money.*`` is only taken
    ``in_database``. ``tenants`` restricts to events of these.

    Seconds: ``handler_timeout`` is for one attempt of a handler; ``grace`` for what is under way when its partition is
    taken away; after ``session_timeout`` others take over from a process that died.

    ``kafka`` is librdkafka's configuration: brokers and login. Raises ValueError for a wrong group name, and for
    handlers that don't fit together.
    """

    def __init__(
        self,
        *,
        kafka: Mapping[str, Any],
        group: str,
        handlers: Mapping[str, Handler] | None = None,
        in_database: Mapping[str, TransactionHandler] | None = None,
        valkey: Redis | None = None,
        pool: asyncpg.Pool | None = None,
        tenants: Collection[UUID] | None = None,
        retry_after: Sequence[float] = RETRY_AFTER,
        handler_timeout: float = HANDLER_TIMEOUT,
        grace: float = GRACE,
        session_timeout: float = SESSION_TIMEOUT,
    ) -> None:
        if not _GROUP.fullmatch(group):
            raise ValueError("group: up to 100 lower-case letters, digits, '.', '_' and '-', such as crm.mailer")
        self._kafka, self._group = kafka, group
        self._routes: dict[str, Once] = {}
        for kind, handler in (handlers or {}).items():
            if kind.partition(".")[0] == IN_DATABASE_ONLY:
                raise ValueError(f"handlers: {kind} must be handled in_database")
            if valkey is None:
                raise ValueError(f"valkey: {kind} needs it")
            self._routes[kind] = InValkey(valkey, group, handler, handler_timeout)
        for kind, transaction_handler in (in_database or {}).items():
            if kind in self._routes:
                raise ValueError(f"in_database: {kind} is among the handlers as well")
            if pool is None:
                raise ValueError(f"pool: {kind} needs it")
            self._routes[kind] = InDatabase(pool, group, transaction_handler, handler_timeout)
        if not self._routes:
            raise ValueError("handlers: give one")
        self.topics = sorted({f"platform.{kind.partition('.')[0]}.events" for kind in self._routes})
        self._tenants, self._retry_after = tenants, retry_after
        self._grace, self._session_timeout = grace, session_timeout
        self._lanes: dict[Place, Lane] = {}
        self._failed: asyncio.Future[None] | None = None
        self._feed: Feed | None = None
        self._next_look = 0.0

    @property
    def partitions(self) -> set[Place]:
        """What this member has now."""
        return set(self._lanes)

    @property
    def trouble(self) -> str | None:
        """Why deliveries wait, for readiness; None when none does."""
        waiting = (lane.reason for lane in self._lanes.values() if lane.reason)
        return (self._feed.trouble if self._feed else None) or next(waiting, None)

    async def run(self, stop: asyncio.Event) -> None:
        """Consumes until ``stop`` is set, then finishes what is under way (within ``grace``), commits and leaves.

        Raises what no waiting mends: a fault of ours, or Kafka's refusal of the group.
        """
        dead_letters = DeadLetters(self._kafka, self._group)
        self._deliveries = Deliveries(self._group, self._routes, dead_letters, self._tenants, self._retry_after)
        self._failed = asyncio.get_running_loop().create_future()
        self._feed = feed = Feed(
            self._kafka,
            self.topics,
            group=self._group,
            session_timeout=self._session_timeout,
            taken=self._taken,
            given_up=self._given_up,
        )
        try:
            await feed.start()
            while not stop.is_set():
                await self._step(feed)
        finally:
            # Leaving gives up all partitions, which ends their lanes.
            await feed.close()
            await self._given_up(list(self._lanes))
            await dead_letters.close()
            self._feed = None
            if self._failed.done():
                self._failed.exception()

    async def _step(self, feed: Feed) -> None:
        full = [place for place, lane in self._lanes.items() if lane.full and not lane.paused]
        low = [place for place, lane in self._lanes.items() if lane.low and lane.paused]
        for place in (*full, *low):
            self._lanes[place].paused = place in full
        for message in await feed.poll(pause=full, resume=low):
            if lane := self._lanes.get((message.topic() or "", message.partition() or 0)):
                lane.put(message)
        if self._failed and self._failed.done():
            self._failed.result()
        now = asyncio.get_running_loop().time()
        if now >= self._next_look:
            self._next_look = now + _LOOK
            await self._look(feed)

    async def _look(self, feed: Feed) -> None:
        lags = await feed.lag({place: lane.next_offset for place, lane in self._lanes.items()})
        for (topic, partition), lag in lags.items():
            if (topic, partition) in self._lanes:
                metrics.lag.labels(self._group, topic, str(partition)).set(lag)
        metrics.blocked.labels(self._group).set(sum(lane.reason is not None for lane in self._lanes.values()))

    async def _taken(self, places: Collection[Place]) -> None:
        assert self._feed is not None
        for place in places:
            lane = Lane(place, self._deliveries.conclude, self._feed.done_up_to)
            lane.task.add_done_callback(self._ended)
            self._lanes[place] = lane

    async def _given_up(self, places: Collection[Place]) -> None:
        lanes = [self._lanes.pop(place) for place in places if place in self._lanes]
        await asyncio.gather(*(lane.let_go(self._grace) for lane in lanes))
        for topic, partition in places:
            try:
                metrics.lag.remove(self._group, topic, str(partition))
            except KeyError:
                continue  # it was never measured

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A lane that fails is a fault of ours: the process ends, and another goes on from what was committed."""
        if not task.cancelled() and (error := task.exception()) and self._failed and not self._failed.done():
            self._failed.set_exception(error)
