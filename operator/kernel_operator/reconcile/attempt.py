"""Work whose failure is its own alone: a target's that of the target, an object's that of the object."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from kernel_common.logs import about
from kernel_operator import metrics
from kernel_operator.desired import Outcome, Unavailable
from kernel_operator.kube import KubeError
from kernel_operator.queue import Key

State = TypeVar("State")
Done = TypeVar("Done")
Id = TypeVar("Id", bound=Hashable)
Result = Outcome | Exception

log = logging.getLogger(__name__)

LOG_FIELD = {"tenants": "tenant", "kernelmodules": "module"}


def fields_of(key: Key) -> dict[str, str]:
    """The fields that every log line about the object carries."""
    fields = {LOG_FIELD[key.kind]: key.name}
    return {**fields, "namespace": key.namespace} if key.namespace else fields


async def alone(key: Key, work: Awaitable[Done]) -> Done | Exception:
    """What came of ``work`` on one object, or the error that ended it; the other objects of the batch go on."""
    try:
        return await work
    except Unavailable as error:
        return error
    except KubeError as error:
        log.warning("the API server refused a call: %s", error, extra=about(**fields_of(key)))
        return error
    except Exception as error:
        metrics.reconciles.labels(key.kind, "error").inc()
        log.exception("unexpected error", extra=about(**fields_of(key)))
        return error


async def attempt(system: str, work: Awaitable[Outcome], *, seconds: float | None = None) -> Result:
    """The outcome of ``work``, or the error that ended it. What takes longer than ``seconds`` is broken off
    and Unavailable: for work that can be long, and that goes on where it was when it is tried again."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await work
    except Unavailable as error:
        metrics.system_errors.labels(error.system).inc()
        return error
    except Exception as error:
        if isinstance(error, TimeoutError) and limit.expired():
            return Unavailable(system, "there is more to do than fits into one go; it goes on")
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
