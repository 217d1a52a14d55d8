"""The one way to work: a queue of keys.

Watch events, the periodic comparison and retries all do the same thing: they submit the key of an
object. The queue promises

* a key that is submitted many times before it is taken is worked on once;
* a key is never worked on twice at the same time: what is submitted meanwhile comes after;
* what failed comes back after a growing wait, with jitter, unless it is submitted before;
* a taker gets everything of its kind that is ready, up to a limit, so that a burst of a thousand
  objects is a handful of batches and not a thousand transactions;
* what is submitted in the background comes behind everything else, so that a change does not wait
  for a comparison of ten thousand objects; it has the rest of each batch.

Since nothing else changes a system, an event and a comparison can't race. The work itself must not
depend on how often or why a key came.
"""

import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Iterable
from typing import NamedTuple


class Key(NamedTuple):
    """Names one object: ``kind`` is the plural of its resource, ``namespace`` is empty where there is none."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}" if self.namespace else f"{self.kind}/{self.name}"


class WorkQueue:
    """See the module's text. Not thread-safe: it lives in one event loop."""

    def __init__(self, *, first_retry: float = 0.5, last_retry: float = 60.0) -> None:
        self._first_retry, self._last_retry = first_retry, last_retry
        self._ready: dict[str, dict[Key, float]] = {}
        self._background: dict[str, dict[Key, float]] = {}
        self._working: dict[Key, float] = {}
        self._again: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, int] = {}
        self._tickets = itertools.count()
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._last_finished = time.monotonic()

    def submit(self, keys: Iterable[Key]) -> None:
        """Have ``keys`` worked on as soon as possible."""
        now = time.monotonic()
        for key in keys:
            self._due.pop(key, None)
            if key in self._working:
                self._again.add(key)
            else:
                self._background.get(key.kind, {}).pop(key, None)
                self._ready.setdefault(key.kind, {}).setdefault(key, now)
        self._wake.set()

    def submit_in_background(self, keys: Iterable[Key]) -> None:
        """Have ``keys`` worked on behind all that is submitted; what is ready or under way comes no second time."""
        now = time.monotonic()
        for key in keys:
            if key not in self._working and key not in self._ready.get(key.kind, ()):
                self._due.pop(key, None)
                self._background.setdefault(key.kind, {}).setdefault(key, now)
        self._wake.set()

    async def take(self, kind: str, limit: int) -> list[Key]:
        """Wait for keys of ``kind`` and take up to ``limit`` of them, oldest first. Each must be given to ``done``."""
        while True:
            self._promote()
            batch: list[Key] = []
            for lane in self._lanes(kind):
                taken = list(itertools.islice(lane, limit - len(batch)))
                self._working.update((key, lane.pop(key)) for key in taken)
                batch += taken
            if batch:
                return batch
            self._wake.clear()
            pause = self._later[0][0] - time.monotonic() if self._later else None
            try:
                async with asyncio.timeout(None if pause is None else max(0.0, pause)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def done(self, key: Key, *, retry: bool = False) -> None:
        """The work on ``key`` ended; ``retry`` brings it back after its backoff."""
        self._working.pop(key, None)
        self._last_finished = time.monotonic()
        if not retry:
            self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            if retry:
                self._failures[key] = self._failures.get(key, 0) + 1
            self.submit([key])
        elif retry:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            wait = min(self._last_retry, self._first_retry * 2 ** min(failures - 1, 20))
            self._submit_later(key, wait * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    def failures(self, key: Key) -> int:
        """How often in a row the work on ``key`` failed."""
        return self._failures.get(key, 0)

    def depth(self, kind: str) -> int:
        """How many keys of ``kind`` are ready and not taken."""
        return sum(len(lane) for lane in self._lanes(kind))

    @property
    def idle(self) -> bool:
        """Nothing is ready and nothing is being worked on; retries may be waiting."""
        self._promote()
        return not self._working and not any(self._ready.values()) and not any(self._background.values())

    def standing_still(self) -> float:
        """For how many seconds there has been work and none of it was finished; 0 when there is none."""
        self._promote()
        lanes = [*self._ready.values(), *self._background.values()]
        oldest = [next(iter(lane.values())) for lane in lanes if lane]
        if not oldest and not self._working:
            return 0.0
        return time.monotonic() - max(self._last_finished, min([*oldest, *self._working.values()]))

    def _lanes(self, kind: str) -> list[dict[Key, float]]:
        """What is ready of ``kind``: what comes first, then the background."""
        return [self._ready.get(kind, {}), self._background.get(kind, {})]

    def _submit_later(self, key: Key, seconds: float) -> None:
        ticket = next(self._tickets)
        self._due[key] = ticket
        heapq.heappush(self._later, (time.monotonic() + seconds, ticket, key))
        self._wake.set()

    def _promote(self) -> None:
        """Move what has become due to the ready keys; entries that were overtaken are dropped here."""
        now = time.monotonic()
        while self._later and (self._later[0][0] <= now or self._due.get(self._later[0][2]) != self._later[0][1]):
            _, ticket, key = heapq.heappop(self._later)
            if self._due.get(key) == ticket:
                self.submit([key])
