"""What belongs to a user rather than to a membership: the address, the password.

A change of the password ends every session in every tenant. It takes the lock of each membership first, in one order,
so that no session which is being made or refreshed at that moment is missed (see sessions.py).
"""

from uuid import UUID

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT
from kernel_common.events import emit
from kernel_common.tenancy import set_tenant
from kernel_gateway.api.events import event
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.login import letters, links, mfa, sessions
from kernel_gateway.login.query import query
from kernel_gateway.login.signin import FIND


async def request_verification(services: Services, user: UUID) -> None:
    """Mails a link, unless the address is verified. Raises ProblemError (429) after three in an hour."""
    account = await services.pool.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", user)
    if account is None or account["email_verified_at"] is not None:
        return
    token = await links.put_limited(services.pool, "verify_email", user, links.VERIFY_EMAIL)
    if token is None:
        raise ProblemError(
            429, "rate-limit-exceeded", "three mails an hour are sent: look for them", headers={"Retry-After": "3600"}
        )
    services.mail.put(letters.verify_email(services.settings, account["email"], token))


async def verify_email(services: Services, token: str) -> None:
    """Raises ProblemError (401)."""
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, connection.transaction():
        who = await links.take(connection, "verify_email", token)
        await connection.execute("SELECT kernel_cross.verify_email($1)", who.user)
        await _announce(connection, who.user, "emailVerified")


async def request_reset(services: Services, email: str) -> None:
    """Mails a link if ``email`` has an account, at most three an hour."""
    account = await services.pool.fetchrow(FIND, email.lower())
    if account is None:
        return
    token = await links.put_limited(services.pool, "reset_password", account["id"], links.RESET_PASSWORD)
    if token is not None:
        services.mail.put(letters.reset_password(services.settings, account["email"], token))


async def reset_password(services: Services, token: str, password: str) -> None:
    """Sets the password, ends all sessions. Who has the mail has the address: it is verified. Raises ProblemError."""
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection:
        await links.see(connection, "reset_password", token)  # so that a wrong token costs no hash
    hashed = await services.passwords.hash(password)
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, connection.transaction():
        who = await links.take(connection, "reset_password", token)
        account = await connection.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", who.user)
        await _set_password(connection, who.user, hashed)
        if account["email_verified_at"] is None:
            # Whoever registered this address had not shown that it is theirs: their second factor must not lock out
            # the one who now has.
            await connection.execute("SELECT kernel_cross.disable_mfa($1)", who.user)
        await connection.execute("SELECT kernel_cross.verify_email($1)", who.user)


async def change_password(services: Services, user: UUID, old: str, new: str, client: str) -> None:
    """Sets the password, ends all sessions, the caller's too. Raises ProblemError: 401, 429."""
    account = await mfa.confirmed(services, user, old, client)
    hashed = await services.passwords.hash(new)
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, connection.transaction():
        await _set_password(connection, user, hashed, account["password_hash"])


async def _set_password(connection: asyncpg.Connection, user: UUID, hashed: str, instead_of: str | None = None) -> None:
    for membership in sorted(await sessions.memberships(connection, user), key=lambda m: m.tenant):
        await set_tenant(connection, membership.tenant)
        await connection.execute(query("lock_member_alone"), user)
    present = await connection.fetchval("SELECT password_hash FROM kernel_cross.find_user(NULL, $1)", user)
    if instead_of is not None and present != instead_of:
        raise ProblemError(401, "invalid-credentials", "the password was changed meanwhile")
    await connection.execute("SELECT kernel_cross.set_password($1, $2)", user, hashed)
    await _announce(connection, user, "password")


async def _announce(connection: asyncpg.Connection, user: UUID, changed: str) -> None:
    """A user's change concerns each tenant that they are in. What changed, not what it is now."""
    for membership in sorted(await sessions.memberships(connection, user), key=lambda m: m.tenant):
        await set_tenant(connection, membership.tenant)
        told = event("auth.user.updated", membership.tenant, userId=str(user), changed=[changed])
        await emit(connection, told)
