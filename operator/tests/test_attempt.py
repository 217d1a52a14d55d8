"""One object that can't be done takes no other with it."""

from collections.abc import Mapping, Sequence

from kernel_operator.desired import Outcome, Unavailable
from kernel_operator.reconcile.attempt import attempt, attempt_all


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
