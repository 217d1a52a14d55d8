"""Removing what was made for a module."""

from collections.abc import Mapping, Sequence

from kernel_operator.targets.clickhouse.comparison import Step
from kernel_operator.targets.clickhouse.observed import Observed
from kernel_operator.targets.clickhouse.quoting import identifier, qualified


def removal_steps(database: str, slug: str, found: Mapping[str, Observed]) -> Sequence[Step]:
    """The statements that remove what was made for ``slug``: views first, a policy only after its table.

    A name alone doesn't tell whose a table is (``a`` with ``b__c``, ``a__b`` with ``c``): its comment does.
    """
    prefix = f"module_{slug}__"
    views, tables, policies = [], [], []
    for name, table in found.items():
        if not name.startswith(prefix) or (name.endswith("__current") and table.engine == "View"):
            continue
        if table.owner is not None and table.owner[0] != slug:
            continue
        view = f"{name}__current"
        if view in found and found[view].engine == "View":
            views.append(Step(f"DROP VIEW IF EXISTS {qualified(database, view)}", f"dropped the view {view}"))
        if table.engine:
            # SYNC: the files go now, not after the server's eight minutes of grace
            drop = f"DROP TABLE IF EXISTS {qualified(database, name)} SYNC SETTINGS max_table_size_to_drop = 0"
            tables.append(Step(drop, f"dropped the ClickHouse table {name}"))
        policies += [
            Step(
                f"DROP ROW POLICY IF EXISTS {identifier(policy.name)} ON {qualified(database, name)}",
                f"dropped the row policy {policy.name} of {name}",
            )
            for policy in table.policies
        ]
    return [*views, *tables, *policies]
