"""The fields of a model, as ClickHouse has them, and what can be asked of each kind."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    TEXT = "text"
    INTEGER = "integer"
    DECIMAL = "decimal"
    FLOAT = "float"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    UUID = "uuid"


@dataclass(frozen=True, slots=True)
class Field:
    """``name`` is what clients call it, ``column`` what ClickHouse does."""

    name: str
    column: str
    kind: Kind


Fields = Mapping[str, Field]
"""By name."""

_KINDS = {
    "String": Kind.TEXT,
    "Int32": Kind.INTEGER,
    "Int64": Kind.INTEGER,
    "Float64": Kind.FLOAT,
    "Bool": Kind.BOOLEAN,
    "Date32": Kind.DATE,
    "UUID": Kind.UUID,
    "Decimal(20, 6)": Kind.DECIMAL,
    "DateTime64(6, 'UTC')": Kind.TIMESTAMP,
}
_NAMES = {"record_id": "id"}
_HIDDEN = frozenset({"tenant_id"})
"""It is the caller's own in every row."""

_NUMBERS = frozenset({Kind.INTEGER, Kind.DECIMAL, Kind.FLOAT})
_ORDERED = _NUMBERS | {Kind.TEXT, Kind.DATE, Kind.TIMESTAMP}
FUNCTIONS: Mapping[str, frozenset[Kind]] = {
    "count": frozenset(Kind),
    "sum": _NUMBERS,
    "avg": _NUMBERS,
    "min": _ORDERED,
    "max": _ORDERED,
}
"""The aggregates, and the kinds that each takes."""

_DAYS = ("week", "month", "quarter", "year")
UNITS: Mapping[Kind, tuple[str, ...]] = {Kind.DATE: _DAYS, Kind.TIMESTAMP: ("hour", "day", *_DAYS)}
"""What the values of a kind can be gathered into, in UTC."""

_SAME = ("eq", "neq", "in")
_COMPARED = (*_SAME, "gt", "gte", "lt", "lte")
OPERATORS: Mapping[Kind, tuple[str, ...]] = {
    kind: (
        *(_COMPARED if kind in _ORDERED else _SAME),
        *(("like", "ilike") if kind is Kind.TEXT else ()),
        "is",
    )
    for kind in Kind
}
"""How a field of each kind can be filtered."""


def fields_of(columns: Iterable[tuple[str, str]]) -> Fields:
    """From the columns (name, type) of a table. Columns of types that the platform does not make are left out."""
    found = {}
    for column, type_ in columns:
        kind = _KINDS.get(type_.removeprefix("Nullable(").removesuffix(")") if type_.startswith("Nullable(") else type_)
        if kind is not None and column not in _HIDDEN:
            name = _NAMES.get(column, column)
            found[name] = Field(name, column, kind)
    return found
