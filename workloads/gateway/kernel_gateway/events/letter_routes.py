"""Dead letters over REST. A tenant sees its own; those that name no tenant are for owners of the platform."""

import base64
import json
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, Field

from kernel_common.pages import DEFAULT_SIZE, Cursor, Limit, Page
from kernel_gateway.access import Identity
from kernel_gateway.api.dependencies import TheServices, requires
from kernel_gateway.api.models import Answer, Body
from kernel_gateway.api.openapi import errors
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.events import letters
from kernel_gateway.events.group_routes import Time, Topic
from kernel_gateway.events.letters import Wanted
from kernel_gateway.events.owners import owns_platform, require_owner

MOST_AT_ONCE = 1000
"""Letters of one replay."""

router = APIRouter(tags=["events"])

Status = Literal["pending", "retried", "resolved"]
Name = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[\x21-\x7e]+$")]


class Letter(Answer):
    """``offset`` and ``partition`` of the delivery that failed in ``consumerGroup``, after ``attempts`` (0: it was no
    event at all). ``retried`` letters were sent again; should that fail too, it is another letter."""

    id: UUID
    tenant_id: UUID | None
    event_id: UUID | None
    event_type: str | None
    original_topic: str
    partition: int
    offset: int
    consumer_group: str
    error: str
    attempts: int
    status: Status
    first_failed_at: AwareDatetime
    retried_at: AwareDatetime | None
    resolved_at: AwareDatetime | None


class WholeLetter(Letter):
    """``envelope`` where the message is a JSON object, else its bytes in ``valueBase64``. ``cut``: it was too long, its
    end is missing, and it can't be sent again."""

    key: str | None
    headers: dict[str, str]
    envelope: dict[str, Any] | None
    value_base64: str | None
    cut: bool


class Replay(Body):
    """Which pending letters to send again; what is left out restricts nothing. ``since`` and ``until`` are about
    ``firstFailedAt``. ``withoutTenant``: those that name no tenant (platform owners only)."""

    topic: Topic | None = None
    group: Name | None = None
    type: Name | None = None
    since: Time | None = None
    until: Time | None = None
    without_tenant: bool = False
    limit: Annotated[int, Field(ge=1, le=MOST_AT_ONCE)] = 100


class Replayed(Answer):
    """``more``: letters that are wanted may be left; ask again."""

    retried: int
    more: bool


@router.get("/events/dlq", summary="Dead letters", responses=errors(400, 401, 403), operation_id="listDeadLetters")
async def list_letters(
    services: TheServices,
    caller: Annotated[Identity, Depends(requires("events.dlq.read"))],
    *,
    status: Status | None = None,
    topic: Topic | None = None,
    group: Name | None = None,
    type: Name | None = None,
    since: Time | None = None,
    until: Time | None = None,
    without_tenant: Annotated[bool, Query(alias="withoutTenant")] = False,
    cursor: Annotated[Cursor | None, Query()] = None,
    limit: Limit = DEFAULT_SIZE,
) -> Page[Letter]:
    wanted = Wanted(topic, group, type, since, until)
    tenant = await _scope(services, caller, without_tenant)
    rows = await letters.page(services, tenant, wanted, status=status, after=cursor, most=limit + 1)
    return Page[Letter].cut([_letter(row) for row in rows], limit, lambda letter: letter.id)


@router.get(
    "/events/dlq/{letter_id}",
    summary="One dead letter, with the message",
    responses=errors(400, 401, 403, 404),
    operation_id="readDeadLetter",
)
async def read_letter(
    services: TheServices, caller: Annotated[Identity, Depends(requires("events.dlq.read"))], letter_id: UUID
) -> WholeLetter:
    for tenant in await _scopes(services, caller):
        if (row := await letters.read(services, tenant, letter_id)) is not None:
            return _whole(row)
    raise _absent(letter_id)


@router.post(
    "/events/dlq/{letter_id}/retry",
    summary="Send a dead letter to its topic again",
    responses=errors(400, 401, 403, 404, 409),
    operation_id="retryDeadLetter",
)
async def retry_letter(
    services: TheServices, caller: Annotated[Identity, Depends(requires("events.dlq.retry"))], letter_id: UUID
) -> Letter:
    return _letter(await retried(services, caller, letter_id))


@router.post(
    "/events/dlq/replay-all",
    summary="Send pending dead letters again, in their order",
    responses=errors(400, 401, 403),
    operation_id="replayDeadLetters",
)
async def replay_letters(
    services: TheServices, caller: Annotated[Identity, Depends(requires("events.dlq.retry"))], wanted: Replay
) -> Replayed:
    tenant = await _scope(services, caller, wanted.without_tenant)
    which = Wanted(wanted.topic, wanted.group, wanted.type, wanted.since, wanted.until)
    sent, more = await letters.replay(services, tenant, which, wanted.limit)
    return Replayed(retried=sent, more=more)


@router.delete(
    "/events/dlq/{letter_id}",
    status_code=204,
    summary="Mark a dead letter as dealt with",
    responses=errors(400, 401, 403, 404),
    operation_id="resolveDeadLetter",
)
async def resolve_letter(
    services: TheServices, caller: Annotated[Identity, Depends(requires("events.dlq.resolve"))], letter_id: UUID
) -> None:
    for tenant in await _scopes(services, caller):
        if await letters.resolve(services, tenant, letter_id):
            return
    raise _absent(letter_id)


async def retried(services: Services, caller: Identity, letter_id: UUID) -> asyncpg.Record:
    """The letter, sent again. Raises ProblemError."""
    for tenant in await _scopes(services, caller):
        if (row := await letters.retry(services, tenant, letter_id)) is not None:
            return row
    raise _absent(letter_id)


async def _scope(services: Services, caller: Identity, without_tenant: bool) -> UUID | None:
    """Whose letters: the caller's tenant's, or None for those without. Raises ProblemError."""
    if not without_tenant:
        return caller.tenant
    await require_owner(services, caller, "withoutTenant")
    return None


async def _scopes(services: Services, caller: Identity) -> tuple[UUID | None, ...]:
    return (caller.tenant, None) if await owns_platform(services, caller) else (caller.tenant,)


def _absent(letter_id: UUID) -> ProblemError:
    return ProblemError(404, "not-found", f"there is no dead letter {letter_id}")


def _letter(row: asyncpg.Record) -> Letter:
    return Letter(**{name: row[name] for name in Letter.model_fields})


def _whole(row: asyncpg.Record) -> WholeLetter:
    value: bytes | None = row["envelope"]
    envelope = _object(value)
    return WholeLetter(
        **{name: row[name] for name in Letter.model_fields},
        key=None if row["key"] is None else row["key"].decode("utf-8", "replace"),
        headers=json.loads(row["headers"]),
        envelope=envelope,
        value_base64=None if value is None or envelope is not None else base64.b64encode(value).decode(),
        cut=row["cut"],
    )


def _object(value: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(value or b"", parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _no_json(_: str) -> None:
    raise ValueError
