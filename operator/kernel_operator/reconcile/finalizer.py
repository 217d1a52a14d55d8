"""Our finalizer: put on before anything is made outside Kubernetes, taken off when nothing is left to do."""

from kernel_operator.cluster import Body, Cluster
from kernel_operator.desired import Unavailable
from kernel_operator.kube import FINALIZER, Kube, KubeError
from kernel_operator.queue import Key


async def hold(kube: Kube, cluster: Cluster, key: Key, body: Body) -> Body | None:
    """The object with our finalizer on it; None when the object is gone or was changed meanwhile (it comes again)."""
    finalizers = body["metadata"].get("finalizers") or []
    if FINALIZER in finalizers:
        return body
    return await _set(kube, cluster, key, body, [*finalizers, FINALIZER])


async def release(kube: Kube, cluster: Cluster, key: Key, body: Body) -> bool:
    """Let the object go. False when it was changed meanwhile and this has to be tried again."""
    finalizers = body["metadata"].get("finalizers") or []
    if FINALIZER not in finalizers:
        return True
    try:
        await kube.set_finalizers(body, key.kind, [f for f in finalizers if f != FINALIZER])
    except KubeError as error:
        if error.status in (409, 422):
            return False
        raise
    return True


async def _set(kube: Kube, cluster: Cluster, key: Key, body: Body, finalizers: list[str]) -> Body | None:
    try:
        written = await kube.set_finalizers(body, key.kind, finalizers)
    except KubeError as error:
        if error.status in (409, 422):
            raise Unavailable("Kubernetes", "the object was changed at the same moment") from error
        raise
    if written is not None:
        cluster.wrote(key.kind, written)
    return written
