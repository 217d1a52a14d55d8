"""The gate between requests and a re-open of the engine: many may pass, a re-open needs them all out."""

import contextlib
import threading
import time
from collections.abc import Iterator

from kernel_local.clickhouse import errors
from kernel_local.clickhouse.errors import error

MAX_INSIDE = 100
MAX_QUEUE_SECONDS = 60.0


class Gate:
    """Requests hold `inside()`; a re-open holds `alone()`.

    A re-open that waits keeps new requests out, so it is not starved; they wait and none of them fails. If the
    requests inside take longer than the bound, the re-open gives up and the others go on.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False
        self._waiting = 0

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Held by a request while it uses the engine.

        Raises:
            ClickHouseError: TOO_MANY_SIMULTANEOUS_QUERIES when there is no room for a minute.
        """
        with self._changed:
            if not self._changed.wait_for(self._has_room, MAX_QUEUE_SECONDS):
                raise error(errors.TOO_MANY_SIMULTANEOUS_QUERIES, "Too many simultaneous queries")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return not self._alone and not self._waiting and self._inside < MAX_INSIDE

    @contextlib.contextmanager
    def alone(self, seconds: float) -> Iterator[None]:
        """Held by a re-open.

        Raises:
            ClickHouseError: TIMEOUT_EXCEEDED when requests stay inside longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            self._waiting += 1
            try:
                free = self._changed.wait_for(
                    lambda: not self._inside and not self._alone, max(0.0, deadline - time.monotonic())
                )
            finally:
                self._waiting -= 1
                self._changed.notify_all()
            if not free:
                raise error(
                    errors.TIMEOUT_EXCEEDED,
                    f"Timeout exceeded: queries that run now did not end within {seconds:g} s, "
                    "and access statements are applied between queries",
                )
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
