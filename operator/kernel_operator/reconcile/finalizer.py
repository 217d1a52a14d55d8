"""Our finalizer: put on before anything is made outside Kubernetes, taken off when nothing is left to do.

So an object without it has nothing outside, and goes without our doing.
"""

from kernel_operator.cluster import Body, Cluster
from kernel_operator.desired import Unavailable
from kernel_operator.kube import FINALIZER, Kube, KubeError
from kernel_operator.queue import Key


def is_held(body: Body) -> bool:
    return FINALIZER in (body["metadata"].get("finalizers") or ())


async def hold(kube: Kube, cluster: Cluster, key: Key, body: Body) -> Body | None:
    """The object with our finalizer on it; None when the object is gone.

    Raises Unavailable when the object was changed meanwhile, KubeError when the operator may not.
    """
    if is_held(body):
        return body
    written = await _set(kube, key, body, [*(body["metadata"].get("finalizers") or ()), FINALIZER])
    if written is not None:
        cluster.wrote(key.kind, written)
    return written


async def release(kube: Kube, key: Key, body: Body) -> None:
    """Let the object go. Raises as ``hold`` does."""
    if is_held(body):
        await _set(kube, key, body, [name for name in body["metadata"]["finalizers"] if name != FINALIZER])


async def _set(kube: Kube, key: Key, body: Body, finalizers: list[str]) -> Body | None:
    try:
        return await kube.set_finalizers(body, key.kind, finalizers)
    except KubeError as error:
        if error.status in (409, 422):
            raise Unavailable("Kubernetes", "the object was changed at the same moment") from error
        raise
