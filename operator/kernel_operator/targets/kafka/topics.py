"""Which topics there should be, and what one that is there lacks. Pure: no client, no waiting.

Three keys of a topic's configuration are ours, each set one by one; every other override that a
platform team makes stays. The number of partitions is chosen once: a key is bound to a partition by
their count, so growing it breaks the order of events of one key, and Kafka can't shrink it at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kernel_operator.desired import ModuleState, Refusal

KERNEL_DOMAINS = ("auth", "module", "money", "data", "files", "notify", "audit", "billing")
PARTITIONS = 12
DEAD_LETTER_PARTITIONS = 3
DEAD_LETTER_HOURS = 720
MAX_REPLICAS = 3


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that should exist. ``partitions`` is binding only where ``fixed``: nobody relies on the
    count of a dead-letter topic, which is read by hand."""

    name: str
    partitions: int
    retention_hours: int
    fixed: bool = True

    @property
    def dead_letters(self) -> "Topic":
        return Topic(f"{self.name}.dlq", min(DEAD_LETTER_PARTITIONS, self.partitions), DEAD_LETTER_HOURS, fixed=False)

    def config(self, replicas: int) -> dict[str, str]:
        """The keys that are ours. With three replicas a write survives the loss of one of them."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(self.retention_hours * 3_600_000),
            "min.insync.replicas": "2" if replicas >= MAX_REPLICAS else "1",
        }


@dataclass(frozen=True, slots=True)
class Observed:
    """A topic that is there. ``config`` holds effective values, defaults included."""

    partitions: int
    replicas: int
    config: dict[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """What brings one topic to where it should be; empty when it is there."""

    topic: Topic
    create: bool = False
    grow: bool = False
    config: tuple[tuple[str, str], ...] = ()

    def clauses(self) -> Iterator[str]:
        name = self.topic.name
        if self.create:
            yield f"created topic {name}"
        if self.grow:
            yield f"grew topic {name} to {self.topic.partitions} partitions"
        for key, value in self.config:
            yield f"set {key}={value} on topic {name}"


@dataclass(frozen=True, slots=True)
class Retention:
    """Hours that the kernel's own topics keep events."""

    hours: int = 168
    audit_hours: int = 720

    def kernel_topic(self, domain: str) -> Topic:
        hours = self.audit_hours if domain == "audit" else self.hours
        return Topic(f"platform.{domain}.events", PARTITIONS, hours)

    def kernel_topics(self) -> list[Topic]:
        topics = [self.kernel_topic(domain) for domain in KERNEL_DOMAINS]
        return topics + [topic.dead_letters for topic in topics]

    def module_topics(self, module: ModuleState) -> list[Topic]:
        """The topics of a module: none unless it publishes something.

        The kernel's own modules (money, notify, ...) write to the kernel's topics, which keep the
        kernel's settings. A disabled module keeps its topics: they hold its events.
        """
        if not module.publishes:
            return []
        if module.slug in KERNEL_DOMAINS:
            topic = self.kernel_topic(module.slug)
        else:
            topic = Topic(module.topic, module.partitions, module.retention_hours)
        return [topic, topic.dead_letters]


def compare(topic: Topic, observed: Observed | None, *, allow_growth: bool = False) -> Difference | Refusal:
    """What ``topic`` lacks. A refusal when only another number of partitions would do."""
    if observed is None:
        return Difference(topic, create=True)
    grow = topic.fixed and topic.partitions > observed.partitions
    if topic.fixed and topic.partitions != observed.partitions and not (grow and allow_growth):
        way_out = (
            "or annotate the module with platform-kernel.io/grow-partitions (events of one key lose their order)"
            if grow
            else "they can't be reduced"
        )
        return Refusal(
            "PartitionsFixed",
            f"spec.events.partitions: topic {topic.name} has {observed.partitions} partitions, not {topic.partitions}; "
            f"set it to {observed.partitions}, {way_out}",
        )
    wanted = topic.config(observed.replicas)
    config = tuple((key, value) for key, value in wanted.items() if observed.config.get(key) != value)
    return Difference(topic, grow=grow, config=config)
