"""One delivery, from the message to its end: done, done before, not asked for, or dead-lettered.

It always comes to one of these ends, however bad the message, unless the partition is given up first. A failed attempt
is repeated after 1, 5 and 25 seconds, in place: nothing behind it in its partition begins, so what belongs to one key
keeps its order. Then it is a dead letter. What a system's outage costs is waited for and counted nowhere.
"""

import logging
import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from confluent_kafka import Message

from kernel_common.events import consumer_metrics as metrics
from kernel_common.events.deadletters import DeadLetters
from kernel_common.events.dedup import HandlerFailed, Once
from kernel_common.events.outage import Partition, patiently
from kernel_common.events.received import NotAnEvent, Received, headers_of, read
from kernel_common.logs import about, without_passwords

RETRY_AFTER = (1.0, 5.0, 25.0)
"""Seconds before the second, third and fourth attempt, each give or take a fifth."""

_log = logging.getLogger(__name__)


class Deliveries:
    """Brings messages to their end for one group. ``routes`` are by event type; ``tenants`` None: of every tenant."""

    def __init__(
        self,
        group: str,
        routes: Mapping[str, Once],
        dead_letters: DeadLetters,
        tenants: Collection[UUID] | None = None,
        retry_after: Sequence[float] = RETRY_AFTER,
    ) -> None:
        self._group, self._routes, self._dead_letters = group, routes, dead_letters
        self._tenants = None if tenants is None else frozenset(tenants)
        self._tenant_texts = None if tenants is None else frozenset(map(str, tenants))
        self._retry_after = retry_after

    async def conclude(self, message: Message, partition: Partition) -> None:
        """Returns when the message is over. Raises LetGo."""
        headers = headers_of(message)
        result = "passed"
        if not self._passes_by(headers):
            try:
                event = read(message, headers)
            except NotAnEvent as problem:
                await self._bury(message, str(problem), 0, partition)
                result = "dead"
            else:
                result = await self._work(message, event, partition)
        metrics.events.labels(self._group, message.topic(), result).inc()

    def _passes_by(self, headers: Mapping[str, str]) -> bool:
        """Whether the headers alone say that nobody here asked for it; most of a topic need not be parsed."""
        kind, tenant = headers.get("type"), headers.get("tenantId")
        return (kind is not None and kind not in self._routes) or (
            tenant is not None and self._tenant_texts is not None and tenant not in self._tenant_texts
        )

    async def _work(self, message: Message, event: Received, partition: Partition) -> str:
        once = self._routes.get(event.envelope.type)
        if once is None or (self._tenants is not None and event.envelope.tenant_id not in self._tenants):
            return "passed"
        while True:
            begun = time.perf_counter()
            try:
                outcome = await once(event, partition)
            except HandlerFailed as failed:
                metrics.failures.labels(self._group, event.topic).inc()
                error = _described(failed.__cause__)
                _log.warning("attempt %d of an event failed: %s", event.attempt, error, extra=self._about(event))
                if event.attempt > len(self._retry_after):
                    await self._bury(message, error, event.attempt, partition)
                    return "dead"
                wait = self._retry_after[event.attempt - 1]
                await partition.wait(wait * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, hides nothing
                event = replace(event, attempt=event.attempt + 1)
            else:
                metrics.handler_seconds.labels(self._group).observe(time.perf_counter() - begun)
                return str(outcome)

    async def _bury(self, message: Message, error: str, attempts: int, partition: Partition) -> None:
        _log.error("dead letter: %s", error, extra=self._where(message))
        await patiently(lambda: self._dead_letters.bury(message, error, attempts), partition)

    def _about(self, event: Received) -> dict[str, dict[str, str | int | float]]:
        envelope = event.envelope
        return about(
            group=self._group,
            event=str(envelope.id),
            type=envelope.type,
            tenant=str(envelope.tenant_id),
            trace=event.trace_id,
        )

    def _where(self, message: Message) -> dict[str, dict[str, str | int | float]]:
        return about(
            group=self._group,
            topic=message.topic() or "",
            partition=message.partition() or 0,
            offset=message.offset() or 0,
        )


def _described(error: BaseException | None) -> str:
    return without_passwords(f"{type(error).__name__}: {error}")[:500]
