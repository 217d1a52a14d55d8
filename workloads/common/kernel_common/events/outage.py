"""Waiting for a system that is away. What fails before a handler has run, or after it, is no fault of the event:
it is waited for, however long it takes, and never counted as an attempt."""

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")

FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
"""Seconds between two looks at a system that is away; the wait doubles."""

_log = logging.getLogger(__name__)


class Away(Exception):
    """A system can't answer now. The message is fit to show."""

    def __init__(self, system: str, reason: str) -> None:
        super().__init__(f"{system}: {reason}")
        self.system = system


class Partition(Protocol):
    """What a delivery needs to know of the partition that it came from."""

    async def wait(self, seconds: float) -> None:
        """Raises LetGo when the partition is given up meanwhile."""

    def blocked(self, reason: str | None) -> None:
        """Says what the partition waits for; None: nothing."""


class LetGo(Exception):
    """The partition goes to another consumer: what is not done yet is that one's."""


async def patiently(do: Callable[[], Awaitable[T]], partition: Partition) -> T:
    """``do()``, again and again while it raises Away. Raises LetGo."""
    wait = FIRST_WAIT
    while True:
        try:
            answer = await do()
        except Away as away:
            if wait == FIRST_WAIT:
                _log.warning("waiting for %s", away)
            partition.blocked(str(away))
            await partition.wait(wait * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, hides nothing
            wait = min(wait * 2, LONGEST_WAIT)
        else:
            partition.blocked(None)
            return answer
