"""Work that an answer does not wait for, so that its time can't tell what was found. Bounded; what is too much is
dropped."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from kernel_common.database import reason_to_wait

MOST = 20

log = logging.getLogger(__name__)


class Background:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        """Has ``work`` done. ``what`` names it in the log when it is dropped or fails."""
        if len(self._tasks) >= MOST:
            log.warning("%s was dropped: too much at once", what)
            return
        task = asyncio.create_task(_done(what, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def idle(self) -> None:
        """Returns when everything that was put is done."""
        while self._tasks:
            await asyncio.wait(self._tasks)


async def _done(what: str, work: Callable[[], Awaitable[object]]) -> None:
    try:
        await work()
    except Exception as error:
        if reason := reason_to_wait(error):
            log.warning("%s was lost: %s", what, reason)
        else:
            log.exception("%s failed", what)
