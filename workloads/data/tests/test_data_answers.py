"""What is answered is what a plain reading of the question over the tenant's own records gives."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any

from data_world import SECRET, A, Client, Row, World
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kernel_data.fields import FUNCTIONS, OPERATORS, UNITS, Kind

KINDS = {
    "id": Kind.UUID,
    "created_at": Kind.TIMESTAMP,
    "updated_at": Kind.TIMESTAMP,
    "stage": Kind.TEXT,
    "note": Kind.TEXT,
    "score": Kind.INTEGER,
    "big": Kind.INTEGER,
    "amount": Kind.DECIMAL,
    "ratio": Kind.FLOAT,
    "won": Kind.BOOLEAN,
    "closed": Kind.DATE,
    "seen": Kind.TIMESTAMP,
    "owner": Kind.UUID,
    "extra": Kind.TEXT,
}
FIELDS = st.sampled_from(sorted(KINDS))
LARGE = 10**9


def shown(value: Any) -> Any:
    """A value as the API gives it."""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, Decimal):
        return f"{value:.6f}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def bucket(value: Any, unit: str) -> Any:
    if value is None:
        return None
    if unit == "hour":
        return value.replace(minute=0, second=0, microsecond=0)
    day = value.date() if isinstance(value, datetime) else value
    firsts: dict[str, Callable[[date], date]] = {
        "day": lambda d: d,
        "week": lambda d: d - timedelta(days=d.weekday()),
        "month": lambda d: d.replace(day=1),
        "quarter": lambda d: d.replace(month=(d.month - 1) // 3 * 3 + 1, day=1),
        "year": lambda d: d.replace(month=1, day=1),
    }
    return firsts[unit](day)


def aggregate(function: str, field: str, rows: Sequence[Row]) -> Any:
    values = [row[field] for row in rows if row[field] is not None] if field else list(rows)
    if function == "count":
        return len(values)
    if not values:
        return None
    if function in ("min", "max"):
        return min(values) if function == "min" else max(values)
    with localcontext(prec=80):
        total = math.fsum(values) if KINDS[field] is Kind.FLOAT else sum(values)
        if function == "sum":
            return total
        if KINDS[field] is Kind.DECIMAL:
            exact = (Decimal(total) / len(values)).quantize(Decimal("1e-12"), ROUND_DOWN)
            return exact.quantize(Decimal("1e-6"), ROUND_HALF_EVEN)
        return float(Decimal(total) / len(values))


def holds(row: Row, field: str, operator: str, values: Sequence[Any]) -> bool:
    value = row[field]
    if operator == "is":
        return (value is None) == (values[0] == "null")
    if value is None:
        return False
    if operator in ("like", "ilike"):
        parts = re.findall(r"\\.|.", values[0], re.DOTALL)
        wild = {"%": ".*", "_": "."}
        pattern = "".join(wild.get(part) or re.escape(part[-1]) for part in parts)
        return re.fullmatch(pattern, value, re.DOTALL | (re.IGNORECASE if operator == "ilike" else 0)) is not None
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "eq": lambda a, b: a == b,
        "neq": lambda a, b: a != b,
        "gt": lambda a, b: a > b,
        "gte": lambda a, b: a >= b,
        "lt": lambda a, b: a < b,
        "lte": lambda a, b: a <= b,
    }
    return value in values if operator == "in" else tests[operator](value, values[0])


@st.composite
def selections(draw: st.DrawFn) -> tuple[str, str]:
    function = draw(st.sampled_from(sorted(FUNCTIONS)))
    if function == "count" and draw(st.booleans()):
        return "count", ""
    return function, draw(st.sampled_from([name for name, kind in KINDS.items() if kind in FUNCTIONS[function]]))


@st.composite
def groupings(draw: st.DrawFn) -> tuple[str, str]:
    field = draw(FIELDS)
    return field, draw(st.sampled_from(["", *UNITS.get(KINDS[field], ())]))


@st.composite
def conditions(draw: st.DrawFn) -> tuple[str, str, int]:
    """A field, an operator, and a number that chooses among the values there are."""
    field = draw(FIELDS)
    return field, draw(st.sampled_from(OPERATORS[KINDS[field]])), draw(st.integers(0, 10_000))


def filtered(world: World, field: str, operator: str, choice: int) -> tuple[list[Any], str]:
    """The values of a filter, and how they are written."""
    if operator == "is":
        return [word := ("null", "notnull")[choice % 2]], word
    there = [row[field] for row in world.deals if row[field] is not None]
    if operator in ("like", "ilike"):
        word = ("%o%", "O_EN", "%\\%\\_%", "", "open", "%")[choice % 6]
        return [word], word
    if operator != "in":
        value = there[choice % len(there)]
        return [value], str(value) if isinstance(value, int | float) and not isinstance(value, bool) else written(value)
    values = there[choice % len(there) :][: 1 + choice % 4]
    return values, ",".join(written(value).replace(",", "\\,") for value in values)


def written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(shown(value))


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, int | float):
        return math.isclose(found, expected, rel_tol=1e-9)
    return bool(found == expected and type(found) is type(expected))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    select=st.lists(selections(), max_size=4, unique=True),
    groups=st.lists(groupings(), max_size=2, unique=True),
    filters=st.lists(conditions(), max_size=2),
    order=st.integers(0, LARGE),
)
@example(select=[("avg", "amount"), ("sum", "big")], groups=[("stage", "")], filters=[], order=1)
@example(select=[("min", "closed"), ("avg", "big"), ("sum", "amount")], groups=[], filters=[("id", "in", 0)], order=0)
async def test_any_question_is_answered_as_it_reads(
    a: Client,
    world: World,
    select: list[tuple[str, str]],
    groups: list[tuple[str, str]],
    filters: list[tuple[str, str, int]],
    order: int,
) -> None:
    names = [":".join(filter(None, one)) for one in select] or ["count"]
    keys = [":".join(filter(None, one)) for one in groups]
    ordered = [name for index, name in enumerate([*keys, *names]) if order >> index & 1]
    down = [bool(order >> 8 >> index & 1) for index in range(len(ordered))]
    query = [("limit", "10000")]
    query += [("select", ",".join(names))] if select else []
    query += [("groupBy", ",".join(keys))] if keys else []
    query += [("orderBy", ",".join("-" * d + n for n, d in zip(ordered, down, strict=True)))] if ordered else []
    rows = list(world.deals)
    for field, operator, choice in filters:
        values, text = filtered(world, field, operator, choice)
        query.append((f"filter[{field}][{operator}]", text))
        rows = [row for row in rows if holds(row, field, operator, values)]

    answered = await a.data(*query)

    expected: dict[tuple[Any, ...], list[Row]] = {} if groups else {(): []}
    for row in rows:
        key = tuple(bucket(row[field], unit) if unit else row[field] for field, unit in groups)
        expected.setdefault(tuple(map(shown, key)), []).append(row)
    assert len(answered) == len(expected)
    for line in answered:
        assert list(line) == [*keys, *names]
        members = expected.pop(tuple(line[key] for key in keys))
        for name, (function, field) in zip(names, select or [("count", "")], strict=True):
            wanted = shown(aggregate(function, field, members))
            assert same(line[name], wanted), (name, line[name], wanted)
    assert not expected
    if ordered and (first := ordered[0]).partition(":")[0] not in ("id", "owner"):
        column = [line[first] for line in answered]
        there = [value for value in column if value is not None]
        assert column == there + [None] * (len(column) - len(there)), "what is null comes last"
        kind = KINDS.get(first if first in keys else first.partition(":")[2])
        ranks = [Decimal(value) for value in there] if kind is Kind.DECIMAL and "count" not in first else there
        assert ranks == sorted(ranks, reverse=down[0])


async def test_without_a_record_there_is_no_minimum(a: Client) -> None:
    nothing = ("filter[stage][eq]", "nowhere")
    select = "count,count:note,sum:score,sum:amount,avg:amount,avg:ratio,min:created_at,max:stage"
    [row] = await a.data(("select", select), nothing)
    assert row == dict.fromkeys(select.split(",")) | {"count": 0, "count:note": 0}
    assert await a.data(("groupBy", "stage"), nothing) == []


async def test_groups_beyond_the_limit_are_told_of(a: Client, world: World) -> None:
    stages = sorted({row["stage"] for row in world.deals}, key=lambda text: text.encode())
    for limit, more in ((len(stages), False), (len(stages) - 1, True)):
        _, document, _ = await a.ask(("groupBy", "stage"), ("limit", str(limit)))
        assert [row["stage"] for row in document["data"]] == stages[:limit]
        assert document["meta"]["hasMore"] is more


async def test_floats_that_are_no_numbers_have_names(a: Client, world: World) -> None:
    rows = [{**world.deals[n], "ratio": value, "stage": value} for n, value in enumerate(("nan", "inf", "-inf"))]
    await world.writer.insert("module_sales__few", A, rows)
    found = await a.data(("groupBy", "stage"), ("select", "max:ratio,sum:ratio"), model="few")
    assert found == [
        {"stage": "-inf", "max:ratio": "-Infinity", "sum:ratio": "-Infinity"},
        {"stage": "inf", "max:ratio": "Infinity", "sum:ratio": "Infinity"},
        {"stage": "nan", "max:ratio": "NaN", "sum:ratio": "NaN"},
    ]


async def test_the_answer_says_what_it_cost(a: Client, b: Client, world: World) -> None:
    _, document, _ = await a.ask()
    assert document["data"] == [{"count": len(world.deals)}]
    meta = document["meta"]
    assert meta["rowsScanned"] >= len(world.deals)
    assert 0 < meta["durationMs"] < 30_000
    assert set(meta) == {"lastSyncAt", "rowsScanned", "durationMs", "hasMore"}
    _, theirs, text = await b.ask(("groupBy", "stage"))
    assert SECRET in text
    assert sum(row["count"] for row in theirs["data"]) == 260
