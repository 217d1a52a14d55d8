"""What the event API counts, beside what the API counts for every route."""

from prometheus_client import Counter, Histogram

published = Counter("kernel_gateway_events_published_total", "Events that were published through the API")
letters = Counter("kernel_gateway_dead_letters_total", "Dead letters that were read, those that were there before too")
grpc_seconds = Histogram(
    "grpc_server_request_duration_seconds",
    "Time of a call, by its status",
    ["method", "code"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15),
)
