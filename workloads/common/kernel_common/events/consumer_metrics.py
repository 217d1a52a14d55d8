"""What a consumer counts."""

from prometheus_client import Counter, Gauge, Histogram

events = Counter(
    "kernel_consumer_events_total",
    "Deliveries that are over, by result: done, repeated (done before), passed (not asked for), dead (dead-lettered)",
    ["group", "topic", "result"],
)
failures = Counter("kernel_consumer_failures_total", "Attempts of handlers that failed", ["group", "topic"])
lag = Gauge(
    "kernel_consumer_lag_messages", "Messages of the partition that are not done", ["group", "topic", "partition"]
)
blocked = Gauge("kernel_consumer_blocked_partitions", "Partitions that wait for a system that is away", ["group"])
handler_seconds = Histogram(
    "kernel_consumer_handler_seconds",
    "Time of one event, dedup included, waits between attempts not",
    ["group"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
)
