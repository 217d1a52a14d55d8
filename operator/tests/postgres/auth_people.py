"""People and their tenants for tests, made by the functions that the gateway calls."""

import hashlib
import itertools
from uuid import UUID

import asyncpg

OWNER, ADMIN, MEMBER = (UUID(f"00000000-0000-7000-8000-00000000000{number}") for number in (1, 2, 3))
HASH = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA"

_numbers = itertools.count(1)


def an_address() -> str:
    return f"person{next(_numbers)}@people.example"


async def a_user(connection: asyncpg.Connection, email: str = "", password_hash: str | None = HASH) -> UUID:
    """An account, made by whoever ``connection`` is."""
    user: UUID = await connection.fetchval(
        "SELECT kernel_cross.create_user($1, 'Ada', $2)", email or an_address(), password_hash
    )
    return user


async def a_proven_user(connection: asyncpg.Connection, email: str = "", password_hash: str | None = HASH) -> UUID:
    """An account whose address was verified."""
    user = await a_user(connection, email, password_hash)
    await connection.execute("SELECT kernel_cross.verify_email($1)", user)
    return user


async def a_member(
    gateway: asyncpg.Connection,
    tenant: UUID,
    role: UUID | None = MEMBER,
    status: str = "active",
    user: UUID | None = None,
) -> UUID:
    """A member of ``tenant`` with ``role``, and a session of theirs; ``gateway`` is in no transaction."""
    user = user or await a_user(gateway)
    async with gateway.transaction():
        await gateway.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant))
        await gateway.execute("INSERT INTO auth.members (user_id, status) VALUES ($1, $2)", user, status)
        if role:
            await gateway.execute("INSERT INTO auth.member_roles (user_id, role_id) VALUES ($1, $2)", user, role)
    await a_session(gateway, tenant, user)
    return user


async def a_session(gateway: asyncpg.Connection, tenant: UUID, user: UUID) -> bytes:
    """A refresh token; returns its hash."""
    token = hashlib.sha256(str(next(_numbers)).encode()).digest()
    async with gateway.transaction():
        await gateway.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant))
        await gateway.execute(
            "INSERT INTO auth.refresh_tokens (user_id, family_id, token_hash, expires_at, answer) "
            "VALUES ($1, uuidv7(), $2, now() + interval '7 days', 'x')",
            user,
            token,
        )
    return token
