"""The checker itself: each way in which something can be wrong is found."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from e2e_invariants import effect_differences, event_differences, plain, row_differences

A, B, C = (UUID(int=n) for n in range(1, 4))


def event(one: UUID, seq: int, key: str = "k") -> tuple[str, dict]:
    return key, {"id": str(one), "data": {"seq": seq}}


def test_rows_that_are_the_same_are_no_difference() -> None:
    row = {"a": plain(Decimal("1.5"), "numeric(20,6)")}
    assert row_differences({A: row}, {A: {"a": plain(Decimal("1.500000"), "numeric(20,6)")}}) == []


@pytest.mark.parametrize(
    ("held", "shown", "said"),
    [
        ({A: {}}, {}, "not in ClickHouse"),
        ({}, {A: {}}, "not in PostgreSQL"),
        ({A: {"a": plain(True, "boolean")}}, {A: {"a": plain(1, "boolean")}}, "a: ('bool', True)"),
        ({A: {"a": plain(1, "integer")}}, {A: {"a": plain(1.0, "integer")}}, "a: ('int', 1)"),
        ({A: {"a": None}}, {A: {"a": plain("", "text")}}, "a: None"),
        ({A: {"a": plain(0.0, "double precision")}}, {A: {"a": plain(-0.0, "double precision")}}, "-0.0"),
    ],
)
def test_a_row_that_differs_is_named(held, shown, said) -> None:
    [found] = row_differences(held, shown)
    assert said in found


def test_both_drivers_instants_are_one() -> None:
    aware, naive = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2)
    assert plain(aware, "timestamp with time zone") == plain(naive, "timestamp with time zone")


def test_events_may_come_again_in_their_order() -> None:
    committed = {A: ("k", 1), B: ("k", 2), C: ("other", 1)}
    read = [event(A, 1), event(B, 2), event(A, 1), event(B, 2), event(C, 1, "other")]
    assert event_differences(committed, read) == []


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ([event(A, 1)], "1 of 2 committed events are not on the topic"),
        ([event(B, 2), event(A, 1)], "came after seq 2"),
        ([event(A, 1), event(B, 2), event(C, 3)], "never committed"),
        ([event(A, 1, "other"), event(B, 2)], "never committed"),
    ],
)
def test_an_event_that_is_lost_invented_or_late_is_named(read, said) -> None:
    [found] = event_differences({A: ("k", 1), B: ("k", 2)}, read)
    assert said in found


@pytest.mark.parametrize(
    ("booked", "said"), [([A, B, A], "2 times"), ([A], "1 of 2 events had no effect"), ([A, B, C], "never committed")]
)
def test_an_effect_that_is_lost_or_repeated_is_named(booked, said) -> None:
    [found] = effect_differences({A, B}, booked)
    assert said in found
