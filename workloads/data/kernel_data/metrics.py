"""What is counted."""

from prometheus_client import Counter, Histogram

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

requests = Counter("http_server_requests_total", "Requests of the API", ["method", "route", "status_code"])
seconds = Histogram(
    "http_server_request_duration_seconds", "From a request to the end of its answer", ["route"], buckets=_BUCKETS
)
clickhouse_seconds = Histogram(
    "kernel_data_clickhouse_seconds", "From a question to ClickHouse's answer", buckets=_BUCKETS
)
rows_read = Counter("kernel_data_rows_read_total", "Rows that ClickHouse read")
freshness_unknown = Counter(
    "kernel_data_freshness_unknown_total", "Answers without lastSyncAt: Valkey is away or empty"
)
