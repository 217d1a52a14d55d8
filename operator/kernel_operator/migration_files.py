"""The SQL files of a module: from its resource, or from a ConfigMap beside it."""

from kernel_operator.desired import Migration, Refusal
from kernel_operator.kube import Kube
from kernel_operator.resources import KernelModule

INLINE = "inline.sql"


async def migration_files(kube: Kube, module: KernelModule) -> tuple[Migration, ...] | Refusal:
    """The files in the order of their names; a Refusal when the ConfigMap that should hold them is not there.

    Raises KubeError and Unavailable.
    """
    wanted = module.spec.migrations
    if wanted is None:
        return ()
    if wanted.inline is not None:
        return (Migration(INLINE, wanted.inline),)
    assert wanted.config_map_ref is not None
    name = wanted.config_map_ref.name
    found = await kube.read_config_map(module.namespace, name)
    if found is None:
        return Refusal(
            "ConfigMapNotFound",
            f"spec.migrations.configMapRef.name: there is no ConfigMap {name!r} in the namespace {module.namespace!r}; "
            "create it",
        )
    return tuple(Migration(file, text) for file, text in sorted((found.get("data") or {}).items()))
