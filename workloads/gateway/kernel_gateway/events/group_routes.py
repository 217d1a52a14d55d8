"""Who listens to what, and moving a consumer group."""

import re
from datetime import UTC, datetime
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Path
from pydantic import AwareDatetime, BeforeValidator, Field, Strict, model_validator

from kernel_common.pages import Page
from kernel_gateway.access import Identity
from kernel_gateway.api.dependencies import TheServices, requires
from kernel_gateway.api.models import Answer, Body
from kernel_gateway.api.openapi import errors
from kernel_gateway.events.declared import subscribed_by
from kernel_gateway.events.groups import Group, Position, groups_of, module_of, move
from kernel_gateway.events.kafka import kafka_of
from kernel_gateway.events.owners import owns_platform, require_owner
from kernel_gateway.events.topics import active_modules

router = APIRouter(tags=["events"])


def _time(value: object) -> object:
    """Numbers would be taken for seconds or milliseconds, as their size suggests."""
    if isinstance(value, datetime) or (isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value)):
        return value
    raise ValueError("it must be a date and a time with its offset, such as 2026-01-31T12:00:00Z")


Time = Annotated[AwareDatetime, Strict(strict=False), BeforeValidator(_time)]
Topic = Annotated[str, Field(max_length=249, pattern=r"^platform\.[a-z][a-z0-9_]*\.events$")]
GroupId = Annotated[str, Path(max_length=100, pattern=r"^[a-z][a-z0-9._-]{0,99}$")]
_EARLIEST, _LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


class GroupPosition(Answer):
    """``offset`` is that of the next event to be read; null where none was committed yet. ``end``: the partition's."""

    topic: str
    partition: int
    offset: int | None
    end: int
    lag: int

    @classmethod
    def of(cls, position: Position) -> Self:
        values = {name: getattr(position, name) for name in cls.model_fields}
        return cls(**values)


class ConsumerGroup(Answer):
    """``state`` as Kafka names it: stable, empty, dead and so on."""

    id: str
    state: str
    members: int
    positions: list[GroupPosition]

    @classmethod
    def of(cls, group: Group) -> Self:
        positions = [GroupPosition.of(position) for position in group.positions]
        return cls(id=group.id, state=group.state, members=group.members, positions=positions)


class Subscription(Answer):
    """What the module ``module`` subscribes to. ``groups`` work for all tenants of the module, and are told to owners
    of the platform alone; null for others."""

    module: str
    types: list[str]
    groups: list[ConsumerGroup] | None


class Seek(Body):
    """Either ``time``, for all partitions, or ``partition`` with ``offset``."""

    topic: Topic
    time: Annotated[Time, Field(ge=_EARLIEST, le=_LATEST)] | None = None
    partition: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    offset: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        by_offset = self.partition is not None and self.offset is not None
        if by_offset == (self.time is not None) or (self.time is not None and (self.partition or self.offset)):
            raise ValueError("say time, or partition and offset")
        return self


@router.get(
    "/events/subscriptions",
    summary="What the tenant's modules subscribe to, and where their consumers are",
    responses=errors(400, 401, 403),
    operation_id="listSubscriptions",
)
async def list_subscriptions(
    services: TheServices, caller: Annotated[Identity, Depends(requires("events.read"))]
) -> Page[Subscription]:
    by_slug = await subscribed_by(services.valkey)
    modules = [slug for slug in await active_modules(services, caller) if by_slug.get(slug)]
    groups: list[Group] | None = None
    if await owns_platform(services, caller):
        groups = await groups_of(kafka_of(services), modules)
    return Page[Subscription].whole(
        [
            Subscription(
                module=slug,
                types=list(by_slug[slug]),
                groups=None if groups is None else [ConsumerGroup.of(g) for g in groups if module_of(g.id) == slug],
            )
            for slug in modules
        ]
    )


@router.post(
    "/events/subscriptions/{group}/seek",
    summary="Move a consumer group that has no active members (platform owners only)",
    responses=errors(400, 401, 403, 404, 409),
    operation_id="seekSubscription",
)
async def seek(
    services: TheServices, caller: Annotated[Identity, Depends(requires("events.seek"))], group: GroupId, wanted: Seek
) -> Page[GroupPosition]:
    await require_owner(services, caller, "a group works for all tenants of a module")
    kafka = kafka_of(services)
    place = None
    if wanted.partition is not None and wanted.offset is not None:
        place = (wanted.partition, wanted.offset)
    positions = await move(
        kafka, await subscribed_by(services.valkey), group, wanted.topic, time=wanted.time, place=place
    )
    return Page[GroupPosition].whole([GroupPosition.of(position) for position in positions])
