"""The refresh of a session, and the ten seconds in which its old token still answers.

A refresh token is used once, but tabs of one browser share it and may use it at the same time. So its first use starts
a window, and in it the same token is given the same pair again, byte for byte; afterwards it is revoked for good.

The first caller holds the lock of the token's row while it makes the pair, and writes the pair into that row, sealed
under a key that is derived from the presented token. One transaction does it all: a process that dies leaves either the
old token unused or the whole answer, whoever asks next, in whichever process. Neither a cache nor a second signature
can split the tabs. The table alone reveals no pair, since it holds only the tokens' hashes. The window is measured by
the database's clock, from the row's own stamp.
"""

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT
from kernel_common.events import emit
from kernel_common.tenancy import set_tenant
from kernel_gateway.api.events import event
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.login import links, sessions
from kernel_gateway.login.faults import reached
from kernel_gateway.login.query import query
from kernel_gateway.login.sealing import seal, unseal
from kernel_gateway.login.sessions import Pair

_CONTEXT = b"refresh answer"
_TENANT = "SELECT kernel_cross.refresh_token_tenant($1)"
_UNKNOWN = ("unauthenticated", "there is no session with this refresh token: log in")
_EXPIRED = ("token-expired", "the session has expired: log in")
_REVOKED = ("token-revoked", "the session has ended, or this refresh token was used before: log in")


async def refresh(services: Services, token: str) -> Pair:
    """The pair that follows ``token``. Raises ProblemError: 401, or 403 when the member or the tenant is blocked."""
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection:
        tenant = await connection.fetchval(_TENANT, links.hashed(token))
        if tenant is None:
            raise ProblemError(401, *_UNKNOWN)
        async with connection.transaction():
            await set_tenant(connection, tenant)
            pair = await _repeat_or_rotate(connection, services, token, tenant)
        if pair is None:
            async with connection.transaction():
                await set_tenant(connection, tenant)
                await _note_reuse(connection, services, token, tenant)
            raise ProblemError(401, *_REVOKED)
    reached("refresh.committed")
    return pair


async def end(services: Services, token: str) -> None:
    """Ends the session that ``token`` belongs to: every token of its family. Harmless when there is none."""
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection:
        tenant = await connection.fetchval(_TENANT, links.hashed(token))
        if tenant is None:
            return
        async with connection.transaction():
            await set_tenant(connection, tenant)
            session = await _alone(connection, token)
            if session is None:
                return
            await connection.execute(query("revoke_family"), session.family)
            user = str(session.user)
            await emit(connection, event("auth.user.logged_out", tenant, userId=user, tenantId=str(tenant)))


async def _repeat_or_rotate(
    connection: asyncpg.Connection, services: Services, token: str, tenant: UUID
) -> Pair | None:
    """None when the token was used before and its window is over. Raises ProblemError."""
    session = await connection.fetchrow(query("lock_session"), links.hashed(token))
    if session is None:
        raise ProblemError(401, *_UNKNOWN)  # the member was removed meanwhile
    await connection.execute(query("lock_refresh_token"), session["id"])
    reached("refresh.locked")
    window = timedelta(seconds=services.settings.refresh_grace_sec)
    row = await connection.fetchrow(query("read_refresh_token"), session["id"], window)
    if row["revoked"]:
        raise ProblemError(401, *_REVOKED)
    if row["used"]:
        if row["in_window"] and row["answer"] is not None:
            return Pair(**json.loads(unseal(token.encode(), _CONTEXT, row["answer"])))
        return None
    if row["expired"]:
        raise ProblemError(401, *_EXPIRED)
    member = await sessions.membership(connection, session["user_id"], tenant)
    pair, child = await sessions.add(
        connection, services, session["user_id"], tenant, roles=member.roles, family=row["family_id"]
    )
    reached("refresh.signed")
    answer = seal(token.encode(), _CONTEXT, json.dumps(asdict(pair)).encode())
    await connection.execute(query("use_refresh_token"), session["id"], child, answer)
    reached("refresh.written")
    return pair


async def _note_reuse(connection: asyncpg.Connection, services: Services, token: str, tenant: UUID) -> None:
    """Revokes the token, or its whole family, and tells of it: once, since a revoked one does not come here."""
    session = await _alone(connection, token)
    if session is None:
        return
    everywhere = services.settings.refresh_reuse_revokes_family
    if everywhere:
        await connection.execute(query("revoke_family"), session.family)
    else:
        await connection.execute(query("revoke_refresh_token"), session.id)
    user, family = str(session.user), str(session.family)
    told = event("auth.session.reused", tenant, userId=user, familyId=family, familyRevoked=everywhere)
    await emit(connection, told)


@dataclass(frozen=True, slots=True)
class _Session:
    id: UUID
    user: UUID
    family: UUID


async def _alone(connection: asyncpg.Connection, token: str) -> _Session | None:
    """The session of ``token``, with nobody else at work on this member's sessions; None when it has ended."""
    found = await connection.fetchrow(query("lock_session_alone"), links.hashed(token))
    if found is None:
        return None
    row = await connection.fetchrow(query("read_refresh_token"), found["id"], timedelta(0))
    return None if row["revoked"] else _Session(found["id"], found["user_id"], row["family_id"])
