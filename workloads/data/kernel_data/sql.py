"""A question as ClickHouse SQL.

Everything that stands in the text is ours, or the name of a column that ClickHouse itself has told of; what clients
give are parameters (``{p0:String}``), which can be nothing but values. The row policy of the table keeps tenants apart;
the condition on ``tenant_id`` says the same again, and finds the tenant's rows by the primary key.
"""

import re
from dataclasses import dataclass
from uuid import UUID

from kernel_data.fields import Field, Kind
from kernel_data.question import Aggregate, Condition, Group, Question, Term
from kernel_data.values import PARAMETER_TYPES

_COMPARISONS = {
    "eq": "=",
    "neq": "!=",
    "gt": ">",
    "gte": ">=",
    "lt": "<",
    "lte": "<=",
    "like": "LIKE",
    "ilike": "ILIKE",
}
_NAME = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Statement:
    text: str
    parameters: dict[str, str]


def compose(question: Question, database: str, table: str, tenant: UUID) -> Statement:
    """One row more than the limit is asked for, to see whether there are more."""
    terms: list[Term] = [*question.groups, *question.aggregates]
    parameters = {"tenant": str(tenant)}
    where = ["tenant_id = {tenant:UUID}"]
    where += [_condition(condition, parameters) for condition in question.conditions]
    keys = [_expression(group) for group in question.groups]
    orders = [f"{_expression(order.term)} {'DESC' if order.descending else 'ASC'}" for order in question.orders]
    # Groups behind what was asked for: the same question gives the same rows in the same order.
    asked = {order.term for order in question.orders}
    orders += [f"{_expression(group)} ASC" for group in question.groups if group not in asked]
    parts = [
        f"SELECT {', '.join(map(_expression, terms))}",
        f"FROM {quoted(database)}.{quoted(f'{table}__current')}",
        f"WHERE {' AND '.join(where)}",
        f"GROUP BY {', '.join(keys)}" if keys else "",
        f"ORDER BY {', '.join(orders)}" if keys else "",
        f"LIMIT {question.limit + 1}",
    ]
    return Statement(" ".join(filter(None, parts)), parameters)


def quoted(name: str) -> str:
    """A name of ClickHouse's in backquotes. Raises ValueError for one that the platform does not make."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name that the platform makes: {name!r}")
    return f"`{name}`"


def _expression(term: Term) -> str:
    return _aggregate(term) if isinstance(term, Aggregate) else _group(term)


def _aggregate(aggregate: Aggregate) -> str:
    if aggregate.field is None:
        return "count()"
    column, kind = quoted(aggregate.field.column), aggregate.field.kind
    if aggregate.function == "count":
        return f"count({column})"
    if kind is Kind.INTEGER and aggregate.function in ("sum", "avg"):
        column = f"toInt128({column})"  # 64 bits overflow in silence
    if kind is Kind.DECIMAL and aggregate.function == "avg":
        # avg() itself would go by way of floating point.
        quotient = f"divideDecimal(sumOrNull({column}), toDecimal128(greatest(count({column}), 1), 0), 12)"
        return f"CAST(round({quotient}, 6) AS Nullable(Decimal(38, 6)))"
    # OrNull: without a record there is no minimum, not an invented zero.
    return f"{aggregate.function}OrNull({column})"


_BUCKETS = {
    "day": "toDate32({c})",
    "week": "addDays(toDate32({c}), 1 - toDayOfWeek({c}))",
    "month": "makeDate32(toYear({c}), toMonth({c}), 1)",
    "quarter": "makeDate32(toYear({c}), toQuarter({c}) * 3 - 2, 1)",
    "year": "makeDate32(toYear({c}), 1, 1)",
    "hour": "fromUnixTimestamp64Micro(toUnixTimestamp64Micro({c})"
    " - positiveModulo(toUnixTimestamp64Micro({c}), 3600000000), 'UTC')",
}
"""Not toStartOf...: those answer Date and DateTime, which end in 2149 and 2106 and begin in 1970."""


def _group(group: Group) -> str:
    column = quoted(group.field.column)
    return _BUCKETS[group.unit].replace("{c}", column) if group.unit else column


def _condition(condition: Condition, parameters: dict[str, str]) -> str:
    column = quoted(condition.field.column)
    if condition.operator == "is":
        return f"{column} IS {'NOT ' if condition.values[0] == 'notnull' else ''}NULL"
    places = [_place(condition.field, value, parameters) for value in condition.values]
    if condition.operator == "in":
        return f"{column} IN ({', '.join(places)})"
    return f"{column} {_COMPARISONS[condition.operator]} {places[0]}"


def _place(field: Field, value: str, parameters: dict[str, str]) -> str:
    name = f"p{len(parameters)}"
    parameters[name] = value
    return f"{{{name}:{PARAMETER_TYPES[field.kind]}}}"
