"""What the decision counts. Each is bound here once: a look-up of labels a request would cost more than the count."""

from prometheus_client import Counter, Histogram

_decisions = Counter("kernel_gateway_decisions_total", "Decisions by verdict (allowed, or the problem)", ["verdict"])
decisions = {
    verdict: _decisions.labels(verdict)
    for verdict in (
        "allowed",
        "validation-error",
        "unauthenticated",
        "token-expired",
        "rate-limit-exceeded",
        "tenant-blocked",
        "module-not-active",
        "forbidden",
        "service-unavailable",
        "internal-error",
    )
}
decision_seconds = Histogram(
    "kernel_gateway_decision_seconds",
    "Time from the question to the answer",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 1, 5),
)
rate_limit_degraded = Counter("rate_limit_degraded_total", "Requests that passed unlimited because Valkey was away")

_remembered = Counter(
    "kernel_gateway_remembered_tokens_total", "Tokens, by whether they were verified before", ["result"]
)
remembered_hits, remembered_misses = _remembered.labels("hit"), _remembered.labels("miss")

_rights = Counter("kernel_gateway_rights_reads_total", "Readings of rights from PostgreSQL, by result", ["result"])
rights_read, rights_failed = _rights.labels("read"), _rights.labels("failed")
rights_shared = Counter("kernel_gateway_rights_shared_total", "Requests that shared a reading with others")
rights_kept = Counter("kernel_gateway_rights_kept_total", "Readings of rights that Valkey took for the next requests")
rights_dropped = Counter("kernel_gateway_rights_dropped_total", "Readings that came too late to be kept")
valkey_lost = Counter("kernel_gateway_valkey_lost_total", "Connections of the decision to Valkey that broke or hung")
