"""Contacts: list, read, add, change."""

from operator import attrgetter
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from crm_service.rows import (
    Body,
    IdempotencyKey,
    Shown,
    Text,
    Transaction,
    event,
    insert_once,
    not_found,
    require_same,
)
from kernel_common.events import emit
from kernel_common.pages import DEFAULT_SIZE, Cursor, Limit, Page

router = APIRouter(tags=["contacts"])

_LIST = "SELECT * FROM contacts WHERE deleted_at IS NULL AND ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT $2"
_READ = "SELECT * FROM contacts WHERE id = $1 AND deleted_at IS NULL"
_BY_KEY = "SELECT * FROM contacts WHERE idempotency_key = $1"
_INSERT = """
INSERT INTO contacts (email, full_name, score, idempotency_key) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, idempotency_key) DO NOTHING RETURNING *
"""
_UPDATE = """
UPDATE contacts SET
  email = CASE WHEN 'email' = ANY ($2::text[]) THEN $3 ELSE email END,
  full_name = CASE WHEN 'full_name' = ANY ($2::text[]) THEN $4 ELSE full_name END,
  score = CASE WHEN 'score' = ANY ($2::text[]) THEN $5 ELSE score END
WHERE id = $1 AND deleted_at IS NULL RETURNING *
"""

Score = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class NewContact(Body):
    email: Text
    full_name: Text | None = None
    score: Score | None = None


class ContactChange(Body):
    """What is left out stays as it is; ``null`` empties a field that may be empty."""

    email: Text = ""
    full_name: Text | None = None
    score: Score | None = None


class Contact(Shown):
    email: str
    full_name: str | None
    score: int | None


@router.get("/contacts")
async def list_contacts(
    transaction: Transaction, cursor: Annotated[Cursor | None, Query()] = None, limit: Limit = DEFAULT_SIZE
) -> Page[Contact]:
    found = await transaction.fetch(_LIST, cursor, limit + 1)
    return Page[Contact].cut([Contact(**row) for row in found], limit, attrgetter("id"))


@router.get("/contacts/{contact_id}")
async def read_contact(transaction: Transaction, contact_id: UUID) -> Contact:
    row = await transaction.fetchrow(_READ, contact_id)
    if row is None:
        raise not_found("contact", contact_id)
    return Contact(**row)


@router.post("/contacts", status_code=201)
async def add_contact(transaction: Transaction, new: NewContact, idempotency_key: IdempotencyKey = None) -> Contact:
    values = (new.email, new.full_name, new.score)
    row, made = await insert_once(transaction, _INSERT, _BY_KEY, values, idempotency_key)
    contact = Contact(**row)
    require_same(contact, new)
    if made:
        await emit(transaction, event("crm.contact.created", row["tenant_id"], {"contactId": str(contact.id)}))
    return contact


@router.patch("/contacts/{contact_id}")
async def change_contact(transaction: Transaction, contact_id: UUID, change: ContactChange) -> Contact:
    given = list(change.model_fields_set)
    row = await transaction.fetchrow(_UPDATE, contact_id, given, change.email, change.full_name, change.score)
    if row is None:
        raise not_found("contact", contact_id)
    return Contact(**row)
