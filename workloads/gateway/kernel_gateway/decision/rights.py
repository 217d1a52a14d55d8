"""What a user may, from PostgreSQL, kept in Valkey for the requests that follow.

A withdrawn right must be gone for the very next request, so what is kept carries a stamp: the version of the tenant's
rights, the epoch of its modules, and the era of the Valkey server. It counts only while all three are what Valkey says
they are *now*. Whoever changes rights raises the version in PostgreSQL, then in Valkey, and then commits: before the
commit nothing that is kept counts any more, and a reading that began earlier can't be kept, because it carries the
lower version. If the change then fails, Valkey is ahead and nothing can be kept until that number expires after
300 s: slow, never wrong.

Readings are shared, but only in one direction: a request never joins a reading that is under way, which may have begun
before a change that this request must see. It waits for the next one, which starts when the present one ends. So there
are at most two readings a user, however many requests wait.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Protocol
from uuid import UUID

import asyncpg
import hiredis

from kernel_common.database import DatabaseUnavailable, waiting_explained
from kernel_common.tenancy import tenant_transaction
from kernel_gateway import metrics
from kernel_gateway.access import Rule
from kernel_gateway.decision.script import (
    ANNOUNCE,
    ERA,
    KEEP,
    MEMBER,
    VERSION_SECONDS,
    call,
    epoch_key,
    rights_key,
    sufficient,
    version_key,
)
from kernel_gateway.decision.valkey import Valkey, ValkeyAway

READ_TIMEOUT = 5.0
"""Seconds; far less than a version is kept, so that no reading outlives the version it began under."""

_READ, _RAISE = (
    (files("kernel_gateway") / "sql" / name).read_text()
    for name in ("effective_rights.sql", "raise_rights_version.sql")
)


class RightsUnavailable(Exception):
    """Rights can't be read or changed now; the message is fit to show. Answer 503, and change nothing."""


@dataclass(frozen=True, slots=True)
class Held:
    """What PostgreSQL says of a user in a tenant. ``texts`` are permissions, and ``MEMBER`` for an active member."""

    version: int
    blocked: bool
    modules: frozenset[str]
    texts: frozenset[str]

    def satisfy(self, rule: Rule) -> bool:
        return not self.texts.isdisjoint(sufficient(rule))


class RightsSource(Protocol):
    async def read(self, tenant: UUID, user: UUID) -> Held | None:
        """None when there is no such tenant. Raises RightsUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Database:
    """Reads as the role of ``pool``, under row-level security."""

    pool: asyncpg.Pool

    async def read(self, tenant: UUID, user: UUID) -> Held | None:
        try:
            with waiting_explained():
                async with asyncio.timeout(READ_TIMEOUT), tenant_transaction(self.pool, tenant) as connection:
                    row = await connection.fetchrow(_READ, user)
        except DatabaseUnavailable as error:
            raise RightsUnavailable(f"rights can't be read now: {error}") from None
        if row is None:
            return None
        # What we add ourselves can't be given to anybody by a role.
        texts = {text for text in row["permissions"] if not text.startswith(("#", "@"))}
        if row["member"]:
            texts.add(MEMBER)
        return Held(row["version"], row["blocked"], frozenset(row["active_modules"]), frozenset(texts))


@dataclass(frozen=True, slots=True)
class Seen:
    """Version, epoch and era as Valkey had them when it missed the rights."""

    version: bytes
    epoch: bytes
    era: bytes


@dataclass(slots=True)
class _Readings:
    now: "asyncio.Task[Held | None]"
    next: "asyncio.Task[Held | None] | None" = None


class Rights:
    def __init__(self, source: RightsSource, valkey: Valkey, keep_seconds: int) -> None:
        self._source, self._valkey, self._keep_seconds = source, valkey, keep_seconds
        self._readings: dict[tuple[UUID, UUID], _Readings] = {}

    async def changed(self, tenant: UUID, connection: asyncpg.Connection) -> None:
        """Call it in the transaction (of ``tenant``) that changes rights, as its last step before the commit. Raises
        RightsUnavailable when Valkey can't be told: then let the transaction fail."""
        version = await connection.fetchval(_RAISE, tenant)
        if version is None:
            raise RightsUnavailable("the tenant has no version of rights, or the transaction is not the tenant's")
        try:
            await self._valkey.call(call(ANNOUNCE, (version_key(tenant),), version, VERSION_SECONDS))
        except (ValkeyAway, hiredis.ReplyError):
            raise RightsUnavailable("rights can't be changed now: Valkey can't be told; try again") from None

    async def read(self, tenant: UUID, user: UUID) -> Held | None:
        """What PostgreSQL says, read after this call. None when there is no such tenant. Raises RightsUnavailable."""
        key = (tenant, user)
        readings = self._readings.get(key)
        if readings is None:
            task = self._begin(key, self._read(key))
            self._readings[key] = _Readings(task)
        else:
            metrics.rights_shared.inc()
            if readings.next is None:
                readings.next = self._begin(key, self._read(key, after=readings.now))
            task = readings.next
        return await asyncio.shield(task)  # whoever gives up must not take the others along

    def keep(self, tenant: UUID, user: UUID, held: Held, seen: Seen) -> None:
        """Puts ``held`` into Valkey for the next requests, unless something changed since ``seen``. Does not wait."""
        keys = (rights_key(tenant, user), version_key(tenant))
        guard = (epoch_key(tenant), ERA, seen.version, seen.epoch, seen.era)
        spans = (held.version, VERSION_SECONDS, self._keep_seconds)
        self._valkey.ask(call(KEEP, keys, *guard, *spans, *sorted(held.texts)), _count_kept)

    def _begin(
        self, key: tuple[UUID, UUID], reading: "Coroutine[None, None, Held | None]"
    ) -> "asyncio.Task[Held | None]":
        task = asyncio.create_task(reading)
        task.add_done_callback(partial(self._ended, key))
        return task

    async def _read(self, key: tuple[UUID, UUID], after: "asyncio.Task[Held | None] | None" = None) -> Held | None:
        if after is not None:
            await asyncio.wait([after])
        try:
            held = await self._source.read(*key)
        except RightsUnavailable:
            metrics.rights_failed.inc()
            raise
        metrics.rights_read.inc()
        return held

    def _ended(self, key: tuple[UUID, UUID], task: "asyncio.Task[Held | None]") -> None:
        """Runs before whatever waits for ``task`` goes on: from now on, joining means the one after the next."""
        following = self._readings[key].next
        if following is None:
            del self._readings[key]
        else:
            self._readings[key] = _Readings(following)
        if not task.cancelled():
            task.exception()  # seen, even if everybody who waited has gone


def _count_kept(answer: object) -> None:
    (metrics.rights_kept if answer == 1 else metrics.rights_dropped).inc()
