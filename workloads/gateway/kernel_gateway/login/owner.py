"""Platform owners are made by the command line alone: no request can make one."""

from collections.abc import Callable

import asyncpg
from pydantic import TypeAdapter, ValidationError

from kernel_common.database import DatabaseUnavailable, open_pool, waiting_explained
from kernel_gateway.api.models import Email
from kernel_gateway.login.password import MAX_LENGTH, MIN_LENGTH, PasswordHashing
from kernel_gateway.settings import Settings


class OwnerError(Exception):
    """Says in one line what to do."""


async def create(settings: Settings, email: str, password: Callable[[], str]) -> str:
    """Makes the account of ``email``, or takes the one there is, and makes it a platform owner; says which.
    ``password`` is asked for only where the account is new. Raises OwnerError."""
    try:
        email = TypeAdapter(Email).validate_python(email).lower()
    except ValidationError:
        raise OwnerError("--email must be an address such as ada@acme.example") from None
    try:
        pool = await open_pool(settings.database_url.get_secret_value(), application="kernel-gateway-owner", max_size=1)
    except ValueError as error:
        raise OwnerError(f"DATABASE_URL: {error}") from None
    try:
        with waiting_explained():
            return await _create(pool, settings, email, password)
    except DatabaseUnavailable as error:
        raise OwnerError(f"the database: {error}") from None
    finally:
        pool.terminate()


async def _create(pool: asyncpg.Pool, settings: Settings, email: str, password: Callable[[], str]) -> str:
    account = await pool.fetchrow("SELECT * FROM kernel_cross.find_user($1, NULL)", email)
    user = account["id"] if account else None
    if user is None:
        chosen = password()
        if not MIN_LENGTH <= len(chosen) <= MAX_LENGTH:
            raise OwnerError(f"the password must have {MIN_LENGTH} to {MAX_LENGTH} characters")
        hashed = await PasswordHashing.of(settings).hash(chosen)
        user = await pool.fetchval("SELECT kernel_cross.create_user($1, '', $2)", email, hashed)
        if user is None:
            raise OwnerError("the account was made by somebody else just now: run this again")
    await pool.execute("SELECT kernel_cross.make_platform_owner($1)", user)
    return f"{email} is a platform owner{'' if account else ', with a new account'}"
