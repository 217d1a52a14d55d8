"""The login: address and password, the second factor, the tenant.

Whether an address has an account shows neither in the answer nor in its time: a password is compared in any case, with
a hash of nobody's where there is none.
"""

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.login import mfa, selection, sessions
from kernel_gateway.login.lockout import Attempt
from kernel_gateway.login.selection import Choice
from kernel_gateway.login.sessions import Client, Pair

FIND = "SELECT * FROM kernel_cross.find_user($1, NULL)"


@dataclass(frozen=True, slots=True)
class Credentials:
    email: str
    password: str
    tenant: UUID | None = None
    mfa_code: str | None = None


async def log_in(services: Services, credentials: Credentials, client: Client) -> Pair | Choice:
    """A session, or the choice of a tenant. Raises ProblemError: 401, 403, 429."""
    email = credentials.email.lower()
    attempt = Attempt(email, client.address)
    await attempt.begin(services.pool)
    account = await services.pool.fetchrow(FIND, email)
    hashed: str | None = account["password_hash"] if account else None
    if not await services.passwords.matches(hashed, credentials.password) or hashed is None:
        raise ProblemError(401, "invalid-credentials", "the address or the password is wrong")
    await _second_factor(services, account, credentials.mfa_code)
    await attempt.succeeded(services.pool)
    if services.passwords.is_weak(hashed):
        hashed = await _strengthen(services, account["id"], hashed, credentials.password)
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection:
        found = await sessions.memberships(connection, account["id"])
        tenant = selection.tenant_of(found, account["last_tenant_id"], credentials.tenant)
        if tenant is None:
            return await selection.offer(connection, account["id"], found, hashed)
        async with connection.transaction():
            return await sessions.begin(
                connection, services, account["id"], tenant, client=client, verified_hash=hashed
            )


async def _second_factor(services: Services, account: asyncpg.Record, code: str | None) -> None:
    """The attempt stays counted when this raises: who has the password still may not guess codes."""
    if account["mfa_enabled_at"] is None:
        return
    if code is None:
        raise ProblemError(401, "mfa-required", "mfaCode: a code of the second factor is needed")
    if not await mfa.accepts(services, account, code):
        raise ProblemError(401, "invalid-credentials", "mfaCode: the code is wrong or was used before")


async def _strengthen(services: Services, user: UUID, old: str, password: str) -> str:
    """The hash that the account has now. Somebody may have changed the password meanwhile: theirs stays."""
    new = await services.passwords.hash(password)
    await services.pool.execute("SELECT kernel_cross.rehash_password($1, $2, $3)", user, old, new)
    present: str = await services.pool.fetchval("SELECT password_hash FROM kernel_cross.find_user(NULL, $1)", user)
    return new if present == new else old
