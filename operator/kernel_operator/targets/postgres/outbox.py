"""Keeps the outbox's partitions ahead of the days."""

import asyncpg

from kernel_operator.desired import Outcome
from kernel_operator.targets.postgres.session import transaction

DAYS_AHEAD = 14


async def make_partitions(pool: asyncpg.Pool, days_ahead: int = DAYS_AHEAD) -> Outcome:
    """Make the partitions that are missing, from today to ``days_ahead`` days later. Raises Unavailable."""
    async with transaction(pool) as connection:
        rows = await connection.fetch("SELECT kernel.outbox_make_partitions($1) AS name", days_ahead)
    return Outcome(tuple(f"made partition kernel.{row['name']}" for row in rows))
