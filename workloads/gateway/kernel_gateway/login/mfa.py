"""The second factor: codes by time, each used once, and ten recovery codes.

The secret is sealed under the master key and bound to its user. Nothing is in force until a code has shown that the
user's app has the secret. Which step a code was for is used up in the database, so a code that was seen on its way is
of no use to anybody, in any process.
"""

import base64
import logging
import re
import secrets
import time
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT
from kernel_common.events import emit
from kernel_common.tenancy import set_tenant
from kernel_gateway.access import Identity
from kernel_gateway.api.events import event
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.login import totp
from kernel_gateway.login.lockout import Attempt
from kernel_gateway.login.sealing import SealBroken, seal, unseal

RECOVERY_CODES = 10
ISSUER = "Platform-Kernel"

log = logging.getLogger(__name__)

_FIND = "SELECT * FROM kernel_cross.find_user(NULL, $1)"
_SEPARATORS = re.compile(r"[\s-]")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Shown once. ``url`` is what a QR code holds."""

    secret: str
    url: str
    recovery_codes: tuple[str, ...]


async def begin(services: Services, user: UUID, password: str, client: str) -> Enrolment:
    """A new secret for ``user``, not in force yet. Raises ProblemError: 401, 409 when one is in force."""
    account = await confirmed(services, user, password, client)
    secret = secrets.token_bytes(totp.SECRET_BYTES)
    codes = [base64.b32encode(secrets.token_bytes(10)).decode() for _ in range(RECOVERY_CODES)]
    sealed = seal(services.settings.kernel_master_key, _context(user), secret)
    hashes = await services.passwords.hash_codes(codes)
    if not await services.pool.fetchval("SELECT kernel_cross.start_mfa($1, $2, $3)", user, sealed, hashes):
        raise ProblemError(409, "conflict", "a second factor is in force: disable it first")
    shown = tuple("-".join(code[at : at + 4] for at in range(0, len(code), 4)) for code in codes)
    return Enrolment(totp.text(secret), totp.url(secret, ISSUER, account["email"]), shown)


async def enable(services: Services, identity: Identity, code: str, client: str) -> None:
    """Puts the factor in force. Raises ProblemError: 401 for a wrong code, 409 when there is nothing to enable."""
    attempt = Attempt(f"mfa {identity.user}", client)
    await attempt.begin(services.pool)
    account = await services.pool.fetchrow(_FIND, identity.user)
    if account["mfa_secret"] is None or account["mfa_enabled_at"] is not None:
        raise ProblemError(409, "conflict", "there is no second factor that waits to be enabled")
    step = _step(services, account, code)
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, connection.transaction():
        await set_tenant(connection, identity.tenant)
        if step is None or not await _use_step(connection, identity.user, step):
            raise ProblemError(401, "invalid-credentials", "code: the code is wrong or was used before")
        await emit(connection, event("auth.mfa.enabled", identity.tenant, userId=str(identity.user)))
    await attempt.succeeded(services.pool)


async def disable(services: Services, identity: Identity, password: str, code: str, client: str) -> None:
    """Takes the factor away. Raises ProblemError: 401, 409 when none is in force."""
    account = await confirmed(services, identity.user, password, client)
    if account["mfa_enabled_at"] is None:
        raise ProblemError(409, "conflict", "no second factor is in force")
    attempt = Attempt(f"mfa {identity.user}", client)
    await attempt.begin(services.pool)
    if not await accepts(services, account, code):
        raise ProblemError(401, "invalid-credentials", "code: the code is wrong or was used before")
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, connection.transaction():
        await set_tenant(connection, identity.tenant)
        await connection.execute("SELECT kernel_cross.disable_mfa($1)", identity.user)
        await emit(connection, event("auth.mfa.disabled", identity.tenant, userId=str(identity.user)))
    await attempt.succeeded(services.pool)


async def accepts(services: Services, account: asyncpg.Record, code: str) -> bool:
    """Whether ``code`` is the account's: of this time, or a recovery code. Either is used up."""
    code = _SEPARATORS.sub("", code).upper()
    if len(code) == totp.DIGITS:
        step = _step(services, account, code)
        return step is not None and await _use_step(services.pool, account["id"], step)
    hashed = await services.passwords.matching_code(account["recovery_codes"], code)
    if hashed is None:
        return False
    return bool(await services.pool.fetchval("SELECT kernel_cross.use_recovery_code($1, $2)", account["id"], hashed))


async def confirmed(services: Services, user: UUID, password: str, client: str) -> asyncpg.Record:
    """The account of ``user``, who has given the password once more. Raises ProblemError: 401, 429."""
    account = await services.pool.fetchrow(_FIND, user)
    if account is None:
        raise ProblemError(401, "unauthenticated", "the account is gone")
    attempt = Attempt(f"confirm {user}", client)  # not the login's: that one asks for more before it forgets
    await attempt.begin(services.pool)
    if not await services.passwords.matches(account["password_hash"], password):
        raise ProblemError(401, "invalid-credentials", "password: it is wrong")
    await attempt.succeeded(services.pool)
    return account


def _step(services: Services, account: asyncpg.Record, code: str) -> int | None:
    try:
        secret = unseal(services.settings.kernel_master_key, _context(account["id"]), account["mfa_secret"])
    except SealBroken:
        log.error("a second factor does not open: is KERNEL_MASTER_KEY another one? (recovery codes still work)")
        return None
    return totp.step_of(secret, code, time.time())


async def _use_step(database: asyncpg.Pool | asyncpg.Connection, user: UUID, step: int) -> bool:
    return bool(await database.fetchval("SELECT kernel_cross.use_mfa_step($1, $2)", user, step))


def _context(user: UUID) -> bytes:
    return b"second factor " + user.bytes
