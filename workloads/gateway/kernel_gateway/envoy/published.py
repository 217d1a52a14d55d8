"""The documents that change, on disk, where Envoy watches for them.

Each is written beside its place and moved there, so Envoy never reads half of one. Its version is a hash of its
content, by which Envoy's own account of what it has accepted can be compared with what was written.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from kernel_gateway.envoy.clusters import module_clusters
from kernel_gateway.envoy.routes import REQUEST_SECONDS, route_configuration
from kernel_gateway.envoy.table import ModuleRoutes
from kernel_gateway.envoy.typed import Document, typed

CLUSTERS, ROUTES, TABLE = "cds.json", "rds.json", "table.json"


def documents(modules: Mapping[str, ModuleRoutes], origins: Sequence[str] = ()) -> dict[str, Document]:
    """The clusters and the routes of ``modules`` as discovery responses, by file name, in the order of writing."""
    return {CLUSTERS: clusters(module_clusters(modules.values())), ROUTES: routes(modules, origins)}


def clusters(these: Sequence[Document]) -> Document:
    return _response([typed("envoy.config.cluster.v3.Cluster", **cluster) for cluster in these])


def routes(
    modules: Mapping[str, ModuleRoutes],
    origins: Sequence[str] = (),
    *,
    https_only: bool = False,
    request_seconds: float = REQUEST_SECONDS,
) -> Document:
    configuration = route_configuration(
        modules.values(), origins, https_only=https_only, request_seconds=request_seconds
    )
    return _response([typed("envoy.config.route.v3.RouteConfiguration", **configuration)])


def _response(resources: Sequence[Document]) -> Document:
    content = json.dumps(resources, sort_keys=True).encode()
    return {"version_info": hashlib.sha256(content).hexdigest()[:16], "resources": list(resources)}


def write(path: Path, document: object) -> Path:
    """Replaces ``path`` in one step. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    return temporary.replace(path)


def read(path: Path) -> Document:
    """What ``write`` left; empty when there is none, or something else."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
