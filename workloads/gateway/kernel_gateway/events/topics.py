"""The topics that concern a tenant, and what their events look like."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from kernel_common.events import Envelope
from kernel_common.events.catalogue import DOMAINS, EVENTS
from kernel_common.pages import Page
from kernel_common.tenancy import tenant_transaction
from kernel_gateway.access import Identity
from kernel_gateway.api.dependencies import TheServices, requires
from kernel_gateway.api.models import Answer
from kernel_gateway.api.openapi import errors
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.events.declared import published_by

router = APIRouter(tags=["events"])

_ACTIVE = "SELECT active_modules FROM auth.effective_rights($1)"


class EventTopic(Answer):
    """``module`` is the slug of the module whose events they are; null for the kernel's own."""

    name: str
    module: str | None
    types: list[str]


class EventSchema(Answer):
    """``payload`` is the JSON Schema of ``data``; null where a module has not said what it holds."""

    type: str
    schema_version: str | None
    payload: dict[str, Any] | None


class TopicSchema(Answer):
    """``envelope`` is the JSON Schema of every event."""

    name: str
    module: str | None
    types: list[EventSchema]
    envelope: dict[str, Any]


@router.get(
    "/events/topics",
    summary="Topics with the events of the tenant's modules and of the kernel",
    responses=errors(400, 401, 403),
    operation_id="listTopics",
)
async def list_topics(
    services: TheServices, caller: Annotated[Identity, Depends(requires("events.read"))]
) -> Page[EventTopic]:
    return Page[EventTopic].whole(await _topics(services, caller))


@router.get(
    "/events/topics/{topic}",
    summary="One topic, with the schemas of its events",
    responses=errors(400, 401, 403, 404),
    operation_id="readTopic",
)
async def read_topic(
    services: TheServices,
    caller: Annotated[Identity, Depends(requires("events.read"))],
    topic: Annotated[str, Path(max_length=249, pattern=r"^platform\.[a-z][a-z0-9_]*\.events$")],
) -> TopicSchema:
    for found in await _topics(services, caller):
        if found.name == topic:
            types = [_schema(kind) for kind in found.types]
            return TopicSchema(
                name=topic, module=found.module, types=types, envelope=Envelope.model_json_schema(by_alias=True)
            )
    raise ProblemError(404, "not-found", f"the topic {topic} is neither the kernel's nor an active module's")


async def active_modules(services: Services, caller: Identity) -> list[str]:
    """Slugs, sorted."""
    async with tenant_transaction(services.pool, caller.tenant) as transaction:
        return list(await transaction.fetchval(_ACTIVE, caller.user) or ())


async def _topics(services: Services, caller: Identity) -> list[EventTopic]:
    async with tenant_transaction(services.pool, caller.tenant) as transaction:
        by_slug = await published_by(transaction)
    of_modules = [
        EventTopic(name=f"platform.{slug}.events", module=slug, types=list(module.types))
        for slug, module in by_slug.items()
        if slug not in DOMAINS
    ]
    return [*_of_kernel(), *of_modules]


def _of_kernel() -> list[EventTopic]:
    by_domain: dict[str, list[str]] = {}
    for kind, event in EVENTS.items():
        by_domain.setdefault(event.domain.name, []).append(kind)
    return [EventTopic(name=DOMAINS[name].topic, module=None, types=types) for name, types in by_domain.items()]


def _schema(kind: str) -> EventSchema:
    event = EVENTS.get(kind)
    if event is None:
        return EventSchema(type=kind, schema_version=None, payload=None)
    return EventSchema(type=kind, schema_version=event.version, payload=event.payload.model_json_schema(by_alias=True))
