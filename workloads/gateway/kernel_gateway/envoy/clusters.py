"""The services behind Envoy: a cluster a module (CDS), and the gateway's own, which are static."""

from collections.abc import Iterable

from kernel_gateway.envoy.routes import API
from kernel_gateway.envoy.table import ModuleRoutes
from kernel_gateway.envoy.typed import Document, extension, typed

DECISION = "kernel_decision"
_CONNECT = "2s"
_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_IDLE = "4s"
"""Shorter than the 5 s after which uvicorn, the commonest server here, closes a quiet connection: whoever closes first
must not be the one who is just being sent a request."""


def module_clusters(modules: Iterable[ModuleRoutes]) -> list[Document]:
    """Each module's cluster, by name."""
    return [_module(module) for module in sorted(modules, key=lambda module: module.slug) if module.prefix]


def _module(module: ModuleRoutes) -> Document:
    by_name = extension(
        "envoy.cluster.dns",
        "envoy.extensions.clusters.dns.v3.DnsCluster",
        dns_lookup_family="V4_PREFERRED",
        dns_refresh_rate="5s",
        dns_failure_refresh_rate={"base_interval": "0.5s", "max_interval": "5s"},
    )
    return _cluster(module.upstream, module.host, module.port) | {
        "cluster_type": by_name,
        # Only to pass over a bad pod among several: with half of them out, all are tried again.
        "outlier_detection": {
            "consecutive_5xx": 5,
            "interval": "5s",
            "base_ejection_time": "10s",
            "max_ejection_percent": 50,
        },
        # An ejection holds at once, not within a second.
        "common_lb_config": {"update_merge_window": "0s"},
    }


def own_clusters(api_port: int, decision_port: int) -> list[Document]:
    """The gateway's API and its decision server, beside Envoy on this host."""
    own = ((API, api_port), (DECISION, decision_port))
    return [_cluster(name, "127.0.0.1", port) | {"type": "STATIC"} for name, port in own]


def _cluster(name: str, host: str, port: int) -> Document:
    address = {"socket_address": {"address": host, "port_value": port}}
    return {
        "name": name,
        "connect_timeout": _CONNECT,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": 2048, "max_pending_requests": 4096, "max_requests": 4096, "max_retries": 64}
            ]
        },
        "typed_extension_protocol_options": {
            _PROTOCOL: typed(
                _PROTOCOL,
                common_http_protocol_options={"idle_timeout": _IDLE},
                explicit_http_config={"http_protocol_options": {}},
            )
        },
    }
