"""What a request asks: its query string, read against the fields of the model.

    select   count, count:F, sum:F, avg:F, min:F, max:F     separated by commas
    groupBy  F or F:unit                                    separated by commas
    filter[F][operator]=value                               each of them must hold
    orderBy  a name out of select or groupBy, - before it   separated by commas
    limit    1 to 10,000

Everything that is wrong is named, with what there is instead. What comes out holds no text of the client's but values:
fields, functions, units and operators are our own objects.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from kernel_common.problems import FieldError
from kernel_common.web.problems import invalid
from kernel_data import values
from kernel_data.fields import FUNCTIONS, OPERATORS, UNITS, Field, Fields, Kind

MAX_ROWS, DEFAULT_ROWS = 10_000, 100
MAX_TERMS = 20
"""Aggregates, and filters."""
MAX_GROUPS = 8
MAX_VALUES = 100
"""Of one ``in``."""

_FILTER = re.compile(r"filter\[([^\[\]]*)\]\[([^\[\]]*)\]")
_PARAMETERS = ("select", "groupBy", "orderBy", "limit")
_COMMA = re.compile(r"(?<!\\),")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Aggregate:
    """``field`` is None for the number of records."""

    function: str
    field: Field | None

    @property
    def name(self) -> str:
        return f"{self.function}:{self.field.name}" if self.field else self.function

    @property
    def kind(self) -> Kind:
        """Of the result."""
        if self.function == "count" or self.field is None:
            return Kind.INTEGER
        if self.function == "avg":
            return Kind.DECIMAL if self.field.kind is Kind.DECIMAL else Kind.FLOAT
        return self.field.kind


@dataclass(frozen=True, slots=True)
class Group:
    """``unit``: what the field's dates or times are gathered into; None for the values themselves."""

    field: Field
    unit: str | None

    @property
    def name(self) -> str:
        return f"{self.field.name}:{self.unit}" if self.unit else self.field.name

    @property
    def kind(self) -> Kind:
        """Of the result."""
        return Kind.DATE if self.unit not in (None, "hour") else self.field.kind


Term = Aggregate | Group


@dataclass(frozen=True, slots=True)
class Condition:
    """``values`` are as ClickHouse reads parameters of the field's kind; for ``is``: ``null`` or ``notnull``."""

    field: Field
    operator: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Order:
    term: Term
    descending: bool


@dataclass(frozen=True, slots=True)
class Question:
    aggregates: tuple[Aggregate, ...]
    groups: tuple[Group, ...]
    conditions: tuple[Condition, ...]
    orders: tuple[Order, ...]
    limit: int


def read(query: Iterable[tuple[str, str]], fields: Fields) -> Question:
    """``query`` is the query string, decoded. Raises ProblemError 400."""
    return _Reader(fields).read(query)


