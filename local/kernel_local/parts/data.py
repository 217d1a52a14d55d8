"""The analytics read API: ClickHouse as each tenant's own user, and Valkey for how fresh it is."""

from kernel_local.connections import Connections
from kernel_local.parts.workload import Workload


class Data(Workload):
    name = "data"
    needs = ("clickhouse", "valkey")
    port_names = ("data",)
    program = ("kernel_data", "serve")
    folder = "workloads/data/kernel_data"
    prefix = "DATA"
    tunable = ("DATA_QUERY_SEC", "LOG_LEVEL")
    development = {"DATA_SHUTDOWN_DELAY": "0"}  # noqa: RUF012 - declared a ClassVar

    def connections(self) -> dict[str, str]:
        return Connections(self.site).analytics() | {"KERNEL_MASTER_KEY": self.site.master_key()}
