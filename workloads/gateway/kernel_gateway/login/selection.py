"""Which tenant a login is for, and the five minutes in which somebody with several may choose.

What is given between password and choice is no JWT and opens nothing but this. It is bound to the password hash that
was verified: a password that is changed meanwhile ends it.
"""

import base64
import hmac
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.login import links, sessions
from kernel_gateway.login.sessions import Client, Membership, Pair


@dataclass(frozen=True, slots=True)
class Choice:
    """What a login ends in when no single tenant follows: ``tenants`` to choose from, or none, to make one."""

    session_token: str
    tenants: tuple[Membership, ...]


def tenant_of(found: list[Membership], last: UUID | None, wanted: UUID | None) -> UUID | None:
    """The tenant that a login is for; None when the user must choose, or has none. Raises ProblemError (403)."""
    if wanted is not None:
        chosen = next((m for m in found if m.tenant == wanted), None)
        if chosen is None:
            raise ProblemError(403, "forbidden", "tenantId: you are no member of this tenant")
        if refusal := chosen.refusal():
            raise refusal
        return wanted
    usable = [m.tenant for m in found if m.refusal() is None]
    if len(usable) == 1 or last in usable:
        return last if last in usable else usable[0]
    refusals = [refusal for m in found if m.status != "invited" and (refusal := m.refusal())]
    if not usable and refusals:
        raise refusals[0]
    return None


async def offer(connection: asyncpg.Connection, user: UUID, found: list[Membership], password_hash: str) -> Choice:
    """Lets ``user`` choose."""
    token = await links.put(connection, "select_tenant", user, links.SELECT_TENANT)
    return Choice(_bound(token, password_hash), tuple(m for m in found if m.refusal() is None))


async def taken(connection: asyncpg.Connection, session_token: str) -> asyncpg.Record:
    """The account whose session token it is, used up in the transaction of ``connection``. Raises ProblemError."""
    token, _, _ = session_token.partition(".")
    who = await links.take(connection, "select_tenant", token)
    account = await connection.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", who.user)
    if not hmac.compare_digest(_bound(token, account["password_hash"]).encode(), session_token.encode()):
        raise ProblemError(401, "token-revoked", "the password was changed meanwhile: log in again")
    return account


async def select(services: Services, session_token: str, tenant: UUID, client: Client) -> Pair:
    """The session that was chosen. A choice that is refused leaves the token as it is. Raises ProblemError."""
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, connection.transaction():
        account = await taken(connection, session_token)
        return await sessions.begin(
            connection, services, account["id"], tenant, client=client, verified_hash=account["password_hash"]
        )


def _bound(token: str, password_hash: str) -> str:
    mark = hmac.digest(token.encode(), password_hash.encode(), "sha256")
    return f"{token}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"
