"""What is counted about Envoy's configuration and its breakers."""

from prometheus_client import Counter, Gauge

breaker_state = Gauge(
    "circuit_breaker_state", "0 closed, 1 half open, 2 open; the worst of Envoy's workers", ["target"]
)
refused_entries = Gauge("kernel_gateway_route_entries_refused", "Entries of the route table that can't be used")
publications = Counter(
    "kernel_gateway_envoy_publications_total",
    "Documents written for Envoy, by what became of them: accepted, rejected, or unknown when Envoy didn't answer",
    ["document", "result"],
)
table_losses = Counter("kernel_gateway_route_table_lost_total", "Times that the route table could not be followed")
