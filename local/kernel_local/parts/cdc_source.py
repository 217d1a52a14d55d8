"""The source of change data capture, PostgreSQL's log to Kafka, under its own logins."""

from kernel_local.connections import Connections
from kernel_local.parts.workload import Workload


class CdcSource(Workload):
    name = "cdc-source"
    # The operator makes what it streams from and into. Nobody waits for it: it starts beside the gateway.
    needs = ("postgres", "kafka", "operator")
    port_names = ("cdc-source",)
    program = ("kernel_cdc", "source")
    folder = "workloads/cdc/kernel_cdc"
    prefix = "CDC"
    tunable = (
        "CDC_WAL_BLOAT_ALERT_GB",
        "CDC_HEARTBEAT_SEC",
        "CDC_SOURCE_BUFFER_MB",
        "CDC_LAG_SNAPSHOT_SEC",
        "LOG_LEVEL",
    )

    def connections(self) -> dict[str, str]:
        return Connections(self.site).source()
