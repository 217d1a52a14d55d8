"""Brings a route table to Envoy in an order in which no request meets a gap.

Clusters first, old and new together; then, once Envoy has them and knows their addresses, the routes; and clusters that
no route leads to go when the last request to them must have ended. Envoy says what it has accepted: a document that it
rejects is replaced by the last that it took, so that a restart of Envoy finds a good one.

Rendering and writing happen in a thread: the loop beside it decides on requests, and a disk may be slow.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernel_common.logs import about
from kernel_gateway.envoy import metrics, published, transitions
from kernel_gateway.envoy.admin import Account, Admin
from kernel_gateway.envoy.clusters import module_clusters
from kernel_gateway.envoy.routes import IDLE_SECONDS, REQUEST_SECONDS
from kernel_gateway.envoy.table import Reading, read
from kernel_gateway.envoy.typed import Document

_ACCEPT_SECONDS = 10.0
"""Envoy takes milliseconds; with hundreds of modules on a busy core it takes seconds."""
_WARM_SECONDS = 2.0
"""How long new clusters may look for their addresses before the routes go out without them."""
_LINGER_SECONDS = REQUEST_SECONDS + IDLE_SECONDS
"""How long a cluster outlives its last route."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Published:
    """What stands on disk: entries by slug, the two documents, and clusters without routes with the time they go."""

    texts: Mapping[str, str] = field(default_factory=dict)
    clusters: Document = field(default_factory=dict)
    routes: Document = field(default_factory=dict)
    leaving: Mapping[str, tuple[Document, float]] = field(default_factory=dict)


class Publisher:
    """``overrides`` (slug to host:port), ``origins`` and ``https_only`` are as for the documents; ``directory`` is the
    one that Envoy watches."""

    def __init__(
        self, directory: Path, admin: Admin, *, overrides: Mapping[str, str], origins: Sequence[str], https_only: bool
    ) -> None:
        self._directory, self._admin = directory, admin
        self._overrides, self._origins, self._https_only = overrides, origins, https_only
        texts = published.read(directory / published.TABLE)
        self._now = _Published(
            texts={slug: text for slug, text in texts.items() if isinstance(text, str)},
            clusters=published.read(directory / published.CLUSTERS),
            routes=published.read(directory / published.ROUTES),
        )

    async def publish(self, entries: Mapping[str, str], *, announce: bool) -> None:
        """Brings the table ``entries`` to Envoy; ``announce``: say in the log which can't be used. Raises OSError."""
        before = self._now
        reading, after = await asyncio.to_thread(self._render, entries, before)
        metrics.refused_entries.set(len(reading.refused))
        if announce:
            for slug, why in reading.refused.items():
                kept = "its last routes stay" if slug in reading.modules else "it has no routes"
                log.warning("the route of %s can't be used, %s: %s", slug, kept, why, extra=about(module=slug))
        if not await self._put(published.CLUSTERS, after.clusters, before.clusters):
            return
        # Until the new routes hold, none of the old clusters is leaving.
        self._now = _Published(before.texts, after.clusters, before.routes)
        if not await self._put(published.ROUTES, after.routes, before.routes):
            return
        self._now = after
        if after.texts != before.texts:
            await asyncio.to_thread(published.write, self._directory / published.TABLE, after.texts)
            about_it = about(modules=len(reading.modules), version=after.routes["version_info"])
            log.info("routes published", extra=about_it)

    def _render(self, entries: Mapping[str, str], before: _Published) -> tuple[Reading, _Published]:
        reading = read(entries, before.texts, self._overrides)
        wanted = module_clusters(reading.modules.values())
        names = {cluster["name"] for cluster in wanted}
        old = {cluster["name"]: cluster for cluster in _plain(before.clusters)}
        until = time.monotonic() + _LINGER_SECONDS
        leaving = {name: (old[name], until) for name in old.keys() - names}
        leaving |= {name: cluster for name, cluster in before.leaving.items() if name not in names}
        clusters = published.clusters([*wanted, *(cluster for cluster, _ in leaving.values())])
        routes = published.routes(reading.modules, self._origins, https_only=self._https_only)
        return reading, _Published(reading.texts, clusters, routes, leaving)

    async def _put(self, name: str, document: Document, before: Document) -> bool:
        """Writes a document where it differs, and waits until Envoy has taken it. False when Envoy refused it."""
        if document.get("version_info") == before.get("version_info"):
            return True
        counted = await self._admin.account()
        await asyncio.to_thread(published.write, self._directory / name, document)
        result = "unknown" if counted is None else await self._result(name, document["version_info"], counted)
        metrics.publications.labels(name, result).inc()
        if result == "rejected":
            log.error("Envoy rejected %s, the last good one stays: see Envoy's log", name)
            if before:
                await asyncio.to_thread(published.write, self._directory / name, before)
        return result != "rejected"

    async def _result(self, name: str, version: str, counted: Account) -> str:
        began, taken = time.monotonic(), False
        while time.monotonic() < began + _ACCEPT_SECONDS:
            now = await self._admin.account()
            if now is not None:
                uses, refusals, refused_before = (
                    (now.clusters, now.clusters_rejected, counted.clusters_rejected)
                    if name == published.CLUSTERS
                    else (now.routes, now.routes_rejected, counted.routes_rejected)
                )
                if refusals > refused_before:
                    return "rejected"
                if uses == version and not taken:
                    began, taken = time.monotonic(), True
                if taken and (name == published.ROUTES or now.warming == 0 or time.monotonic() > began + _WARM_SECONDS):
                    return "accepted"
            await asyncio.sleep(0.02)
        return "unknown"

    async def look_after(self) -> None:
        """What is due between changes: clusters whose time has come go, and a new Envoy has closed breakers, whatever
        the old one said. Raises OSError."""
        account = await self._admin.account()
        if account is not None:
            transitions.forget_older(time.time() - account.uptime)
        due = {name for name, (_, when) in self._now.leaving.items() if when <= time.monotonic()}
        if not due:
            return
        document = published.clusters([c for c in _plain(self._now.clusters) if c["name"] not in due])
        if await self._put(published.CLUSTERS, document, self._now.clusters):
            leaving = {name: cluster for name, cluster in self._now.leaving.items() if name not in due}
            self._now = _Published(self._now.texts, document, self._now.routes, leaving)
            for name in due:
                transitions.forget(name)


def _plain(response: Document) -> list[Document]:
    """The resources of a document, as they were rendered."""
    return [{k: v for k, v in resource.items() if k != "@type"} for resource in response.get("resources", ())]
