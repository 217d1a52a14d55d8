"""What Envoy is started with, and the files it needs to be there.

`lay_out` writes the bootstrap, the certificate's reference and, where there are none yet, documents that route to the
kernel alone: those of the last run are good until the gateway has read the table.
"""

from pathlib import Path

from kernel_gateway.envoy import published
from kernel_gateway.envoy.clusters import own_clusters
from kernel_gateway.envoy.listener import CERTIFICATE, file_source, listener
from kernel_gateway.envoy.settings import EnvoySettings
from kernel_gateway.envoy.typed import Document, typed

BOOTSTRAP, CERTIFICATES = "envoy.json", "sds.json"


def bootstrap(settings: EnvoySettings) -> Document:
    """The whole bootstrap. Pure: it reads no file."""
    return {
        "node": {"id": "kernel-gateway", "cluster": "kernel-gateway"},
        "admin": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": settings.gateway_envoy_admin_port}}
        },
        "dynamic_resources": {"cds_config": file_source(settings, published.CLUSTERS)},
        "static_resources": {
            "listeners": [listener(settings)],
            "clusters": own_clusters(settings.gateway_port, settings.gateway_decision_port),
        },
        # A path as long as a module may declare it takes some four hundred instructions; Envoy's own limit is 100.
        "layered_runtime": {
            "layers": [
                {
                    "name": "static",
                    "static_layer": {f"re2.max_program_size.{level}_level": 4096 for level in ("error", "warn")},
                }
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": typed(
                        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        max_active_downstream_connections=50_000,
                    ),
                }
            ]
        },
    }


def certificates(settings: EnvoySettings) -> Document:
    """Where the certificate lies; Envoy reads it again when its directory changes."""
    certificate, key = settings.gateway_tls_certificate, settings.gateway_tls_key
    secret = typed(
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        name=CERTIFICATE,
        tls_certificate={
            "certificate_chain": {"filename": str(certificate)},
            "private_key": {"filename": str(key)},
            "watched_directory": {"path": str(certificate.parent)},
        },
    )
    return {"resources": [secret]}


def lay_out(settings: EnvoySettings) -> Path:
    """Fills the directory and returns the path of the bootstrap, for ``envoy -c``. Raises OSError."""
    folder = settings.gateway_envoy_directory
    folder.mkdir(parents=True, exist_ok=True)
    published.write(folder / CERTIFICATES, certificates(settings))
    for name, document in published.documents({}).items():
        if not (folder / name).exists():
            published.write(folder / name, document)
    return published.write(folder / BOOTSTRAP, bootstrap(settings))
