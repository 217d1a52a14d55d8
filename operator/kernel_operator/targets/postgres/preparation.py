"""What must be true before anything else: roles and crossing functions are as bootstrap.sql makes them."""

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT
from kernel_operator.targets.postgres.cross import crossing_functions
from kernel_operator.targets.postgres.session import query


class NotBootstrapped(Exception):
    """A role, a right or a setting of the server differs from what bootstrap.sql makes."""


async def require_bootstrap(pool: asyncpg.Pool) -> None:
    """Raises NotBootstrapped, which names each thing to fix: a role that may too much is no less wrong
    than one that may too little."""
    async with pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection:
        problems = [row["problem"] for row in await connection.fetch(query("check_roles"), crossing_functions())]
    if problems:
        raise NotBootstrapped(f"PostgreSQL: {'; '.join(problems)} (running bootstrap.sql again puts this right)")
