"""For tests: the process kills itself right after its n-th change of something outside.

Each system tells of a change at the one place that all of its changes pass. Not armed, which is always so but in a
test, that costs a comparison.
"""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

_left = 0
"""Changes until the end; 0 when not armed."""


def arm(writes: int) -> None:
    """Die by SIGKILL as soon as ``writes`` more changes (at least 1) are made."""
    global _left  # noqa: PLW0603 - what is counted belongs to the process, as its death does
    _left = writes


def wrote() -> None:
    """A change outside was made and acknowledged."""
    global _left  # noqa: PLW0603
    if not _left:
        return
    _left -= 1
    if not _left:
        os.kill(os.getpid(), signal.SIGKILL)


@asynccontextmanager
async def transaction(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction of PostgreSQL; when armed, one that wrote counts once it is committed."""
    changed = False
    async with connection.transaction():
        yield
        if _left:
            changed = await connection.fetchval("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
    if changed:
        wrote()
