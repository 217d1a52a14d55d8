"""The operator's metrics. Names of the work follow controller-runtime, so that existing dashboards fit."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

REGISTRY = CollectorRegistry()

reconciles = Counter(
    "controller_runtime_reconcile",
    "Reconciled objects by result (success, requeue_after), and unexpected errors (error), which are requeued too",
    ["controller", "result"],
    registry=REGISTRY,
)
reconcile_seconds = Histogram(
    "controller_runtime_reconcile_time_seconds",
    "Duration of one batch",
    ["controller"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=REGISTRY,
)
depth = Gauge("workqueue_depth", "Objects that are ready to be worked on", ["name"], registry=REGISTRY)
standing_still = Gauge(
    "workqueue_standing_still_seconds", "Time with work in the queue and none of it finished", registry=REGISTRY
)
watch_lag = Gauge(
    "platform_kernel_watch_lag_seconds", "Time for which the watch has owed a known change", registry=REGISTRY
)
repairs = Counter(
    "platform_kernel_repairs",
    "Changes made to a system although the resource had not changed: somebody else had changed the system",
    ["system"],
    registry=REGISTRY,
)
system_errors = Counter(
    "platform_kernel_system_errors", "Calls that ended in an error, by system", ["system"], registry=REGISTRY
)
outbox_days_held = Gauge(
    "platform_kernel_outbox_days_held",
    "Old days of the outbox that are kept because change data capture has not confirmed them",
    registry=REGISTRY,
)
optimized = Counter(
    "platform_kernel_clickhouse_partitions_optimized",
    "Partitions of analytics tables that were merged at night, by result (done, failed)",
    ["result"],
    registry=REGISTRY,
)
optimize_finished = Gauge(
    "platform_kernel_clickhouse_optimize_finished_timestamp_seconds",
    "When a night's merging last got through all partitions, in Unix time",
    registry=REGISTRY,
)
ready = Gauge("platform_kernel_resources", "Resources by readiness", ["kind", "ready"], registry=REGISTRY)


def exposition() -> bytes:
    """All metrics in the Prometheus text format."""
    return generate_latest(REGISTRY)
