"""One object that can't be done takes no other with it."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from kernel_operator.desired import Outcome, Unavailable
from kernel_operator.kube import TENANTS, KubeError
from kernel_operator.queue import Key
from kernel_operator.reconcile.attempt import alone, attempt, attempt_all


async def test_a_poisonous_one_fails_alone() -> None:
    async def apply(states: Sequence[str]) -> Mapping[str, Outcome]:
        if "poison" in states:
            raise RuntimeError("can't")
        return {state: Outcome([f"made {state}"]) for state in states}

    results = await attempt_all("X", apply, ["a", "poison", "b"], str)
    assert results["a"] == Outcome(["made a"])
    assert results["b"] == Outcome(["made b"])
    assert isinstance(results["poison"], RuntimeError)


async def test_a_system_that_is_away_is_asked_once() -> None:
    calls = []

    async def apply(states: Sequence[str]) -> Mapping[str, Outcome]:
        calls.append(list(states))
        raise Unavailable("X", "away")

    results = await attempt_all("X", apply, ["a", "b"], str)
    assert len(calls) == 1
    assert all(isinstance(result, Unavailable) for result in results.values())
    assert set(results) == {"a", "b"}


async def test_an_error_is_an_answer() -> None:
    async def work() -> Outcome:
        raise ValueError("bug")

    assert isinstance(await attempt("X", work()), ValueError)


async def test_nothing_asks_nothing() -> None:
    async def apply(states: Sequence[str]) -> Mapping[str, Outcome]:
        raise AssertionError("not to be called")

    assert await attempt_all("X", apply, [], str) == {}


async def test_what_takes_too_long_goes_on_later() -> None:
    async def work() -> Outcome:
        await asyncio.Event().wait()
        return Outcome()

    async with asyncio.timeout(5):
        ended = await attempt("X", work(), seconds=0.01)
    assert isinstance(ended, Unavailable)
    assert ended.system == "X"


async def test_a_time_out_of_the_work_itself_is_not_taken_for_ours() -> None:
    async def work() -> Outcome:
        raise TimeoutError

    assert isinstance(await attempt("X", work(), seconds=60), TimeoutError)


async def test_the_failure_of_an_object_is_its_own_and_the_end_of_the_process_is_not() -> None:
    key = Key(TENANTS, "", "a")

    async def fails(error: BaseException) -> None:
        raise error

    for error in (Unavailable("Kubernetes", "away"), KubeError(403, "Forbidden", "no"), RuntimeError("bug")):
        assert await alone(key, fails(error)) is error
    with pytest.raises(asyncio.CancelledError):
        await alone(key, fails(asyncio.CancelledError()))
