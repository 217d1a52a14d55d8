"""What is put right in the background. Every gateway does it, several at once do no harm."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from kernel_common.database import reason_to_wait
from kernel_gateway.api.services import Services
from kernel_gateway.login.registration import apply_missing
from kernel_gateway.login.tenant_resources import ClusterAway

SESSIONS_EVERY = 5.0
TENANTS_EVERY = 30.0
LETTERS_EVERY = 3600.0
BATCH = 1000

log = logging.getLogger(__name__)


async def sweep_sessions(services: Services) -> int:
    """Clears answers whose window is over, and what has long expired; returns how many rows."""
    grace = timedelta(seconds=services.settings.refresh_grace_sec)
    swept: int = await services.pool.fetchval("SELECT kernel_cross.sweep_sessions($1, $2)", grace, BATCH)
    return swept


async def sweep_letters(services: Services) -> int:
    """Forgets dead letters that were dealt with a month ago; returns how many."""
    total = 0
    while swept := await services.pool.fetchval("SELECT kernel.sweep_dead_letters($1)", BATCH):
        total += swept
    return total


async def run(services: Services) -> None:
    """Until cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_every(SESSIONS_EVERY, "sessions", lambda: sweep_sessions(services)))
        group.create_task(_every(LETTERS_EVERY, "dead letters", lambda: sweep_letters(services)))
        if services.tenants is not None:
            group.create_task(_every(TENANTS_EVERY, "registered tenants", lambda: apply_missing(services)))


async def _every(seconds: float, what: str, work: Callable[[], Awaitable[int]]) -> None:
    trouble = ""
    while True:
        try:
            await work()
            now = ""
        except ClusterAway as error:
            now = str(error)
        except Exception as error:
            now = reason_to_wait(error) or ""
            if not now:
                log.exception("the sweep of %s failed", what)
        if now and now != trouble:
            log.warning("the sweep of %s has to wait: %s", what, now)
        trouble = now
        await asyncio.sleep(seconds)
