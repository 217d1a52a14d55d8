"""Sessions: a pair of tokens, the row that its refresh token is, and who may have one.

A session is made under a shared lock on the membership. Whoever takes sessions away (a block, a removal, a new
password) takes that lock alone, so it meets every session that was being made, and those that come later meet the
change: none slips through between.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from kernel_common.events import emit
from kernel_common.ids import uuid7
from kernel_common.tenancy import set_tenant
from kernel_gateway.api.events import event
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.login import links
from kernel_gateway.login.query import query
from kernel_gateway.tokens.tokens import Claims, issue


@dataclass(frozen=True, slots=True)
class Pair:
    """``expires`` and ``refresh_expires`` are unix seconds."""

    access_token: str
    issued: int
    expires: int
    refresh_token: str
    refresh_expires: int


@dataclass(frozen=True, slots=True)
class Client:
    """Where a login came from."""

    address: str
    agent: str


@dataclass(frozen=True, slots=True)
class Membership:
    """A tenant of a user as kernel_cross.user_tenants tells it; ``status`` is the member's."""

    tenant: UUID
    name: str
    display_name: str
    tier: str
    blocked: bool
    status: str
    roles: tuple[str, ...]

    def refusal(self) -> ProblemError | None:
        """Why nobody gets a session for it now."""
        if self.blocked:
            return ProblemError(403, "tenant-blocked", "the tenant is blocked: ask its owner or the platform's")
        if self.status == "blocked":
            return ProblemError(403, "forbidden", "your membership is blocked: ask the tenant's administrators")
        if self.status != "active":
            return ProblemError(403, "forbidden", "the invitation is not accepted yet: use the link in its mail")
        return None


async def memberships(connection: asyncpg.Connection, user: UUID) -> list[Membership]:
    """Those of ``user``, by name. Retired tenants are left out."""
    rows = await connection.fetch("SELECT * FROM kernel_cross.user_tenants($1)", user)
    return [
        Membership(
            row["tenant_id"],
            row["name"],
            row["display_name"],
            row["tier"],
            row["blocked"],
            row["member_status"],
            tuple(row["roles"]),
        )
        for row in rows
    ]


async def membership(connection: asyncpg.Connection, user: UUID, tenant: UUID) -> Membership:
    """That of ``user`` in ``tenant``, fit for a session. Raises ProblemError (403)."""
    found = next((m for m in await memberships(connection, user) if m.tenant == tenant), None)
    if found is None:
        raise ProblemError(403, "forbidden", "you are no member of this tenant")
    if refusal := found.refusal():
        raise refusal
    return found


async def begin(
    connection: asyncpg.Connection,
    services: Services,
    user: UUID,
    tenant: UUID,
    *,
    client: Client,
    verified_hash: str | None,
) -> Pair:
    """A new session, in the transaction of ``connection``, which becomes the tenant's. ``verified_hash`` is the hash
    that the password was compared with. Raises ProblemError when the user may not have one (any more)."""
    await set_tenant(connection, tenant)
    await connection.execute(query("lock_member"), user)
    found = await membership(connection, user, tenant)
    await connection.execute("SELECT kernel_cross.set_last_tenant($1, $2)", user, tenant)
    if not await connection.fetchval("SELECT kernel_cross.is_password($1, $2)", user, verified_hash):
        raise ProblemError(401, "invalid-credentials", "the password was changed meanwhile: log in again")
    pair, _ = await add(connection, services, user, tenant, roles=found.roles, family=uuid7())
    told = {"userId": str(user), "tenantId": str(tenant), "ip": client.address, "userAgent": client.agent[:500]}
    await emit(connection, event("auth.user.logged_in", tenant, **told))
    return pair


async def add(
    connection: asyncpg.Connection,
    services: Services,
    user: UUID,
    tenant: UUID,
    *,
    roles: tuple[str, ...],
    family: UUID,
) -> tuple[Pair, UUID]:
    """One more pair of a family, and the id of its refresh token. The caller holds the member's lock."""
    token, row = links.new_token(), uuid7()
    lifetime = timedelta(seconds=services.settings.jwt_refresh_ttl_sec)
    ends: datetime = await connection.fetchval(
        query("insert_refresh_token"), row, user, family, links.hashed(token), lifetime
    )
    access, claims = access_token(services, user, tenant, roles)
    return Pair(access, claims.issued, claims.expires, token, int(ends.timestamp())), row


def access_token(
    services: Services, user: UUID, tenant: UUID, roles: tuple[str, ...], actor: UUID | None = None
) -> tuple[str, Claims]:
    """A signed access token and what it says. Raises KeysError."""
    now = time.time()
    issued = int(now)
    expires = issued + services.settings.jwt_access_ttl_sec
    claims = Claims(user, tenant, roles, issued, expires, uuid7(), actor)
    return issue(claims, services.keys.signer(now), services.settings.gateway_public_url), claims


def iso(seconds: int) -> str:
    """Unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
