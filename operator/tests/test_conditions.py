"""Conditions: their summary, their times, and what they keep to themselves."""

import pytest

from kernel_operator.conditions import Condition, merged, ready
from kernel_operator.desired import Refusal, Unavailable
from kernel_operator.kube import KubeError

GOOD, BAD, LATER = (
    Condition.met("DatabaseReady"),
    Condition.refused("EventsReady", Refusal("PartitionsFixed", "spec.events.partitions: ...")),
    Condition.waiting("GatewayReady", "waiting"),
)


@pytest.mark.parametrize(
    ("conditions", "status", "reason"),
    [
        ([GOOD], True, "Reconciled"),
        ([GOOD, BAD, LATER], False, "PartitionsFixed"),
        ([LATER, BAD], False, "PartitionsFixed"),
        ([GOOD, LATER], None, "Waiting"),
    ],
)
def test_ready_names_the_first_trouble(conditions: list[Condition], status: bool | None, reason: str) -> None:
    summary = ready(conditions)
    assert (summary.type, summary.status, summary.reason) == ("Ready", status, reason)


def test_the_time_moves_only_with_the_status() -> None:
    first = merged([GOOD], [], 1)
    old = [{**first[0], "lastTransitionTime": "2020-01-01T00:00:00Z"}]
    assert merged([GOOD], old, 2)[0]["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    assert merged([GOOD], old, 2)[0]["observedGeneration"] == 2
    lost = Condition.failed("DatabaseReady", Unavailable("PostgreSQL", "connection refused"))
    assert merged([lost], old, 2)[0]["lastTransitionTime"] > "2020-01-01T00:00:00Z"


def test_an_unexpected_error_is_told_by_its_type_alone() -> None:
    shown = Condition.failed("DatabaseReady", RuntimeError("postgres://u:s3cret@db"))
    assert "s3cret" not in shown.message
    assert "RuntimeError" in shown.message
    away = Condition.failed("DatabaseReady", Unavailable("PostgreSQL", "connection refused"))
    assert away.reason == "PostgreSQLUnavailable"
    assert "waiting for PostgreSQL" in away.message


def test_a_refusal_of_the_api_server_is_told_in_its_words() -> None:
    shown = Condition.failed("DatabaseReady", KubeError(403, "Forbidden", 'tenants "a" is forbidden: cannot patch'))
    assert shown.reason == "KubernetesRefused"
    assert "cannot patch" in shown.message


def test_messages_fit_the_field() -> None:
    long = merged([Condition("Ready", False, "X", "m" * 50_000)], [], 1)[0]
    assert len(long["message"]) <= 1024
