"""The sink of change data capture, Kafka to ClickHouse, under its own logins."""

from kernel_local.connections import Connections
from kernel_local.parts.workload import Workload


class CdcSink(Workload):
    name = "cdc-sink"
    needs = ("kafka", "clickhouse", "valkey", "operator")
    port_names = ("cdc-sink",)
    program = ("kernel_cdc", "sink")
    folder = "workloads/cdc/kernel_cdc"
    prefix = "CDC"
    tunable = ("CDC_SINK_BATCH_ROWS", "CDC_SINK_FLUSH_SEC", "CDC_SINK_SESSION_SEC", "LOG_LEVEL")
    # Who tries things out should not wait a second to see a row, nor long for the partitions of a sink that was killed.
    development = {"CDC_SINK_FLUSH_SEC": "0.2", "CDC_SINK_SESSION_SEC": "6"}  # noqa: RUF012 - declared a ClassVar

    def connections(self) -> dict[str, str]:
        return Connections(self.site).sink()
