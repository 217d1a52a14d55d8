"""What contacts and deals have in common: a transaction of the caller's tenant, and a row that is written once."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any
from uuid import UUID

import asyncpg
from fastapi import Depends, Header, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, StringConstraints
from pydantic.alias_generators import to_camel

from kernel_common.events import Envelope
from kernel_common.tenancy import tenant_transaction
from kernel_common.web.caller import Caller
from kernel_common.web.problems import ProblemError

MODULE = "@acme/crm"
"""The KernelModule's moduleName, in whose name its events are."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]
"""PostgreSQL can't store U+0000."""

IdempotencyKey = Annotated[
    UUID | None,
    Header(description="A UUID of the client's choice: sent again, the request makes nothing new and answers the same"),
]


class Body(BaseModel):
    """camelCase on the wire; a field that is not known is refused rather than dropped."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, validate_by_name=True, frozen=True)


class Shown(BaseModel):
    """A row as clients see it: of its columns, those that are named here."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, frozen=True)

    id: UUID
    created_at: AwareDatetime
    updated_at: AwareDatetime


async def _transaction(request: Request, caller: Caller) -> AsyncIterator[asyncpg.Connection]:
    async with tenant_transaction(request.app.state.pool, caller.tenant) as connection:
        yield connection


Transaction = Annotated[asyncpg.Connection, Depends(_transaction, scope="function")]
"""A parameter of this type sees the rows of the caller's tenant only; it commits before the answer is sent."""


async def insert_once(
    transaction: asyncpg.Connection, insert: str, select: str, values: Sequence[Any], key: UUID | None
) -> tuple[asyncpg.Record, bool]:
    """The row that ``insert`` makes of ``values`` and ``key``; if ``key`` has made one before, that one, and False.

    ``insert`` does nothing on a conflict, which waits for a concurrent request with the same key; ``select`` then finds
    the row by its key.
    """
    row = await transaction.fetchrow(insert, *values, key)
    return (row, True) if row is not None else (await transaction.fetchrow(select, key), False)


def event(kind: str, tenant: UUID, data: dict[str, JsonValue]) -> Envelope:
    """An event that the KernelModule declares, in its name."""
    return Envelope(type=kind, source=MODULE, tenant_id=tenant, data=data)


def require_same(made: Shown, asked: Body) -> None:
    """Raises ProblemError 409 when the row that a repeated request has found isn't what it asks for."""
    if any(getattr(made, name) != getattr(asked, name) for name in type(asked).model_fields):
        raise ProblemError(
            409, "conflict", f"the Idempotency-Key has made {made.id}, which holds something else; use a new key"
        )


def not_found(what: str, row: UUID) -> ProblemError:
    """The same answer for a row that never was, was deleted, or is another tenant's."""
    return ProblemError(404, "not-found", f"there is no {what} {row}")
