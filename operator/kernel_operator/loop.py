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
_LIST_AGAIN = 2.0
_LOOK_AGAIN = 0.02

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
            metrics.reconciles.labels(kind, "error").inc(len(batch))
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
    """Hold the view against the API server's lists, then submit everything behind what has changed; every
    ``seconds``, with jitter."""
    while True:
        await asyncio.sleep(seconds * random.uniform(0.9, 1.1))  # noqa: S311 - jitter
        for kind in (TENANTS, MODULES):
            queue.submit(await _hold_against_list(kube, cluster, kind) or ())
            queue.submit_in_background(cluster.keys(kind))


async def until_caught_up(kube: Kube, cluster: Cluster) -> None:
    """Return when the watch has told everything that there was at the start.

    A plan that is made from half the view takes a module from the tenants that were not told yet, and finds
    parents missing. So nothing is worked on before.
    """
    listed_at, complete = 0.0, False
    while not complete or cluster.behind:
        if not complete or time.monotonic() - listed_at > _LIST_AGAIN:  # what was listed may be gone since, untold
            lists = [await _hold_against_list(kube, cluster, kind) for kind in (TENANTS, MODULES)]
            listed_at, complete = time.monotonic(), None not in lists
        await asyncio.sleep(_LOOK_AGAIN if complete else _LIST_AGAIN)


async def _hold_against_list(kube: Kube, cluster: Cluster, kind: str) -> list[Key] | None:
    """The keys of what the list shows to be gone, and of what that affects; None when there is no list."""
    try:
        listed, version = await kube.list_metadata(kind)
    except (KubeError, Unavailable) as error:
        log.warning("can't list %s: %s", kind, error)
        return None
    return cluster.reconcile_list(kind, listed, version)
