"""The ClickHouse target: users of tenants, tables of models, and what keeps them apart."""

from kernel_operator.targets.clickhouse.target import ClickHouseTarget

__all__ = ["ClickHouseTarget"]
