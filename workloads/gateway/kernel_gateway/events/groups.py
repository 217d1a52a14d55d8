"""Consumer groups of modules: where they are, and moving them.

A group is named after its module, ``{slug}.{name}``, and works for all of the module's tenants at once. So where it is
and where it goes on is for owners of the platform. It can only be moved while it has no members, which the broker
itself enforces: a consumer that is at work would go on from where it is, and commit that.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions as Positions
from confluent_kafka import KafkaError, KafkaException, TopicPartition, admin

from kernel_common.problems import FieldError
from kernel_gateway.api.problems import ProblemError, invalid
from kernel_gateway.events.kafka import ASK_SECONDS, Kafka, away

MOST_GROUPS = 100
_OFFSETS: Any = admin.OffsetSpec  # type: ignore[attr-defined]  # its names are re-exported unseen


@dataclass(frozen=True, slots=True)
class Position:
    """``offset`` is that of the next event to be read; None where nothing was committed. ``lag`` counts from there."""

    topic: str
    partition: int
    offset: int | None
    end: int

    @property
    def lag(self) -> int:
        return max(0, self.end - (self.offset or 0))


@dataclass(frozen=True, slots=True)
class Group:
    id: str
    state: str
    members: int
    positions: Sequence[Position]


def module_of(group: str) -> str:
    return group.partition(".")[0]


async def groups_of(kafka: Kafka, slugs: Collection[str]) -> list[Group]:
    """The groups of these modules, at most ``MOST_GROUPS``. Raises ProblemError (503)."""
    try:
        listed = await kafka.ask(kafka.admin.list_consumer_groups(request_timeout=ASK_SECONDS))
        if listed.errors and not listed.valid:
            raise listed.errors[0]
        names = sorted(g.group_id for g in listed.valid if module_of(g.group_id) in slugs and "." in g.group_id)
        return [await _group(kafka, name) for name in names[:MOST_GROUPS]]
    except KafkaException as error:
        raise away(str(error.args[0].name())) from None


async def _group(kafka: Kafka, name: str) -> Group:
    described = await kafka.ask(kafka.admin.describe_consumer_groups([name], request_timeout=ASK_SECONDS)[name])
    asked = kafka.admin.list_consumer_group_offsets([Positions(name)], request_timeout=ASK_SECONDS)
    committed = [place for place in (await kafka.ask(asked[name])).topic_partitions if place.error is None]
    ends = await _offsets(kafka, committed, _OFFSETS.latest())
    positions = [
        Position(place.topic, place.partition, place.offset if place.offset >= 0 else None, ends[place])
        for place in committed
        if place in ends
    ]
    positions.sort(key=lambda p: (p.topic, p.partition))
    return Group(name, described.state.name.lower(), len(described.members), positions)


async def move(
    kafka: Kafka,
    modules: Collection[str],
    group: str,
    topic: str,
    *,
    time: datetime | None = None,
    place: tuple[int, int] | None = None,
) -> list[Position]:
    """Moves ``group``, of one of ``modules``, in ``topic``: each partition to the first event at or after ``time``, or
    the one partition of ``place`` to its offset. Returns where it is then. Raises ProblemError."""
    if module_of(group) not in modules or "." not in group:
        raise ProblemError(404, "not-found", f"there is no consumer group {group} of an active module")
    try:
        described = await kafka.ask(kafka.admin.describe_consumer_groups([group], request_timeout=ASK_SECONDS)[group])
        if described.members:
            raise _busy(group)
        ends = await _ends(kafka, topic)
        wanted = await _at(kafka, topic, time, ends) if time is not None else await _one(kafka, topic, place, ends)
        asked = kafka.admin.alter_consumer_group_offsets([Positions(group, wanted)], request_timeout=ASK_SECONDS)
        altered = (await kafka.ask(asked[group])).topic_partitions
    except KafkaException as error:
        if error.args[0].code() in _WITH_MEMBERS:
            raise _busy(group) from None
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            raise ProblemError(404, "not-found", f"there is no consumer group {group}") from None
        raise away(str(error.args[0].name())) from None
    if any(place.error is not None for place in altered):
        raise _busy(group)
    return [Position(p.topic, p.partition, p.offset, ends[p.partition]) for p in wanted]


_WITH_MEMBERS = (KafkaError.NON_EMPTY_GROUP, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS)


async def _ends(kafka: Kafka, topic: str) -> dict[int, int]:
    """The end of each partition. Raises ProblemError (400) when there is no such topic."""
    metadata = await asyncio.get_running_loop().run_in_executor(None, _partitions, kafka, topic)
    if not metadata:
        raise invalid("topic", f"there is no topic {topic}", "UNKNOWN_TOPIC")
    found = await _offsets(kafka, [TopicPartition(topic, number) for number in metadata], _OFFSETS.latest())
    return {place.partition: offset for place, offset in found.items()}


def _partitions(kafka: Kafka, topic: str) -> list[int]:
    found: Any = kafka.admin.list_topics(topic, timeout=ASK_SECONDS).topics[topic]
    return sorted(found.partitions) if found.error is None else []


async def _at(kafka: Kafka, topic: str, time: datetime, ends: Mapping[int, int]) -> list[TopicPartition]:
    places = [TopicPartition(topic, number) for number in ends]
    found = await _offsets(kafka, places, _OFFSETS.for_timestamp(round(time.timestamp() * 1000)))
    # No event so late: the end.
    return [
        TopicPartition(topic, p.partition, at if (at := found[p]) >= 0 else ends[p.partition])
        for p in sorted(found, key=lambda p: p.partition)
    ]


async def _one(
    kafka: Kafka, topic: str, place: tuple[int, int] | None, ends: Mapping[int, int]
) -> list[TopicPartition]:
    assert place is not None, "a time or a place is given"
    partition, offset = place
    if partition not in ends:
        raise invalid("partition", f"{topic} has the partitions 0 to {len(ends) - 1}", "UNKNOWN_PARTITION")
    here = TopicPartition(topic, partition)
    begin = (await _offsets(kafka, [here], _OFFSETS.earliest()))[here]
    if not begin <= offset <= ends[partition]:
        message = f"the partition has the offsets {begin} to {ends[partition]}"
        raise ProblemError(
            400, "validation-error", f"offset: {message}", [FieldError("offset", message, "OUT_OF_RANGE")]
        )
    return [TopicPartition(topic, partition, offset)]


async def _offsets(kafka: Kafka, places: Collection[TopicPartition], what: Any) -> dict[TopicPartition, int]:
    if not places:
        return {}
    wanted = {TopicPartition(place.topic, place.partition): what for place in places}
    asked = kafka.admin.list_offsets(wanted, request_timeout=ASK_SECONDS)
    return {place: (await kafka.ask(future)).offset for place, future in asked.items()}


def _busy(group: str) -> ProblemError:
    return ProblemError(409, "conflict", f"{group} has active members: stop its consumers, then move it")
