"""Deals: list and add."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Annotated
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Query
from pydantic import AfterValidator, AwareDatetime, Field, JsonValue

from crm_service.rows import Body, IdempotencyKey, Shown, Text, Transaction, insert_once, require_same
from kernel_common.pages import DEFAULT_SIZE, Cursor, Limit, Page
from kernel_common.problems import FieldError
from kernel_common.web.problems import invalid

router = APIRouter(tags=["deals"])

_LIST = "SELECT * FROM deals WHERE deleted_at IS NULL AND ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT $2"
_CONTACT = "SELECT true FROM contacts WHERE id = $1 AND deleted_at IS NULL FOR KEY SHARE"
_BY_KEY = "SELECT * FROM deals WHERE idempotency_key = $1"
_INSERT = """
INSERT INTO deals (contact_id, title, amount, closed_at, details, idempotency_key) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant_id, idempotency_key) DO NOTHING RETURNING *
"""
_EARLIEST, _LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)


def _storable(details: dict[str, JsonValue]) -> dict[str, JsonValue]:
    text = json.dumps(details, allow_nan=False)
    if len(text) > 10_000:
        raise ValueError("it must be at most 10,000 characters of JSON")
    if "\\u0000" in text:
        raise ValueError("it must not hold the character U+0000")
    return details


class NewDeal(Body):
    contact_id: UUID
    title: Text
    amount: Annotated[Decimal, Field(max_digits=20, decimal_places=6)] | None = None
    closed_at: Annotated[AwareDatetime, Field(ge=_EARLIEST, lt=_LATEST)] | None = None
    details: Annotated[dict[str, JsonValue], AfterValidator(_storable)] | None = None


class Deal(Shown):
    contact_id: UUID
    title: str
    amount: Decimal | None
    closed_at: AwareDatetime | None
    details: dict[str, JsonValue] | None

    @classmethod
    def of(cls, row: asyncpg.Record) -> "Deal":
        details = row["details"]
        return cls(**{**row, "details": json.loads(details) if details else None})


@router.get("/deals")
async def list_deals(
    transaction: Transaction, cursor: Annotated[Cursor | None, Query()] = None, limit: Limit = DEFAULT_SIZE
) -> Page[Deal]:
    found = await transaction.fetch(_LIST, cursor, limit + 1)
    return Page[Deal].cut([Deal.of(row) for row in found], limit, attrgetter("id"))


@router.post("/deals", status_code=201)
async def add_deal(transaction: Transaction, new: NewDeal, idempotency_key: IdempotencyKey = None) -> Deal:
    if not await transaction.fetchval(_CONTACT, new.contact_id):
        raise invalid(FieldError("contactId", "there is no such contact", "NOT_FOUND"))
    details = None if new.details is None else json.dumps(new.details)
    values = (new.contact_id, new.title, new.amount, new.closed_at, details)
    row, _ = await insert_once(transaction, _INSERT, _BY_KEY, values, idempotency_key)
    deal = Deal.of(row)
    require_same(deal, new)
    return deal
