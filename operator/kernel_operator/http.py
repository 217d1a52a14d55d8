"""/livez, /readyz and /metrics.

Alive means: there is no work, or work gets finished, and the watch tells what lists show. A process
that merely answers is not alive.
"""

from dataclasses import dataclass

from aiohttp import web

from kernel_operator import metrics
from kernel_operator.cluster import Cluster
from kernel_operator.loop import BATCH
from kernel_operator.queue import WorkQueue


@dataclass(slots=True)
class Health:
    """What the probes are answered from. ``ready`` is set when PostgreSQL is prepared and the view complete."""

    queue: WorkQueue
    cluster: Cluster
    stall_seconds: float
    ready: bool = False

    def troubles(self) -> list[str]:
        """Why the process should be restarted; empty when it should not."""
        found = []
        if (still := self.queue.standing_still()) > self.stall_seconds:
            found.append(f"work has waited for {still:.0f} s and none of it was finished")
        if (lag := self.cluster.watch_lag()) > self.stall_seconds:
            found.append(f"the watch has not told a change for {lag:.0f} s that a list shows")
        return found


def application(health: Health) -> web.Application:
    """The HTTP application of the operator's port."""

    async def livez(_: web.Request) -> web.Response:
        troubles = health.troubles()
        if troubles:
            return web.json_response({"status": "stalled", "reason": "; ".join(troubles)}, status=503)
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        if not health.ready:
            return web.json_response({"status": "not_ready", "reason": "preparing the systems"}, status=503)
        return web.json_response({"status": "ready"})

    async def expose(_: web.Request) -> web.Response:
        for kind in BATCH:
            metrics.depth.labels(kind).set(health.queue.depth(kind))
        metrics.standing_still.set(health.queue.standing_still())
        metrics.watch_lag.set(health.cluster.watch_lag())
        return web.Response(body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", expose)])
    return app
