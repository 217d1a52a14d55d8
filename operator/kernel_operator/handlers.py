"""What Kopf calls: every event of our two resources becomes keys in the queue, nothing else happens here.

Only event handlers are registered: Kopf then keeps no annotations and no finalizer of its own, and
an object costs no write that our status does not ask for.
"""

from collections.abc import Callable
from typing import Any

import kopf

from kernel_operator.cluster import Cluster
from kernel_operator.kube import GROUP, MODULES, TENANTS, VERSION, Kube, LoginMissing, log_in
from kernel_operator.queue import WorkQueue


def registry(kube: Kube, cluster: Cluster, queue: WorkQueue, ending: Callable[[], None]) -> kopf.OperatorRegistry:
    """A Kopf registry whose handlers feed ``cluster`` and ``queue``; ``ending`` is called when no more will come."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False  # our Events are our own
        settings.scanning.disabled = True  # needs no right to watch CRDs and namespaces
        settings.peering.standalone = True
        settings.networking.error_backoffs = (1, 2, 3, 5, 8, 13)
        settings.watching.server_timeout = 300

    @kopf.on.login(registry=handlers)
    async def login(settings: kopf.OperatorSettings, **_: Any) -> kopf.AiohttpSession:
        try:
            session = await log_in(settings)
        except LoginMissing as error:  # at the start there was one: its file is being replaced
            raise kopf.TemporaryError(str(error), delay=2) from None
        kube.use(session)
        return session

    @kopf.on.cleanup(registry=handlers)
    async def clean_up(**_: Any) -> None:
        ending()

    def watch(kind: str) -> None:
        @kopf.on.event(GROUP, VERSION, kind, registry=handlers, id=f"observe-{kind}")
        async def observe(event: kopf.RawEvent, **_: Any) -> None:
            queue.submit(cluster.observe(kind, event["object"], deleted=event["type"] == "DELETED"))

    watch(TENANTS)
    watch(MODULES)
    return handlers
