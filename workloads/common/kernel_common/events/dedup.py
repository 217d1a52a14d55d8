"""Doing the work of an event once, though Kafka delivers it at least once.

**In the database** (every ``money.*`` event, others where the effect is in PostgreSQL): the first statement of the
handler's own transaction writes the event's id for this group. No row written: it was done before, and the handler is
not called. Commit makes both, a rollback or a crash neither: the effect happens exactly once, for ever.

**In Valkey** (the rest): a lease (``SET key p:... NX EX 60``), the work, then the mark (``SET key 1 EX 86400``). The
mark comes after the work, so a crash in between repeats the work rather than losing it, and an event that is older
than the mark's day is done again: these handlers must bear a repeat. The lease keeps two consumers apart that have the
event at the same time, as in a rebalance; whoever finds another's waits until it is gone or has become a mark. A
failed attempt gives its lease back, so a dead letter leaves nothing and can be sent again. A lease's value names the
delivery that took it: nobody gives back another's, and an answer that was lost on the way is found again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Protocol

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from kernel_common.database import reason_to_wait
from kernel_common.events.outage import Away, Partition, patiently
from kernel_common.events.received import Received
from kernel_common.ids import uuid7
from kernel_common.tenancy import tenant_transaction

LEASE = 60.0
"""Seconds that a delivery may take before another may begin."""
KEPT = 86_400
"""Seconds that a mark stays."""
BUSY_WAIT = 0.5
"""Seconds between two looks at another's lease."""

_CLAIM = """
INSERT INTO kernel.processed_event_ids (consumer_group, event_id, event_type)
VALUES (current_user || '/' || $1, $2, $3) ON CONFLICT DO NOTHING
"""

_GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

Handler = Callable[[Received], Awaitable[None]]
TransactionHandler = Callable[[Received, asyncpg.Connection], Awaitable[None]]


class Outcome(StrEnum):
    DONE = "done"
    REPEATED = "repeated"
    """It was done before; the handler was not called."""


class HandlerFailed(Exception):
    """The attempt failed for a reason of the event's or the handler's own, which is ``__cause__``."""


class Once(Protocol):
    async def __call__(self, event: Received, partition: Partition) -> Outcome:
        """Does the event's work unless it was done. Raises HandlerFailed; LetGo."""


class InDatabase:
    """Calls ``handler`` with the transaction of the event's tenant."""

    def __init__(self, pool: asyncpg.Pool, group: str, handler: TransactionHandler, timeout: float) -> None:
        self._pool, self._group, self._handler, self._timeout = pool, group, handler, timeout

    async def __call__(self, event: Received, partition: Partition) -> Outcome:
        return await patiently(lambda: self._attempt(event), partition)

    async def _attempt(self, event: Received) -> Outcome:
        envelope = event.envelope
        try:
            async with tenant_transaction(self._pool, envelope.tenant_id) as connection:
                claimed = await connection.execute(_CLAIM, self._group, envelope.id, envelope.type)
                if claimed == "INSERT 0 0":
                    return Outcome.REPEATED
                await self._work(event, connection)
            return Outcome.DONE
        except HandlerFailed:
            raise
        except Exception as error:
            # The commit included: whether it came through, the next attempt finds out.
            if reason := reason_to_wait(error):
                raise Away("PostgreSQL", reason) from None
            raise HandlerFailed from error

    async def _work(self, event: Received, connection: asyncpg.Connection) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._handler(event, connection)
                # A handler that swallowed an error of the database left a transaction whose commit is a rollback
                # and says so to nobody. This statement fails in such a one.
                await connection.execute("SELECT")
        except Exception as error:
            raise HandlerFailed from error


class InValkey:
    """Calls ``handler`` under a lease."""

    def __init__(self, valkey: Redis, group: str, handler: Handler, timeout: float, lease: float = LEASE) -> None:
        if timeout >= lease:
            raise ValueError(f"a handler may take {timeout} s, which is not less than its lease of {lease} s")
        self._valkey, self._group, self._handler, self._timeout = valkey, group, handler, timeout
        self._lease_ms = round(lease * 1000)
        self._me = uuid7()

    def key(self, event: Received) -> str:
        return f"{self._group}:{event.envelope.domain}:{event.envelope.id}"

    async def __call__(self, event: Received, partition: Partition) -> Outcome:
        key, mine = self.key(event), f"p:{self._me}:{event.partition}:{event.offset}"
        while (holder := await patiently(lambda: self._take(key, mine), partition)) not in (None, mine):
            if holder == "1":
                partition.blocked(None)
                return Outcome.REPEATED
            partition.blocked("another consumer is at work on the event")
            await partition.wait(BUSY_WAIT)
        partition.blocked(None)
        try:
            async with asyncio.timeout(self._timeout):
                await self._handler(event)
        except BaseException as error:
            # Also when the partition is taken away in the middle: whoever gets it need not wait for the lease's end.
            await self._give_back(key, mine)
            if isinstance(error, Exception):
                raise HandlerFailed from error
            raise
        await patiently(lambda: self._mark(key), partition)
        return Outcome.DONE

    async def _take(self, key: str, mine: str) -> str | None:
        """Takes the lease if nobody has it; what was there before."""
        held = await self._ask(self._valkey.set(key, mine, nx=True, px=self._lease_ms, get=True))
        return held.decode() if isinstance(held, bytes) else held

    async def _mark(self, key: str) -> None:
        await self._ask(self._valkey.set(key, "1", ex=KEPT))

    async def _give_back(self, key: str, mine: str) -> None:
        with contextlib.suppress(Away):  # then it ends by itself
            await self._ask(self._valkey.eval(_GIVE_BACK, 1, key, mine))

    @staticmethod
    async def _ask(command: Awaitable[Any]) -> Any:
        try:
            return await command
        except NoPermissionError:
            raise Away("Valkey", "this user may not use the keys of the group") from None
        except ResponseError as error:
            raise Away("Valkey", f"it refuses ({str(error).partition(' ')[0]})") from None
        except (RedisError, OSError, TimeoutError):
            raise Away("Valkey", "can't be reached") from None
