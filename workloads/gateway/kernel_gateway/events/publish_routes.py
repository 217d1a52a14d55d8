"""Publishing over REST."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from kernel_common.problems import BASE, TITLES, FieldError
from kernel_gateway.api.dependencies import Caller, TheServices
from kernel_gateway.api.models import Answer, Body
from kernel_gateway.api.openapi import errors
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.events import metrics
from kernel_gateway.events.publishing import MOST, NewEvent, Outcome, publish

router = APIRouter(tags=["events"])


class Batch(Body):
    events: Annotated[list[NewEvent], Field(min_length=1, max_length=MOST)]


class Published(Answer):
    """The event is on ``topic`` soon; that it will be is certain."""

    id: UUID
    topic: str


class RefusedEvent(Answer):
    """Why one event of a batch was not published: a problem, without what belongs to the whole request."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = None


class EventOutcome(Answer):
    """``topic`` where the event is published, ``problem`` where it is not."""

    id: UUID
    topic: str | None = None
    problem: RefusedEvent | None = None


class BatchOutcome(Answer):
    """``data`` in the order of the request; ``published``: how many are."""

    published: int
    data: list[EventOutcome]


@router.post(
    "/events/publish",
    status_code=202,
    summary="Publish an event for a module",
    responses=errors(400, 401, 403),
    operation_id="publishEvent",
)
async def publish_one(services: TheServices, caller: Caller, event: NewEvent) -> Published:
    [outcome] = await publish(services, caller, [event])
    if outcome.problem is not None:
        raise outcome.problem
    assert outcome.topic is not None
    metrics.published.inc()
    return Published(id=outcome.id, topic=outcome.topic)


@router.post(
    "/events/publish-batch",
    status_code=202,
    summary="Publish up to 500 events at once, each with its own outcome",
    description=(
        "What is published of them is published together. A body that is not as described publishes nothing (400); an "
        "event that may not be published, or is too large, says so in its outcome and does not hold up the others."
    ),
    responses=errors(400, 401, 403),
    response_model_exclude_none=True,
    operation_id="publishEvents",
)
async def publish_batch(services: TheServices, caller: Caller, batch: Batch) -> BatchOutcome:
    outcomes = await publish(services, caller, batch.events)
    published = sum(outcome.problem is None for outcome in outcomes)
    metrics.published.inc(published)
    return BatchOutcome(published=published, data=[_told(outcome) for outcome in outcomes])


def _told(outcome: Outcome) -> EventOutcome:
    problem = outcome.problem
    return EventOutcome(id=outcome.id, topic=outcome.topic, problem=None if problem is None else _problem(problem))


def _problem(problem: ProblemError) -> RefusedEvent:
    return RefusedEvent(
        type=BASE + problem.slug,
        title=TITLES.get(problem.slug, problem.slug),
        status=problem.status,
        detail=problem.detail,
        errors=[_field(error) for error in problem.errors] or None,
    )


def _field(error: FieldError) -> dict[str, Any]:
    return {"field": error.field, "message": error.message, "code": error.code}
