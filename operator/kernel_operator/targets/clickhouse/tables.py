"""The analytics table of a model: what it should be, what is there, and the statements in between.

Every version of a row is kept until a merge, and the newest ``updated_at`` wins. Readers use the view
``{table}__current``: FINAL, without deleted rows, without expired ones.

**Who sees what.** One row policy a table compares ``tenant_id`` with the name of the user who asks. It
names everybody but the writer and the operator, because ClickHouse shows every row to a user whom no
policy names; a second one names those two, because with ``users_without_row_policies_can_read_rows`` off
it shows them nothing. Both are made before the table, so that no row is ever readable without them; a
policy that is not ours is dropped, because permissive policies add up. The view runs as its reader (SQL SECURITY
INVOKER): as its maker it would show every tenant to everyone.

**Types.** Model columns are Nullable, required ones too. PostgreSQL holds the constraint; here a row
written before its column existed has to answer NULL and not an invented zero or empty text.

**Retention** counts from ``created_at``, which a record keeps for life: all its versions expire in the
same second. Merges remove them whenever they come by, in any order, and an old version could outlive
the tombstone that hides it; the view therefore holds the same condition.
"""

from dataclasses import dataclass

from kernel_operator.desired import ColumnType, Model, ModuleState
from kernel_operator.targets.clickhouse.quoting import identifier, literal, qualified
from kernel_operator.targets.clickhouse.sql import fill


@dataclass(frozen=True, slots=True)
class Rule:
    """A row policy: the rows that ``to`` see, or that everybody sees but ``exempt``."""

    filter: str
    to: tuple[str, ...] = ()
    exempt: tuple[str, ...] = ()

    @property
    def whom(self) -> str:
        names = ", ".join(map(identifier, self.to or self.exempt))
        return names if self.to else f"ALL EXCEPT {names}"


SERVICES = ("cdc_writer", "kernel_operator")
POLICIES = {
    "tenant_isolation": Rule("tenant_id = toUUIDOrZero(substring(currentUser(), 8))", exempt=SERVICES),
    "kernel_services": Rule("1", to=SERVICES),
}
DEDUPLICATION_WINDOW = 1000
"""Blocks whose insert token is remembered; 0, the default, would make the tokens of the writer mean nothing."""

_TYPES = {
    ColumnType.TEXT: "String",
    ColumnType.INTEGER: "Int32",
    ColumnType.BIGINT: "Int64",
    ColumnType.DECIMAL: "Decimal(20, 6)",
    ColumnType.FLOAT: "Float64",
    ColumnType.BOOLEAN: "Bool",
    ColumnType.DATE: "Date32",
    ColumnType.TIMESTAMP: "DateTime64(6, 'UTC')",
    ColumnType.UUID: "UUID",
    ColumnType.JSON: "String",
}
FIXED = {
    "tenant_id": "UUID",
    "record_id": "UUID",
    "created_at": "DateTime64(6, 'UTC')",
    "updated_at": "DateTime64(6, 'UTC')",
    "deleted_at": "Nullable(DateTime64(6, 'UTC'))",
    "is_deleted": "UInt8",
    "_lsn": "UInt64",
    "_op": "LowCardinality(String)",
    "_synced_at": "DateTime64(6, 'UTC')",
}


@dataclass(frozen=True, slots=True)
class AnalyticsTable:
    """The table, view and policy that ``model`` of ``slug`` should have in ``database``."""

    database: str
    name: str
    slug: str
    model: Model

    @property
    def view(self) -> str:
        return f"{self.name}__current"

    @property
    def comment(self) -> str:
        return f"module {self.slug}, model {self.model.name}"

    @property
    def ttl(self) -> str:
        """When a row expires; empty for never."""
        days = self.model.retention_days
        return f"toDateTime(created_at) + toIntervalDay({days})" if days else ""

    @property
    def columns(self) -> dict[str, str]:
        """The model's columns and their types."""
        return {column.name: f"Nullable({_TYPES[column.type]})" for column in self.model.columns}

    @property
    def create_sql(self) -> str:
        return fill(
            "table",
            table=qualified(self.database, self.name),
            columns="".join(f"    {identifier(name)} {type_},\n" for name, type_ in self.columns.items()),
            ttl=f"TTL {self.ttl}" if self.ttl else "",
            window=str(DEDUPLICATION_WINDOW),
            comment=literal(self.comment),
        )

    @property
    def view_select(self) -> str:
        return fill(
            "view",
            table=qualified(self.database, self.name),
            columns="".join(f", {identifier(name)}" for name in self.columns),
            retention=f" AND ({self.ttl} > now())" if self.ttl else "",
        )

    @property
    def view_sql(self) -> str:
        view = qualified(self.database, self.view)
        return f"CREATE OR REPLACE VIEW {view} SQL SECURITY INVOKER AS {self.view_select}"

    def policy_sql(self, name: str) -> str:
        rule = POLICIES[name]
        where = qualified(self.database, self.name)
        return fill("policy", policy=identifier(name), table=where, filter=rule.filter, whom=rule.whom)


def analytics_tables(database: str, module: ModuleState) -> list[AnalyticsTable]:
    """One for each model of ``module`` that is analysed."""
    return [
        AnalyticsTable(database, module.analytics_table(model), module.slug, model)
        for model in module.models
        if model.analytics
    ]
