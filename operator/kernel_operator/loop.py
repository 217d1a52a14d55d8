"""The loops that run beside Kopf: workers that empty the queue, and the periodic comparison.

The comparison submits every key; reconciling a key observes before it changes, for all objects of a
batch at once, so that an untouched platform costs a bounded number of questions and no writes.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from kernel_operator import metrics
from kernel_operator.cluster import Cluster
from kernel_operator.desired import Unavailable
from kernel_operator.kube import MODULES, TENANTS, Kube, KubeError
from kernel_operator.queue import Key, WorkQueue

BATCH = {TENANTS: 250, MODULES: 20}

log = logging.getLogger(__name__)


async def work(queue: WorkQueue, kind: str, reconcile: Callable[[Sequence[Key]], Awaitable[set[Key]]]) -> None:
    """Take batches of ``kind`` for ever. An unexpected error brings the batch back and never ends the loop."""
    while True:
        batch = await queue.take(kind, BATCH[kind])
        started = time.perf_counter()
        try:
            retry = await reconcile(batch)
        except Exception:
            log.exception("a batch of %d %s failed", len(batch), kind)
            retry = set(batch)
        except asyncio.CancelledError:
            for key in batch:
                queue.done(key)
            raise
        for key in batch:
            queue.done(key, retry=key in retry)
        metrics.reconcile_seconds.labels(kind).observe(time.perf_counter() - started)
        metrics.reconciles.labels(kind, "success").inc(len(batch) - len(retry))
        metrics.reconciles.labels(kind, "requeue_after").inc(len(retry))


async def compare_periodically(kube: Kube, cluster: Cluster, queue: WorkQueue, seconds: float) -> None:
    """Hold the view against the API server's lists, then submit everything; every ``seconds``, with jitter."""
    while True:
        await asyncio.sleep(seconds * random.uniform(0.9, 1.1))  # noqa: S311 - jitter
        for kind in (TENANTS, MODULES):
            try:
                listed = [metadata async for metadata in kube.list_metadata(kind)]
            except (KubeError, Unavailable) as error:
                log.warning("can't list %s: %s", kind, error)
            else:
                queue.submit(cluster.reconcile_list(kind, listed))
                queue.submit(cluster.keys(kind))
