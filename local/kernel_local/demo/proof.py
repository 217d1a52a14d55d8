"""A question that is asked of a real server, its answer, and whether that is the right one."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Proof:
    """``right``: the answer is what an isolated platform gives. ``milliseconds`` is how long asking took."""

    system: str
    question: str
    answer: str
    right: bool
    milliseconds: float


async def prove(
    system: str, question: str, ask: Callable[[], Awaitable[object]], expected: object, *, say: str | None = None
) -> Proof:
    """Ask, and hold the answer against ``expected``. An error is an answer: the wrong one, unless it is expected.

    ``say`` is what a person reads in place of the right answer when that speaks only to machines.
    """
    started = time.perf_counter()
    try:
        answer: object = await ask()
    except Exception as error:
        answer = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    right = answer == expected
    shown = say if right and say is not None else str(answer)
    return Proof(system, question, shown, right, (time.perf_counter() - started) * 1000)


async def refused_with(ask: Callable[[], Awaitable[object]], *errors: type[Exception]) -> str:
    """``refused`` when asking ends in one of ``errors``, else what it was answered."""
    try:
        answer = await ask()
    except errors:
        return "refused"
    return f"allowed: {answer}"
