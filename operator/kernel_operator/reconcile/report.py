"""What a reconcile tells the world about an object: its status, and an Event when its state changed."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from kernel_common.logs import about
from kernel_operator import metrics
from kernel_operator.announce import announce
from kernel_operator.cluster import Body, Cluster
from kernel_operator.conditions import READY, Condition, merged, ready
from kernel_operator.kube import Kube
from kernel_operator.queue import Key
from kernel_operator.reconcile.attempt import fields_of

log = logging.getLogger(__name__)


class Reporter:
    """Writes statuses. Not a byte is written when nothing is to say that is not there already."""

    def __init__(self, kube: Kube, cluster: Cluster) -> None:
        self._kube, self._cluster = kube, cluster
        self._readiness: dict[Key, bool] = {}

    async def report(
        self, key: Key, body: Body, conditions: Sequence[Condition], fields: Mapping[str, Any], *, summary: str = ""
    ) -> None:
        """Bring the status of ``body`` to ``conditions``, their summary Ready, and ``fields``; a field that is
        None is taken away. ``body`` is the object that was judged: its generation is the observed one."""
        generation = body["metadata"].get("generation", 1)
        current = body.get("status") or {}
        judged = [ready(conditions, ready_message=summary), *conditions]
        status = {
            **fields,
            "observedGeneration": generation,
            "conditions": merged(judged, current.get("conditions") or [], generation),
        }
        self._count(key, judged[0])
        if all(current.get(name) == value for name, value in status.items()):
            return
        written = await self._kube.patch_status(body, key.kind, status)
        if written is None:
            return
        self._cluster.wrote(key.kind, written)
        await self._tell(key, body, judged[0], current.get("conditions") or [])

    async def repaired(self, key: Key, body: Body, system: str, changes: Sequence[str]) -> None:
        """Tell that ``changes`` were made although the resource had not changed."""
        metrics.repairs.labels(system).inc(len(changes))
        note = f"{system} had been changed by someone else; put right: {'; '.join(changes)}"
        log.warning(note, extra=about(**fields_of(key)))
        await announce(self._kube, body, "Repaired", note, warning=True)

    def forget(self, key: Key) -> None:
        """The object is gone."""
        if (was := self._readiness.pop(key, None)) is not None:
            metrics.ready.labels(key.kind, str(was).lower()).dec()

    async def _tell(self, key: Key, body: Body, now: Condition, before: Sequence[Mapping[str, Any]]) -> None:
        old = next((c for c in before if c.get("type") == READY), {})
        words = {True: "True", False: "False", None: "Unknown"}
        if (old.get("status"), old.get("reason")) == (words[now.status], now.reason):
            return
        if now.status is None:
            return  # waiting is a state to look up, not news
        note = now.message or "everything is as the resource asks"
        log.log(
            logging.INFO if now.status else logging.WARNING, "%s: %s", now.reason, note, extra=about(**fields_of(key))
        )
        await announce(self._kube, body, now.reason, note, warning=not now.status)

    def _count(self, key: Key, now: Condition) -> None:
        is_ready = now.status is True
        was = self._readiness.get(key)
        if was is is_ready:
            return
        if was is not None:
            metrics.ready.labels(key.kind, str(was).lower()).dec()
        metrics.ready.labels(key.kind, str(is_ready).lower()).inc()
        self._readiness[key] = is_ready