@dataclass
class _Reader:
    fields: Fields
    errors: list[FieldError] = field(default_factory=list)

    def read(self, query: Iterable[tuple[str, str]]) -> Question:
        given: dict[str, list[str]] = {name: [] for name in _PARAMETERS}
        filters: list[tuple[str, str, str, str]] = []
        for name, value in query:
            if name in given:
                given[name].append(value)
            elif found := _FILTER.fullmatch(name):
                filters.append((_short(name), found[1], found[2], value))
            else:
                known = f"{', '.join(_PARAMETERS)} and filter[field][operator]"
                self._wrong(_short(name), f"there is no such parameter; there are {known}", "UNKNOWN_FIELD")
        aggregates = self._terms("select", given["select"], self._aggregate, MAX_TERMS) or [Aggregate("count", None)]
        groups = self._terms("groupBy", given["groupBy"], self._group, MAX_GROUPS)
        if same := {term.name for term in groups} & {term.name for term in aggregates}:
            self._wrong("select", f"{same.pop()} is in groupBy too, where it is a field; select count:id instead")
        listed: list[Term] = [*aggregates, *groups]
        terms = {term.name: term for term in listed}
        orders = self._terms("orderBy", given["orderBy"], lambda text: self._order(text, terms), MAX_TERMS)
        if len(filters) > MAX_TERMS:
            self._wrong("filter", f"there may be at most {MAX_TERMS}", "TOO_LONG")
        conditions = [c for each in filters[:MAX_TERMS] if (c := self._condition(*each)) is not None]
        limit = self._limit(given["limit"])
        if self.errors:
            raise invalid(*self.errors[:MAX_TERMS])
        return Question(tuple(aggregates), tuple(groups), tuple(conditions), tuple(orders), limit)

    def _wrong(self, where: str, message: str, code: str = "INVALID_FORMAT") -> None:
        self.errors.append(FieldError(where, message, code))

    def _terms(self, where: str, given: Sequence[str], read: Callable[[str], T | None], most: int) -> list[T]:
        """The terms of a list, each once."""
        texts = list(dict.fromkeys(text for value in given for text in value.split(",")))
        if len(texts) > most:
            self._wrong(where, f"there may be at most {most}", "TOO_LONG")
            return []
        return [term for text in texts if (term := read(text)) is not None]

    def _field(self, where: str, name: str) -> Field | None:
        found = self.fields.get(name)
        if found is None:
            there = ", ".join(self.fields)
            self._wrong(where, f"there is no field {_short(name)!r}; there are {there}", "UNKNOWN_FIELD")
        return found

    def _aggregate(self, text: str) -> Aggregate | None:
        function, colon, name = text.partition(":")
        if function not in FUNCTIONS:
            self._wrong("select", f"there is no aggregate {_short(function)!r}; there are {', '.join(FUNCTIONS)}")
            return None
        if not colon:
            if function == "count":
                return Aggregate("count", None)
            self._wrong("select", f"{function} needs a field, such as {function}:{self._example(function)}")
            return None
        found = self._field("select", name)
        if found is not None and found.kind not in FUNCTIONS[function]:
            able = ", ".join(f for f, kinds in FUNCTIONS.items() if found.kind in kinds)
            self._wrong("select", f"{function} of a {found.kind} ({found.name}) can't be had; there are {able}")
            return None
        return Aggregate(function, found) if found else None

    def _example(self, function: str) -> str:
        return next((f.name for f in reversed(list(self.fields.values())) if f.kind in FUNCTIONS[function]), "amount")

    def _group(self, text: str) -> Group | None:
        name, colon, unit = text.partition(":")
        found = self._field("groupBy", name)
        if found is None or not colon:
            return Group(found, None) if found else None
        units = UNITS.get(found.kind, ())
        if unit not in units:
            there = f"there are {', '.join(units)}" if units else "only dates and timestamps have units"
            self._wrong("groupBy", f"a {found.kind} ({found.name}) has no unit {_short(unit)!r}; {there}")
            return None
        return Group(found, unit)

    def _order(self, text: str, terms: Mapping[str, Term]) -> Order | None:
        name = text.removeprefix("-")
        if name not in terms:
            there = ", ".join(terms)
            self._wrong("orderBy", f"{_short(name)!r} is neither in select nor in groupBy; there are {there}")
            return None
        return Order(terms[name], name != text)

    def _condition(self, where: str, name: str, operator: str, value: str) -> Condition | None:
        found = self._field(where, name)
        if found is None:
            return None
        if operator not in OPERATORS[found.kind]:
            there = ", ".join(OPERATORS[found.kind])
            self._wrong(
                where, f"a {found.kind} has no operator {_short(operator)!r}; there are {there}", "UNKNOWN_OPERATOR"
            )
            return None
        try:
            return Condition(found, operator, _values(found.kind, operator, value))
        except ValueError as error:
            self._wrong(where, str(error))
            return None

    def _limit(self, given: Sequence[str]) -> int:
        if not given:
            return DEFAULT_ROWS
        text = given[0]
        if len(given) == 1 and re.fullmatch("[0-9]{1,5}", text) and 1 <= int(text) <= MAX_ROWS:
            return int(text)
        self._wrong("limit", f"must be one whole number from 1 to {MAX_ROWS}")
        return DEFAULT_ROWS


def _values(kind: Kind, operator: str, value: str) -> tuple[str, ...]:
    if operator == "is":
        if value not in ("null", "notnull"):
            raise ValueError("must be null or notnull")
        return (value,)
    if operator == "in":
        each = [part.replace("\\,", ",") for part in _COMMA.split(value)]
        if len(each) > MAX_VALUES:
            raise ValueError(f"there may be at most {MAX_VALUES} values")
        return tuple(values.read(kind, one) for one in each)
    if operator in ("like", "ilike") and (len(value) - len(value.rstrip("\\"))) % 2:
        raise ValueError("must not end with a single backslash, which is there to escape % and _")
    return (values.read(kind, value),)


def _short(text: str) -> str:
    """What a client sent, as far as it is told back."""
    return text if len(text) <= 60 else f"{text[:60]}..."
