"""What stands between a model's analytics table and what is there, as statements in order."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kernel_operator.desired import Refusal
from kernel_operator.targets.clickhouse.observed import Observed, Policy
from kernel_operator.targets.clickhouse.quoting import identifier, literal, qualified
from kernel_operator.targets.clickhouse.tables import DEDUPLICATION_WINDOW, FIXED, POLICIES, AnalyticsTable

_ENGINE = re.compile(r"ReplacingMergeTree\((.*, )?updated_at\)")
_SORTING_KEY = "tenant_id, record_id"

Canonical = Callable[[str], str]
"""A query as this server would write it: how stored text is compared with ours."""


@dataclass(frozen=True, slots=True)
class Step:
    """One statement, and the clause that tells of it."""

    sql: str
    change: str


def compare(table: AnalyticsTable, found: Observed, view: Observed, canonical: Canonical) -> list[Step] | Refusal:
    """The statements, in order, that bring ``table`` there. Nothing is done to a table that is refused."""
    if refusal := _refuse(table, found, view):
        return refusal
    return [
        *_policy_steps(table, found, canonical),
        *_table_steps(table, found),
        *_view_steps(table, view, canonical),
    ]


def _refuse(table: AnalyticsTable, found: Observed, view: Observed) -> Refusal | None:
    where = f"{table.database}.{table.name}"
    if view.engine not in ("", "View"):
        return Refusal(
            "TableTaken", f"spec.dataApi.models: {where}__current is no view; rename the model, or the table"
        )
    if not found.engine:
        return None
    if found.owner not in (None, (table.slug, table.model.name)):
        return Refusal(
            "TableTaken",
            f"spec.dataApi.models: the ClickHouse table {where} belongs to {found.comment}; rename the model",
        )
    if not _ENGINE.search(found.engine_full) or found.sorting_key != _SORTING_KEY:
        return Refusal(
            "IncompatibleChange",
            f"spec.dataApi.models: the ClickHouse table {where} is a {found.engine} that we did not make; "
            "rename it, so that ours can be made",
        )
    return next((r for name, type_ in found.columns if (r := _refuse_column(table, name, type_))), None)


def _refuse_column(table: AnalyticsTable, name: str, type_: str) -> Refusal | None:
    wanted = {**FIXED, **table.columns}.get(name)
    if wanted == type_:
        return None
    field = f"{table.model.name}.{name}"
    message = (
        f"the field {field} was removed; put it back, columns are only ever added"
        if wanted is None
        else f"the field {field} is {type_} in ClickHouse and can't become {wanted}; "
        "put its type back, and add a field of the new type"
    )
    return Refusal("IncompatibleChange", f"spec.dataApi.models: {message}")


def _policy_steps(table: AnalyticsTable, found: Observed, canonical: Canonical) -> Iterator[Step]:
    there = {policy.name: policy for policy in found.policies}
    for name, rule in POLICIES.items():
        wanted = Policy(name, _expression(rule.filter, canonical), False, not rule.to, rule.to, rule.exempt)
        if name not in there:
            yield Step(table.policy_sql(name), f"created the row policy {name} of {table.name}")
        elif there[name] != wanted:
            yield Step(table.policy_sql(name), f"repaired the row policy {name} of {table.name}")
    for name in there.keys() - POLICIES.keys():
        drop = f"DROP ROW POLICY IF EXISTS {identifier(name)} ON {qualified(table.database, table.name)}"
        yield Step(drop, f"dropped the row policy {name} of {table.name}, which is not ours")


def _expression(text: str, canonical: Canonical) -> str:
    return canonical(f"SELECT {text}").removeprefix("SELECT ")


def _table_steps(table: AnalyticsTable, found: Observed) -> Iterator[Step]:
    if not found.engine:
        yield Step(table.create_sql, f"created the ClickHouse table {table.name}")
        return
    alter = f"ALTER TABLE {qualified(table.database, table.name)}"
    there = {name for name, _ in found.columns}
    for name, type_ in {**table.columns, **FIXED}.items():
        if name not in there:
            yield Step(
                f"{alter} ADD COLUMN IF NOT EXISTS {identifier(name)} {type_}", f"added column {name} to {table.name}"
            )
    ttl, window = _ttl(found.engine_full), _window(found.engine_full)
    if ttl != table.ttl and table.ttl:
        yield Step(f"{alter} MODIFY TTL {table.ttl}", f"set the retention of {table.name}")
    elif ttl != table.ttl:
        yield Step(f"{alter} REMOVE TTL", f"removed the retention of {table.name}")
    if window != DEDUPLICATION_WINDOW:
        yield Step(
            f"{alter} MODIFY SETTING non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}",
            f"set the deduplication window of {table.name}",
        )
    if found.comment != table.comment:
        yield Step(f"{alter} MODIFY COMMENT {literal(table.comment)}", f"set the comment of {table.name}")


def _ttl(engine_full: str) -> str:
    found = re.search(r" TTL (.+?)(?: SETTINGS |$)", engine_full)
    return found[1] if found else ""


def _window(engine_full: str) -> int:
    found = re.search(r"\bnon_replicated_deduplication_window = (\d+)", engine_full)
    return int(found[1]) if found else 0


def _view_steps(table: AnalyticsTable, view: Observed, canonical: Canonical) -> Iterator[Step]:
    if not view.engine:
        yield Step(table.view_sql, f"created the view {table.view}")
    elif view.as_select != canonical(table.view_select) or view.sql_security != "INVOKER":
        yield Step(table.view_sql, f"repaired the view {table.view}")
