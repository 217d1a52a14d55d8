"""Dead letters as they are kept: reading them, sending them again, putting them away.

A letter is sent while its row is locked, and marked afterwards in the same transaction. Two who retry it at once send
it once. A process that dies between the two leaves it pending, so it may be sent twice, which its consumers bear, and
is never lost.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT
from kernel_common.tenancy import tenant_transaction
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.events.kafka import Outgoing, away, kafka_of
from kernel_gateway.events.query import query

ATTEMPT = "x-dlq-attempt"
"""The header that counts how often a message was sent again."""
CHUNK, CHUNK_BYTES = 100, 8_000_000
REPLAY_SECONDS = 15.0
"""After that a replay begins no further chunk."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters; None: any."""

    topic: str | None = None
    group: str | None = None
    type: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@asynccontextmanager
async def letters_of(services: Services, tenant: UUID | None) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that sees the letters of ``tenant``; None: those that name no tenant."""
    if tenant is not None:
        async with tenant_transaction(services.pool, tenant) as transaction:
            yield transaction
    else:
        async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, connection.transaction():
            yield connection


async def page(
    services: Services, tenant: UUID | None, wanted: Wanted, *, status: str | None, after: UUID | None, most: int
) -> list[asyncpg.Record]:
    async with letters_of(services, tenant) as transaction:
        filters = (status, wanted.topic, wanted.group, wanted.type, wanted.since, wanted.until)
        return list(await transaction.fetch(query("list_letters"), *filters, after, most))


async def read(services: Services, tenant: UUID | None, id: UUID) -> asyncpg.Record | None:
    async with letters_of(services, tenant) as transaction:
        return await transaction.fetchrow(query("read_letter"), id)


async def retry(services: Services, tenant: UUID | None, id: UUID) -> asyncpg.Record | None:
    """The letter as it is then; None when there is none. Raises ProblemError."""
    async with letters_of(services, tenant) as transaction:
        letter = await transaction.fetchrow(query("lock_letter"), id)
        if letter is None:
            return None
        if letter["status"] != "pending":
            raise ProblemError(409, "conflict", f"the letter is {letter['status']} already")
        if letter["cut"]:
            raise ProblemError(409, "conflict", "the end of the message is missing: it was too long to be kept")
        [refusal] = await kafka_of(services).send([_outgoing(letter)])
        if refusal:
            raise away(refusal)
        return await transaction.fetchrow(query("mark_retried"), [id])


async def replay(services: Services, tenant: UUID | None, wanted: Wanted, most: int) -> tuple[int, bool]:
    """Sends pending letters again, at most ``most``, in the order in which they came; how many, and whether some may be
    left. Raises ProblemError when none could be sent."""
    sent, began = 0, time.monotonic()
    while sent < most and time.monotonic() - began < REPLAY_SECONDS:
        found, done, refusal = await _chunk(services, tenant, wanted, min(CHUNK, most - sent))
        sent += done
        if refusal:
            if not sent:
                raise away(refusal)
            return sent, True
        if not found:
            return sent, False
    return sent, True


async def resolve(services: Services, tenant: UUID | None, id: UUID) -> bool:
    """Marks the letter as dealt with; whether there is one."""
    async with letters_of(services, tenant) as transaction:
        return await transaction.fetchval(query("mark_resolved"), id) is not None


async def _chunk(services: Services, tenant: UUID | None, wanted: Wanted, most: int) -> tuple[int, int, str | None]:
    async with letters_of(services, tenant) as transaction:
        filters = (wanted.topic, wanted.group, wanted.type, wanted.since, wanted.until)
        letters = await transaction.fetch(query("lock_letters"), *filters, CHUNK_BYTES, most)
        if not letters:
            return 0, 0, None
        refusals = await kafka_of(services).send([_outgoing(letter) for letter in letters])
        taken = [letter["id"] for letter, refusal in zip(letters, refusals, strict=True) if refusal is None]
        await transaction.execute(query("mark_retried"), taken)
    return len(letters), len(taken), next(filter(None, refusals), None)


def _outgoing(letter: asyncpg.Record) -> Outgoing:
    headers: dict[str, str] = json.loads(letter["headers"])
    return Outgoing(letter["original_topic"], letter["key"], letter["envelope"], headers | {ATTEMPT: _next(headers)})


def _next(headers: Mapping[str, str]) -> str:
    before = headers.get(ATTEMPT, "0")
    return str(int(before) + 1 if before.isascii() and before.isdigit() and len(before) < 6 else 1)


async def store(services: Services, letters: Sequence["Letter"]) -> None:
    """Writes letters of any tenants, in one transaction; those that are there stay as they are."""
    by_tenant: dict[UUID | None, list[Letter]] = {}
    for letter in letters:
        by_tenant.setdefault(letter.tenant, []).append(letter)
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, connection.transaction():
        for tenant, theirs in by_tenant.items():
            await connection.execute(_SET_TENANT, str(tenant) if tenant else "")
            columns = zip(*(letter.columns() for letter in theirs), strict=True)
            await connection.execute(query("insert_letters"), *map(list, columns))


_SET_TENANT = "SELECT pg_catalog.set_config('app.tenant_id', $1, true)"


@dataclass(frozen=True, slots=True)
class Letter:
    """``place``: original topic, partition and offset. ``headers``: of the original message."""

    tenant: UUID | None
    event_id: UUID | None
    event_type: str | None
    place: tuple[str, int, int]
    group: str
    key: bytes | None
    value: bytes | None
    cut: bool
    headers: Mapping[str, str]
    error: str
    attempts: int
    failed_at: datetime

    def columns(self) -> tuple[object, ...]:
        return (
            *(self.event_id, self.event_type, *self.place, self.group, self.key, self.value, self.cut),
            *(json.dumps(dict(self.headers)), self.error, self.attempts, self.failed_at),
        )
