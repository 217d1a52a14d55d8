"""What the API counts."""

from prometheus_client import Counter, Histogram

requests = Counter("http_server_requests_total", "Requests of the API", ["method", "route", "status_code"])
seconds = Histogram(
    "http_server_request_duration_seconds",
    "Time from the request to the end of its answer",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2.5, 10),
)
