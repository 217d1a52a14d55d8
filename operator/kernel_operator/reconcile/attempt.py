"""Calls of a target whose failure is the failure of that target alone."""

import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from kernel_operator import metrics
from kernel_operator.desired import Outcome, Unavailable

State = TypeVar("State")
Id = TypeVar("Id", bound=Hashable)
Result = Outcome | Exception

log = logging.getLogger(__name__)


async def attempt(system: str, work: Awaitable[Outcome]) -> Result:
    """The outcome of ``work``, or the error that ended it."""
    try:
        return await work
    except Unavailable as error:
        metrics.system_errors.labels(error.system).inc()
        return error
    except Exception as error:
        metrics.system_errors.labels(system).inc()
        log.exception("unexpected error from %s", system)
        return error


async def attempt_all(
    system: str,
    apply: Callable[[Sequence[State]], Awaitable[Mapping[Id, Outcome]]],
    states: Sequence[State],
    id_of: Callable[[State], Id],
) -> dict[Id, Result]:
    """The results of applying ``states`` together.

    When the batch fails for another reason than that the system is away, each is applied alone, so
    that one that can't be done takes no other with it.
    """
    if not states:
        return {}
    try:
        return dict(await apply(states))
    except Unavailable as error:
        metrics.system_errors.labels(error.system).inc()
        return {id_of(state): error for state in states}
    except Exception as error:
        metrics.system_errors.labels(system).inc()
        log.exception("unexpected error from %s for %d objects together", system, len(states))
        if len(states) == 1:
            return {id_of(states[0]): error}
    results: dict[Id, Result] = {}
    for state in states:
        results.update(await attempt_all(system, apply, [state], id_of))
    return results
