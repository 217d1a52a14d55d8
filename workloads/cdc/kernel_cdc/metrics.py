"""What is counted, and the gauges that dashboards and alerts read."""

from prometheus_client import Counter, Gauge, Histogram

source_lag = Gauge("kernel_cdc_source_lag_seconds", "From a commit to Kafka's acknowledgement, of what came last")
source_read = Counter("kernel_cdc_source_events_read_total", "Changes read from the log")
source_messages = Counter("kernel_cdc_source_messages_total", "Messages that Kafka acknowledged")
source_pending = Gauge("kernel_cdc_source_pending_bytes", "What waits for Kafka's acknowledgement")
source_retained = Gauge("kernel_cdc_source_wal_bytes_retained", "The log that the slot keeps PostgreSQL from removing")
source_bloat = Gauge("kernel_cdc_source_wal_bloat", "1 when it is more than CDC_WAL_BLOAT_ALERT_GB")
source_connected = Gauge("kernel_cdc_source_connected", "1 while the log is streamed")
source_snapshot_due = Gauge("kernel_cdc_source_snapshot_due", "1 while tables or the outbox have to be read")
source_snapshot_tables = Gauge("kernel_cdc_source_snapshot_tables", "Tables, the outbox too, that have to be read")
source_snapshot_rows = Counter("kernel_cdc_source_snapshot_rows_total", "Rows read from tables")
source_snapshots = Counter("kernel_cdc_source_snapshots_total", "Tables that were read to their end", ["why"])
source_incomplete = Counter("kernel_cdc_source_incomplete_rows_total", "Rows without all columns", ["table"])
source_undeliverable = Counter("kernel_cdc_source_undeliverable_total", "Messages that were left out", ["reason"])

sink_rows = Counter("kernel_cdc_sink_rows_total", "Rows that ClickHouse took", ["table"])
sink_insert_seconds = Histogram(
    "kernel_cdc_sink_insert_seconds", "Time of an insert", buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
)
sink_sweeps = Counter("kernel_cdc_sink_sweeps_total", "Partitions swept of records that are gone", ["table"])
sink_lag_seconds = Gauge("kernel_cdc_sink_lag_seconds", "From a commit to ClickHouse's answer, of what came last")
sink_lag_messages = Gauge("kernel_cdc_sink_lag_messages", "Messages that are not written", ["partition"])
sink_stopped = Gauge("kernel_cdc_sink_table_stopped", "1 while ClickHouse refuses rows of the table", ["table"])
