"""PostgreSQL: schemas, tables, roles, row-level security and the rows that describe tenants and modules."""

from kernel_operator.targets.postgres.migrate import MigrationError
from kernel_operator.targets.postgres.preparation import NotBootstrapped
from kernel_operator.targets.postgres.target import PostgresTarget

__all__ = ["MigrationError", "NotBootstrapped", "PostgresTarget"]
