"""Tokens that work once: links in mails, invitations, and the choice of a tenant between password and tokens.

32 random bytes; only their SHA-256 is stored, which is enough for what nobody can guess.
"""

import base64
import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

import asyncpg

from kernel_gateway.api.problems import ProblemError

Kind = Literal["verify_email", "reset_password", "invite", "select_tenant"]

VERIFY_EMAIL = timedelta(hours=24)
RESET_PASSWORD = timedelta(hours=1)
SELECT_TENANT = timedelta(minutes=5)
MOST_AN_HOUR = 3


@dataclass(frozen=True, slots=True)
class Taken:
    """Whose token it was; ``tenant`` is None where it is about no tenant."""

    user: UUID
    tenant: UUID | None


def new_token() -> str:
    """43 characters of base64url: 256 random bits."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()


def hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def put(
    connection: asyncpg.Connection, kind: Kind, user: UUID, lifetime: timedelta, tenant: UUID | None = None
) -> str:
    """A new token, stored."""
    token = new_token()
    await connection.execute(
        "SELECT kernel_cross.put_one_time_token($1, $2, $3, $4, $5)", hashed(token), kind, user, tenant, lifetime
    )
    return token


async def put_limited(
    database: asyncpg.Pool | asyncpg.Connection, kind: Kind, user: UUID, lifetime: timedelta
) -> str | None:
    """A new token, stored; None when the user got ``MOST_AN_HOUR`` of that kind in the last hour."""
    token = new_token()
    stored = await database.fetchval(
        "SELECT kernel_cross.put_limited_one_time_token($1, $2, $3, NULL, $4, $5, $6)",
        hashed(token),
        kind,
        user,
        lifetime,
        MOST_AN_HOUR,
        timedelta(hours=1),
    )
    return token if stored else None


async def see(connection: asyncpg.Connection, kind: Kind, token: str) -> Taken:
    """Whose it is, without using it up. Raises ProblemError (401)."""
    row = await connection.fetchrow("SELECT * FROM kernel_cross.see_one_time_token($1, $2)", hashed(token), kind)
    if row is None:
        raise ProblemError(401, "token-expired", "the token has expired or was used: ask for a new one")
    return Taken(row["user_id"], row["tenant_id"])


async def take(connection: asyncpg.Connection, kind: Kind, token: str) -> Taken:
    """Uses it up in the transaction of ``connection``. Raises ProblemError (401)."""
    row = await connection.fetchrow("SELECT * FROM kernel_cross.take_one_time_token($1, $2)", hashed(token), kind)
    if row is None:
        raise ProblemError(401, "unauthenticated", "there is no such token: use the whole link from the mail")
    if row["state"] != "taken":
        slug = "token-expired" if row["state"] == "expired" else "token-revoked"
        said = "has expired" if row["state"] == "expired" else "was used before"
        raise ProblemError(401, slug, f"the token {said}: ask for a new one")
    return Taken(row["user_id"], row["tenant_id"])
