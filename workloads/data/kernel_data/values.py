"""Values on their way in, as parameters of ClickHouse, and on their way out, as JSON. Nothing loses a digit."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from kernel_data.fields import Kind

MAX_TEXT = 1000
"""Characters of one value."""

PARAMETER_TYPES: Mapping[Kind, str] = {
    Kind.TEXT: "String",
    Kind.INTEGER: "Int64",
    Kind.DECIMAL: "Decimal(20, 6)",
    Kind.FLOAT: "Float64",
    Kind.BOOLEAN: "Bool",
    Kind.DATE: "Date32",
    Kind.TIMESTAMP: "DateTime64(6, 'UTC')",
    Kind.UUID: "UUID",
}
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_DECIMAL = re.compile(r"-?[0-9]{1,14}(\.[0-9]{1,6})?")
_FLOAT = re.compile(r"-?[0-9]{1,310}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(_DATE.pattern + r"T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_FIRST_YEAR, _LAST_YEAR = 1900, 2299
"""What ClickHouse's dates and timestamps reach."""


def _text(value: str) -> str:
    if len(value) > MAX_TEXT:
        raise ValueError(f"must have at most {MAX_TEXT} characters")
    return value


def _integer(value: str) -> str:
    if not _INTEGER.fullmatch(value) or not -(2**63) <= int(value) < 2**63:
        raise ValueError("must be a whole number of at most 64 bits")
    return str(int(value))


def _decimal(value: str) -> str:
    if not _DECIMAL.fullmatch(value):
        raise ValueError("must be a decimal with at most 14 digits before the point and 6 behind it, such as 12.50")
    return value


def _float(value: str) -> str:
    if not _FLOAT.fullmatch(value) or not math.isfinite(float(value)):
        raise ValueError("must be a number, such as 0.5 or 1e-3")
    return repr(float(value))


def _boolean(value: str) -> str:
    if value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value


def _date(value: str) -> str:
    if not _DATE.fullmatch(value) or not _reached(date.fromisoformat(value)):
        raise ValueError(f"must be a date from {_FIRST_YEAR} to {_LAST_YEAR}, such as 2026-11-24")
    return value


def _timestamp(value: str) -> str:
    if _DATE.fullmatch(value):
        value += "T00:00:00Z"
    if not _MOMENT.fullmatch(value) or not _reached(moment := _utc(value)):
        raise ValueError("must be a date, or a time with its offset, such as 2026-11-24T14:05:09Z")
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"


def _utc(value: str) -> datetime:
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except OverflowError:  # the offset leads out of the calendar
        return datetime.min


def _reached(day: date) -> bool:
    return _FIRST_YEAR <= day.year <= _LAST_YEAR


def _uuid(value: str) -> str:
    if not _UUID.fullmatch(value):
        raise ValueError("must be a UUID")
    return str(UUID(value))


_READERS: Mapping[Kind, Callable[[str], str]] = {
    Kind.TEXT: _text,
    Kind.INTEGER: _integer,
    Kind.DECIMAL: _decimal,
    Kind.FLOAT: _float,
    Kind.BOOLEAN: _boolean,
    Kind.DATE: _date,
    Kind.TIMESTAMP: _timestamp,
    Kind.UUID: _uuid,
}


def read(kind: Kind, value: str) -> str:
    """``value`` as ClickHouse reads a parameter of the kind's type. Raises ValueError with what it must be."""
    try:
        return _READERS[kind](value)
    except ValueError as error:
        if str(error).startswith("must "):
            raise
        raise ValueError(f"must be a {kind.value} that exists") from None  # such as the 30th of February


def _shown_float(value: Any) -> float | str:
    names = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return names[value] if isinstance(value, str) else float(value)


def _moment(value: Any) -> str:
    return f"{str(value).replace(' ', 'T')}Z"


SHOWN: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.DECIMAL: str,
    Kind.FLOAT: _shown_float,
    Kind.BOOLEAN: bool,
    Kind.DATE: str,
    Kind.TIMESTAMP: _moment,
    Kind.UUID: str,
}
"""From ClickHouse's JSON to ours, for what is not null: integers are numbers of any size, decimals are strings."""
