"""A process that runs a module's migrations and is killed on the way: python migration_victim.py URL SLUG STEP MOMENT.

A step is a question to the database, counted from 1. ``before``: killed when step STEP is about to be
sent. ``during``: killed right after it was sent, while the database is at work on it. Ends with 0
when there are fewer steps. The migrations come as JSON on standard input.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from kernel_operator.desired import Migration
from kernel_operator.targets.postgres import PostgresTarget

_steps = itertools.count(1)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _counted(question: Callable[..., Awaitable[Any]], fatal: int, moment: str) -> Callable[..., Awaitable[Any]]:
    async def ask(*arguments: Any, **named: Any) -> Any:
        if next(_steps) != fatal:
            return await question(*arguments, **named)
        if moment == "during":
            asked = asyncio.ensure_future(question(*arguments, **named))
            await asyncio.wait([asked], timeout=0)
        _die()
        return None

    return ask


async def main(url: str, slug: str, fatal: int, moment: str) -> None:
    migrations = [Migration(name, sql) for name, sql in json.load(sys.stdin)]
    for name in ("execute", "fetch", "fetchval", "fetchrow"):
        setattr(asyncpg.Connection, name, _counted(getattr(asyncpg.Connection, name), fatal, moment))
    outcome = await PostgresTarget(url).migrate_module(slug, "1.0.0", migrations)
    assert outcome.refusal is None, outcome
    assert len(outcome.changes) == len(migrations), outcome


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
